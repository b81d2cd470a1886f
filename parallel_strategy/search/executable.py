"""A search space kept to what the framework can execute, so that its winner can be run."""

from dataclasses import replace
from typing import Any

from pangu.foundation.errors import UserError
from parallel_strategy.export.own_format import unsaid
from parallel_strategy.search.shapes import MeshLayout, Space
from parallel_strategy.spec.capability import outside
from parallel_strategy.spec.framework import Executes
from parallel_strategy.spec.strategy import Batch, Mesh, Pipeline, Setup, Tensor


def keep_to_framework(setup: Setup, space: Space) -> Space:
    """Return the part of a space that the setup's framework executes.

    Raises UserError where a choice has no value left, or the framework has not this model."""
    executes, name = setup.framework.executes, setup.framework.name
    if lines := [line for line in outside(setup) if line.startswith("model:")]:
        raise UserError(f"{lines[0]} (--beyond prices it all the same)")
    axes: dict[str, Any] = {axis: _sizes(getattr(space, axis), axis, executes) for axis in ("pp", "cp", "tp", "ep")}
    kept = replace(
        space,
        schedules=_among(space.schedules, executes.schedules),
        simulated=_among(space.simulated, executes.schedules),
        zero=_among(space.zero, executes.zero_stages),
        folds=space.folds and executes.expert_tensor,
        interleave=_among(space.interleave, None if executes.interleave else [1]),
        offload=_among(space.offload, None if executes.offload_optimizer else [False]),
        activation=_among(space.activation, None if executes.offload_activation else [0.0]),
        **axes,
        keeps=lambda layout, pp: _is_executed(setup, layout, pp, space.batch),
    )
    for choice in ("schedules", "zero", "interleave", "offload", "activation", "pp", "cp", "tp", "ep"):
        if not getattr(kept, choice) and getattr(space, choice):
            asked = ", ".join(map(str, getattr(space, choice)))
            raise UserError(f"{choice} {asked}: {name} executes none of these; --beyond prices them all the same")
    return kept


def is_executed(setup: Setup, space: Space) -> bool:
    """Return whether the framework executes a strategy and can be told all of it; always where nothing is kept to."""
    return space.keeps is None or (not outside(setup) and not unsaid(setup))


def sayable(setup: Setup) -> Setup:
    """Return the setup with what candidates take over from its file in a form that can be said."""
    strategy, fields = setup.strategy, unsaid(setup)
    updates: dict[str, object] = {}
    if "tensor.vocab whole" in fields:
        updates["tensor"] = strategy.tensor.model_copy(update={"vocab": "split"})
    if "zero.whole" in fields:
        updates["zero"] = strategy.zero.model_copy(update={"whole": []})
    if "recompute.mp_comm" in fields or not strategy.recompute.mp_comm:
        updates["recompute"] = strategy.recompute.model_copy(update={"mp_comm": True})
    if "overrides" in fields:
        updates["overrides"] = []
    return setup.with_strategy(strategy.model_copy(update=updates)) if updates and fields else setup


def _among(values: list, legal: list | None) -> list:
    return [value for value in values if legal is None or value in legal]


def _sizes(values: list[int], axis: str, executes: Executes) -> list[int]:
    """Return the sizes of an axis; an empty list means all, and no list is left where only larger ones were asked."""
    if executes.axes is None or axis in executes.axes:
        return values
    return _among(values or [1], [1])


def _is_executed(setup: Setup, layout: MeshLayout, pp: int, batch: int) -> bool:
    """Return whether the framework executes a layout, whatever the other choices are."""
    sizes = {"pp": pp, "dp": layout.dp, "cp": layout.cp, "tp": layout.tp, "ep": layout.ep, "etp": layout.etp}
    mesh = Mesh.model_construct(None, **sizes, order=list(layout.order))
    strategy = setup.strategy.model_copy(
        update={
            "mesh": mesh,
            "batch": Batch.model_construct(global_=batch, micro=layout.micro),
            "pipeline": Pipeline(),
            "tensor": Tensor(sequence_parallel=layout.sequence_parallel, vocab=setup.strategy.tensor.vocab),
        }
    )
    asked = setup.with_strategy(strategy)
    lines = outside(asked)
    return not any(line.startswith(("mesh", "batch", "tensor")) for line in lines) and "mesh.order" not in unsaid(asked)
