"""The proof: the same steps on one device and on the virtual devices of a strategy, compared number by number, and
every collective that was logged compared with the program's list."""

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.cost.price import network_of
from parallel_strategy.graph.collectives import Record, collectives_of
from parallel_strategy.graph.program import Program
from parallel_strategy.schedule.simulate import Deadlock
from parallel_strategy.spec.strategy import Setup
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.batch import draw_rows
from parallel_strategy.virtual.communicator import Impossible
from parallel_strategy.virtual.machine import Machine
from parallel_strategy.virtual.serial import Name, Serial, Weights, draw_weights

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
# Adam divides by √v, so where a true gradient is 0 (the keys' bias) it would blow rounding up to the learning rate
EPSILON = {"float64": 1e-8, "float32": 1e-6}


@dataclass(slots=True)
class Difference:
    """The largest difference of one kind, over the largest magnitude of what is compared (at least 1)."""

    size: float = 0.0
    where: str = ""

    def add(self, ours: np.ndarray | float, reference: np.ndarray | float, where: str) -> None:
        apart = float(np.max(np.abs(np.asarray(ours) - reference), initial=0.0))
        scale = max(1.0, float(np.max(np.abs(reference), initial=0.0)))
        if not apart / scale <= self.size:  # also where it is not a number
            self.size, self.where = apart / scale, where


@dataclass(slots=True)
class Proof:
    """What was found. `problem`: why the program could not be executed, or where its list and the log part."""

    devices: int
    dtype: str
    steps: int
    loss: Difference = field(default_factory=Difference)
    norm: Difference = field(default_factory=Difference)
    gradients: Difference = field(default_factory=Difference)
    weights: Difference = field(default_factory=Difference)
    collectives: int = 0  # logged in one step, over all ranks
    problem: str = ""
    seconds: float = 0.0

    @property
    def differences(self) -> dict[str, Difference]:
        return {"loss": self.loss, "norm": self.norm, "gradients": self.gradients, "weights": self.weights}

    @property
    def largest(self) -> float:
        return max(difference.size for difference in self.differences.values())

    @property
    def equal(self) -> bool:
        return not self.problem and self.largest <= TOLERANCE[self.dtype]


def prove(setup: Setup, dtype: str = "float64", steps: int = 2, seed: int = 1) -> Proof:
    """Run `steps` updates of the setup, at its own size, on one device and on virtual ones."""
    start = time.perf_counter()
    program, model = Program(setup), setup.model
    proof = Proof(setup.strategy.mesh.devices, dtype, steps)
    kind = np.float64 if dtype == "float64" else np.float32
    weights = draw_weights(model, kind, seed)
    adam = Adam(epsilon=EPSILON[dtype])
    serial = Serial(model, weights, adam)
    try:
        machine = Machine(program, weights, adam)
        for number in range(steps):
            rows = draw_rows(setup.strategy.batch.global_, model.seq_length, model.vocab_size, seed + number)
            alone = serial.step(rows)
            loss, norm = machine.step(rows)
            proof.loss.add(loss, alone.loss, f"step {number}")
            proof.norm.add(norm, alone.norm, f"step {number}")
            _compare(proof.gradients, machine, machine.traffic.gradients, alone.gradients, f"step {number}")
            proof.problem = proof.problem or _compare_log(machine)
        _compare(proof.weights, machine, [device.kept for device in machine.devices], serial.weights, "after all steps")
        proof.collectives = sum(len(log) for log in machine.communicator.log)
    except (Impossible, Deadlock) as error:
        proof.problem = f"{'deadlock: ' if isinstance(error, Deadlock) else ''}{error}"
    proof.seconds = time.perf_counter() - start
    return proof


def _compare(difference: Difference, machine: Machine, runs: list[Weights], whole: Weights, when: str) -> None:
    """Compare every run of every rank with its part of the whole."""
    for device, held in zip(machine.devices, runs, strict=True):
        for name, run in held.items():
            part = machine.parts.for_rank(device.rank, name[0], device.parameters[name])
            reference = device.run_of(name, part.cut(whole, machine.dtype))
            difference.add(run, reference, f"{_say(name)} on rank {device.rank}, {when}")


def _say(name: Name) -> str:
    return f"layer {name[0]} {name[1]}"


def _compare_log(machine: Machine) -> str:
    """Return the first difference between what ranks logged and what the program lists, in words; nothing where
    equal."""
    for rank, log in enumerate(machine.communicator.log):
        logged, listed = Counter(log), Counter(collectives_of(machine.program, rank))
        if logged != listed:
            for title, one, other in (("logged", logged, listed), ("listed", listed, logged)):
                for record in one - other:
                    return f"rank {rank}: {title} only: {_describe(record)}"
    return ""


def _describe(record: Record) -> str:
    return (
        f"{record.op} {record.name} over {record.axis} {list(record.group)}, {record.bytes} bytes {record.dtype}, "
        f"layer {record.layer}, {record.phase}, micro-batch {record.micro_batch}"
    )


@dataclass(frozen=True, slots=True)
class LevelTraffic:
    """What the busiest rank sends over one level of topology in a step of the strategy at its own size."""

    level: str
    op: str
    axes: tuple[str, ...]
    count: int
    gib: float


def traffic_by_level(setup: Setup) -> list[LevelTraffic]:
    program, network = Program(setup), network_of(setup, setup.strategy.mesh.devices)
    best: list[LevelTraffic] = []
    for stage in range(program.pp):
        rows: dict[tuple[str, str], list] = {}
        for record in collectives_of(program, program.groups.rank(pp=stage)):
            if record.op == "receive":
                continue
            level = network.outermost_level(*program.group(record.axis))
            row = rows.setdefault((level, record.op), [set(), 0, 0.0])
            row[0].add(record.axis)
            row[1] += 1
            row[2] += record.bytes / 2**30
        found = [LevelTraffic(*key, tuple(sorted(axes)), n, gib) for key, (axes, n, gib) in rows.items()]
        if sum(t.gib for t in found) > sum(t.gib for t in best):
            best = found
    order = ["device", *(level.level for level in setup.cluster.topology)]
    return sorted(best, key=lambda t: (order.index(t.level), -t.gib))
