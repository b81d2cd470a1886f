"""The best sharding of the operators of one transformer layer.

A transformer is a chain of equal blocks, so one block whose output layout is its own input layout is solved, exactly.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.memory import gradient_and_state_bytes
from parallel_strategy.cost.sharding import (
    COLUMNS,
    INNER,
    SCATTER,
    BlockSharding,
    Chosen,
    block_of,
    mesh_axes,
    mesh_choice,
)
from parallel_strategy.spec.strategy import Setup


@dataclass(slots=True)
class Sharding:
    """The best sharding of a block and, for comparison, the one that the mesh stands for."""

    device_matrix: tuple[int, ...]
    axes: tuple[str, ...]
    operators: list[Chosen]
    seconds: float
    mesh_seconds: float
    choices: float = 0.0  # how many combinations were open


def shard_operators(setup: Setup, room_bytes: float | None = None) -> Sharding | None:
    """Return the fastest sharding of one layer of the setup's model over the devices of a stage, or None where a
    layer is not of the plain kind or there is one device.

    `room_bytes`: what a device may hold of weights, gradients and optimizer states of one layer; the price of a byte
    is raised until the solution fits (Lagrange).
    """
    model = setup.model
    if model.experts is not None or model.latent_attention is not None or setup.strategy.mesh.cp > 1:
        return None
    axes, operators = mesh_axes(setup), block_of(setup)
    if not axes:
        return None
    framework, strategy = setup.framework, setup.strategy
    gradient, states = gradient_and_state_bytes(framework, model.compute_dtype)
    resident = framework.weight_bytes + gradient
    if strategy.zero.stage:
        states /= strategy.mesh.dp
    state_bytes = resident + (0.0 if strategy.offload.optimizer else states)
    plain = BlockSharding(setup, axes, operators, state_bytes=state_bytes)
    mesh = mesh_choice(plain)
    room = room_bytes if room_bytes is not None else 1.02 * _held(plain, mesh)
    best, choice = plain.tables.minimum()
    price = 1e-13
    while _held(plain, choice) > room and price < 1e-6:
        priced = BlockSharding(setup, axes, operators, weight_second_per_byte=price, state_bytes=state_bytes)
        _, choice = priced.tables.minimum()
        price *= 4.0
    best = plain.tables.total(choice)
    mesh_seconds = plain.tables.total(mesh)
    if _held(plain, choice) > room or best > mesh_seconds:
        choice, best = mesh, mesh_seconds
    return Sharding(
        tuple(axis.size for axis in axes),
        tuple(axis.name for axis in axes),
        plain.chosen(choice),
        best,
        mesh_seconds,
        float(np.prod([float(len(options)) for options in plain.options.values()])),
    )


def _held(block: BlockSharding, choice: dict[str, int]) -> float:
    """Return the bytes of weights and what belongs to them that one device holds of the block."""
    total = 0.0
    for operator in block.operators:
        if operator.inner:
            does = block.options[operator.name][choice[operator.name]]
            cut = int(block.parts(does[None], (COLUMNS, INNER, SCATTER))[0])
            total += operator.inner * operator.columns / cut * block.state_bytes
    return total
