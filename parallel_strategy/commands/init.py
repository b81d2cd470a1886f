"""Write a commented strategy file to start from; with --copy-presets also the model's, the cluster's and the
framework's, to edit. --like starts from a strategy that ships, as the paper's for 200B.

An editor checks and completes these files with the schemas that --schema writes: the first line of a file then is
`# yaml-language-server: $schema=schemas/strategy.schema.json`.

example:
  python -m parallel_strategy init strategy.yaml
  python -m parallel_strategy init --list
  python -m parallel_strategy init schemas --schema
  python -m parallel_strategy init paper.yaml --like pangu-alpha-200b-paper
  python -m parallel_strategy init strategy.yaml --model pangu-alpha-13b --cluster atlas-800t-a2-910b2
"""

import argparse
import json
from typing import TYPE_CHECKING

from pangu.foundation.field_arguments import add_set, commented
from parallel_strategy.spec.file import SpecFile

if TYPE_CHECKING:
    from parallel_strategy.spec.strategy import StrategySpec

HEAD = """\
# How a model is laid over a cluster. Every value can be edited; `predict` says what it costs.
# What stands here as a default may be left out; a line that begins with # is a field that is not given.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategy", nargs="?", help="file to write")
    parser.add_argument("--like", metavar="STRATEGY", help="a strategy that ships; `--list` shows them")
    parser.add_argument("--model", default="pangu-alpha-2.6b", help="preset; `--list` shows them")
    parser.add_argument("--cluster", default="atlas-800-910a", help="preset")
    parser.add_argument("--framework", default="mindspore", help="preset")
    add_set(parser, "mesh.pp 2")
    parser.add_argument(
        "--copy-presets", action="store_true", help="also write model.yaml, cluster.yaml and framework.yaml beside it"
    )
    parser.add_argument("--force", action="store_true", help="overwrite")
    parser.add_argument("--list", action="store_true", help="the presets, and nothing else")
    parser.add_argument(
        "--schema", action="store_true", help="JSON schemas of all four kinds of file, into this directory"
    )


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from pangu.foundation.errors import UserError
    from parallel_strategy.report.output import write_whole
    from parallel_strategy.spec.cluster import ClusterSpec
    from parallel_strategy.spec.even_parts import uneven_parts
    from parallel_strategy.spec.framework import FrameworkSpec
    from parallel_strategy.spec.model import ModelSpec
    from parallel_strategy.spec.schema import SCHEMAS, schema_of
    from parallel_strategy.spec.strategy import StrategySpec

    if arguments.strategy is None and not arguments.list:
        raise UserError("init: give the file to write, or --list")
    if arguments.schema:
        for name, kind in SCHEMAS.items():
            target = Path(arguments.strategy) / f"{name}.schema.json"
            write_whole(target, json.dumps(schema_of(kind), indent=1) + "\n")
            print(f"wrote {target}")
        return 0
    if arguments.list:
        kinds: dict[str, type[SpecFile]] = {
            "models": ModelSpec, "clusters": ClusterSpec, "frameworks": FrameworkSpec, "strategies": StrategySpec,
        }  # fmt: skip
        for title, kind in kinds.items():
            print(f"{title}: {', '.join(kind.preset_names())}")
        return 0
    model, cluster = ModelSpec.preset(arguments.model), ClusterSpec.preset(arguments.cluster)
    FrameworkSpec.preset(arguments.framework)
    tp = min(cluster.topology[0].size, 8)

    def is_even(tp: int) -> bool:
        return model.num_heads % tp == 0 and not any(uneven_parts(model, tp, 1, sequence_parallel=False))

    while not is_even(tp):
        tp //= 2
    devices = max(tp, min(cluster.devices_per_server, cluster.device_count))
    wider = [size for size in (2 * tp, 4 * tp) if is_even(size) and size <= min(devices, 8)]
    # The first that fits; else what one would begin with.
    dtype = cluster.device.nearest_dtype(model.compute_dtype)
    strategies = [
        strategy_of(arguments, None if dtype == model.compute_dtype else dtype, size, max(1, devices // size), offload)
        for offload in (False, True)
        for size in (tp, *wider)
    ]
    strategy = next(filter(_fits, strategies), strategies[0])
    path = Path(arguments.strategy)
    files = {}
    if arguments.copy_presets:
        if arguments.like is not None:
            raise UserError("init: give --like or --copy-presets, not both")
        for name, chosen, kind in (
            ("model", arguments.model, ModelSpec),
            ("cluster", arguments.cluster, ClusterSpec),
            ("framework", arguments.framework, FrameworkSpec),
        ):
            files[path.parent / f"{name}.yaml"] = _preset_text(kind, chosen)
        strategy = with_files(strategy)
    if arguments.like is not None:
        StrategySpec.preset(arguments.like)
        files[path] = _preset_text(StrategySpec, arguments.like)
    else:
        files[path] = HEAD + commented(strategy, hides_null=True)
    for target in files:
        if target.exists() and not arguments.force:
            raise UserError(f"{target}: exists; --force overwrites it")
    for target, content in files.items():
        write_whole(target, content)
        print(f"wrote {target}")
    return 0


def strategy_of(arguments: argparse.Namespace, dtype: str | None, tp: int, dp: int, offload: bool) -> "StrategySpec":
    """Return the strategy to begin with, and what `--set` says otherwise."""
    from pangu.foundation.settings import changed, checked
    from pangu.foundation.yaml_document import Document
    from parallel_strategy.spec.strategy import StrategySpec

    fields = {
        "model": {"preset": arguments.model, "dtype": dtype},
        "cluster": {"preset": arguments.cluster},
        "framework": arguments.framework,
        "batch": {"global": 16 * dp, "micro": 1},
        "mesh": {"pp": 1, "dp": dp, "tp": tp, "order": ["pp", "dp", "tp"]},
        "zero": {"optimizer_shard": True},
        "recompute": {"mode": "full"},
        "offload": {"optimizer": offload},
    }
    return checked(StrategySpec, changed(Document("init", fields), arguments.set))


def with_files(strategy: "StrategySpec") -> "StrategySpec":
    """Return the same strategy with the files beside it in place of presets."""
    model = strategy.model.model_copy(update={"preset": None, "file": "model.yaml"})
    cluster = strategy.cluster.model_copy(update={"preset": None, "file": "cluster.yaml"})
    return strategy.model_copy(update={"model": model, "cluster": cluster, "framework": "framework.yaml"})


def _fits(strategy: "StrategySpec") -> bool:
    """Return whether a strategy is legal and fits into memory."""
    from pathlib import Path

    from pangu.foundation.errors import UserError
    from parallel_strategy.predict import Prediction
    from parallel_strategy.spec.strategy import Setup

    try:
        return not Prediction(Setup.resolve(strategy, Path())).out_of_memory
    except UserError:
        return False


def _preset_text(kind: type[SpecFile], name: str) -> str:
    return (kind.presets_directory() / f"{name}.yaml").read_text(encoding="utf-8")
