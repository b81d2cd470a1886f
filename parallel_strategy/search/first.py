"""The strategy that one begins with: legal, the first of a few that fits, and nothing searched yet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pangu.foundation.errors import UserError
from pangu.foundation.settings import changed, checked
from pangu.foundation.yaml_document import YamlDocument
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.even_parts import uneven_parts
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec

HEAD = """\
# How a model is laid over a cluster. Every value can be edited; `predict` says what it costs.
# What stands here as a default may be left out; a line that begins with # is a field that is not given.
"""

Changes = Iterable[Sequence[str]]


@dataclass(frozen=True)
class Presets:
    """Presets of the cluster and of the framework."""

    cluster: str
    framework: str


def first_strategy(
    model: ModelSpec, cluster: ClusterSpec, choice: dict[str, str], place: Presets, changes: Changes
) -> StrategySpec:
    """Return the first that fits of a few for one server. choice: the model's section. changes: those of `--set`."""
    tp = min(cluster.topology[0].size, 8)

    def is_even(tp: int) -> bool:
        return model.num_heads % tp == 0 and not any(uneven_parts(model, tp, 1, sequence_parallel=False))

    while not is_even(tp):
        tp //= 2
    devices = max(tp, min(cluster.devices_per_server, cluster.device_count))
    wider = [size for size in (2 * tp, 4 * tp) if is_even(size) and size <= min(devices, 8)]
    dtype = cluster.device.nearest_dtype(model.compute_dtype)
    choice = choice | ({} if dtype == model.compute_dtype else {"dtype": dtype})
    strategies = [
        _strategy(choice, place, size, max(1, devices // size), offload, changes)
        for offload in (False, True)
        for size in (tp, *wider)
    ]
    return next((one for one in strategies if _fits(one, model, cluster)), strategies[0])


def _strategy(
    choice: dict[str, str], place: Presets, tp: int, dp: int, offload: bool, changes: Changes
) -> StrategySpec:
    """Return a strategy, and what `--set` says otherwise."""
    fields: dict[str, Any] = {
        "model": choice,
        "cluster": {"preset": place.cluster},
        "framework": place.framework,
        "batch": {"global": 16 * dp, "micro": 1},
        "mesh": {"pp": 1, "dp": dp, "tp": tp, "order": ["pp", "dp", "tp"]},
        "zero": {"optimizer_shard": True},
        "recompute": {"mode": "full"},
        "offload": {"optimizer": offload},
    }
    strategy: StrategySpec = checked(StrategySpec, changed(YamlDocument("init", fields), changes))
    return strategy


def _fits(strategy: StrategySpec, model: ModelSpec, cluster: ClusterSpec) -> bool:
    """Return whether a strategy is legal and fits into memory."""
    try:
        return not Prediction(setup_of(strategy, model, cluster)).out_of_memory
    except UserError:
        return False


def setup_of(strategy: StrategySpec, model: ModelSpec, cluster: ClusterSpec) -> Setup:
    """Return a strategy with its model, before there are files. Raises UserError where they contradict each other."""
    updates = {"seq_length": strategy.model.seq, "compute_dtype": strategy.model.dtype}
    model = model.model_copy(update={name: value for name, value in updates.items() if value is not None})
    framework = FrameworkSpec.preset(strategy.framework)
    strategy.check_model(model)
    strategy.check_stages(model)
    strategy.check_parts(model, cluster)
    return Setup(model=model, cluster=cluster, framework=framework, strategy=strategy)
