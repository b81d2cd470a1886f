"""The interpreter: N virtual devices in one process walk the program's nodes, in the order of the pipeline schedule.

The ranks of a stage go node by node together; stages run as their lists allow, a message waiting where it arrives. A
stage that can never go on is a deadlock. Every collective is logged as each of its ranks sees it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.graph.collectives import group_of
from parallel_strategy.graph.operator import Block, Collective, Kernel
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.tasks import TaskNode, Tasks
from parallel_strategy.schedule.orders import Task, order_of
from parallel_strategy.schedule.simulate import Deadlock
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.batch import Tokens, predictions, tokens_of
from parallel_strategy.virtual.communicator import Communicator, Impossible, describe
from parallel_strategy.virtual.kernels import ends
from parallel_strategy.virtual.serial import Weights
from parallel_strategy.virtual.state import VirtualDevice
from parallel_strategy.virtual.values import KERNELS, Stream, Values, exchange_of
from parallel_strategy.virtual.weight_reduction import WeightTraffic
from parallel_strategy.virtual.weights import Parts

KEPT = ("final.norm.input", "query_embedding")  # by a pruned recomputation (`graph.recompute.IN_FRONT`)


@dataclass(slots=True)
class Layer:
    """A layer's values on all ranks of its stage, from forward to the last of its backward."""

    values: dict[int, Values]
    entries: dict[int, np.ndarray] = field(default_factory=dict)  # of a recomputed layer, all that is kept


@dataclass(slots=True)
class Passing:
    """One micro-batch in one chunk."""

    streams: dict[int, Stream]
    layers: dict[int, Layer] = field(default_factory=dict)


class Machine:
    """Virtual devices with the weights of a model. `communicator.log`: what each rank sent and received in the last
    step; `traffic.gradients`: what its optimizer was given."""

    def __init__(self, program: Program, weights: Weights, adam: Adam | None = None) -> None:
        self.program, self.adam = program, adam or Adam()
        self.dtype = next(iter(weights.values())).dtype.type
        strategy = program.setup.strategy
        self.order = order_of(strategy.pipeline.schedule, program.pp, program.chunks_per_stage, strategy.micro_batches)
        self.tasks, self.parts, self.groups = Tasks(program), Parts(program), program.groups
        self.stages = [self.groups.ranks_of_stage(stage) for stage in range(program.pp)]
        self.devices = [
            VirtualDevice.build(program, self.parts, rank, weights, self.dtype) for rank in range(strategy.mesh.devices)
        ]
        self.seen = 0  # rows of the steps before
        partial = program.setup.framework.partial_gradients
        self.share = 1.0 / (program.shard.tp * program.group("weights")[0]) if partial else 1.0
        self.communicator = Communicator(program)
        self.traffic = WeightTraffic(program, self.devices, self.communicator)

    def step(self, rows: np.ndarray) -> tuple[float, float]:
        """Make one update on all rows [batch.global, S + 1]. Returns the loss and the global norm of its gradient."""
        self.communicator.start()
        self.rows, self.divisor = rows, predictions(rows)
        self.mail: dict[tuple[int, str, int, int], np.ndarray] = {}
        self.passing: dict[tuple[int, int], Passing] = {}
        self.done: set[Task] = set()
        self.slices: dict[tuple[int, int, int], Tokens] = {}
        for device in self.devices:
            device.loss = 0.0
        self._run_schedule()
        for device in self.devices:
            if device.level >= 2:
                left = [name for name in device.gradients if device.cuts[name].shards > 1]
                if left:
                    raise Impossible(f"rank {device.rank}: the last gradient of {left[0]} was never reduced")
        self.seen += len(rows)
        norm = self.traffic.finish(self.adam, rows)
        return self.devices[self.stages[self.program.chunks[-1].stage][0]].loss, norm

    # --- schedule ---

    def _run_schedule(self) -> None:
        position = [0] * len(self.order)
        while any(place < len(tasks) for place, tasks in zip(position, self.order, strict=True)):
            moved = False
            for stage, tasks in enumerate(self.order):
                while position[stage] < len(tasks) and self._ready(tasks[position[stage]], stage):
                    self._run(tasks[position[stage]], stage)
                    self.done.add(tasks[position[stage]])
                    position[stage] += 1
                    moved = True
            if not moved:
                stuck = [
                    f"stage {stage} waits for {tasks[position[stage]]}"
                    for stage, tasks in enumerate(self.order)
                    if position[stage] < len(tasks)
                ]
                raise Deadlock("; ".join(stuck))

    def _ready(self, task: Task, stage: int) -> bool:
        kind, chunk, micro = task
        if kind == "W":
            return Task("B", chunk, micro) in self.done
        if kind == "B" and Task("F", chunk, micro) not in self.done:
            return False
        other = chunk - 1 if kind == "F" else chunk + 1
        if not 0 <= other < len(self.program.chunks):
            return True
        if self.program.chunks[other].stage == stage:
            return Task(kind, other, micro) in self.done
        what = "activation" if kind == "F" else "gradient"
        return all((rank, what, chunk, micro) in self.mail for rank in self.stages[stage])

    def _run(self, task: Task, stage: int) -> None:
        kind, chunk, micro = task
        ranks = self.stages[stage]
        if kind == "F":
            self.passing[chunk, micro] = Passing({rank: Stream() for rank in ranks})
        passing = self.passing[chunk, micro]
        last = len(self.program.chunks) - 1
        if kind == "F" and chunk and self.program.chunks[chunk - 1].stage == stage:
            for rank in ranks:
                passing.streams[rank].hidden = self.passing[chunk - 1, micro].streams[rank].hidden
        if kind == "B" and chunk < last and self.program.chunks[chunk + 1].stage == stage:
            for rank in ranks:
                passing.streams[rank].gradient = self.passing[chunk + 1, micro].streams[rank].gradient
        run: list[TaskNode] = []
        for step in self.tasks.steps(kind, chunk):  # runs of nodes of one block
            if run and (run[0].layer, run[0].block) != (step.layer, step.block):
                self._block(run, kind, chunk, micro, ranks)
                run = []
            run.append(step)
        if run:
            self._block(run, kind, chunk, micro, ranks)
        if kind == "W" or (kind == "B" and not self.tasks.split):
            passing.layers.clear()

    # --- blocks ---

    def _block(self, steps: list[TaskNode], kind: str, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        """Run consecutive nodes of one block in one task."""
        block, layer = steps[0].block, steps[0].layer
        passing = self.passing[chunk, micro]
        if block is None:
            for step in steps:
                self._boundary(step, chunk, micro, ranks)
            return
        here = self._layer(passing, block, layer, chunk, micro, ranks)
        recomputed = self._is_recomputed(chunk, layer, block)
        whole = recomputed and self.program.setup.strategy.recompute.mode == "full"
        if kind == "F":
            if whole:
                here.entries = {rank: self._entry(here.values[rank], passing.streams[rank].hidden) for rank in ranks}
            self._each(here, ends.enter_forward, ranks)
        elif kind == "B":
            self._each(here, ends.enter_backward, ranks)
            if whole and not self.program.recompute_gather:
                for rank in ranks:
                    here.values[rank].stream.hidden = here.entries[rank]
        computed = False
        for step in steps:
            if isinstance(step.work, Kernel):
                self._kernel(step, here, ranks, micro)
                computed = True
            elif step.work.name.startswith(("weights.", "gradients.")):
                self.traffic.exchange(step, chunk, micro, ranks)
            elif step.work.name == "recompute.input":
                self._gather_entry(step, here, chunk, micro, ranks)
            else:
                self._exchange(step, here, chunk, micro, ranks)
        if kind == "F":
            self._each(here, ends.leave_forward, ranks)
            for rank in ranks:
                normed = here.values[rank].made.get("final.norm")  # what the layer itself begins with
                if whole and normed is not None and self.program.setup.framework.recompute_pruned:
                    here.entries[rank] = self._entry(here.values[rank], normed)
                self._forget(here.values[rank], block, recomputed)
                self.devices[rank].loss += here.values[rank].loss
        elif kind == "B" and computed:
            self._each(here, ends.leave_backward, ranks)
        self.traffic.release(block, layer, ranks)

    def _layer(
        self, passing: Passing, block: Block, layer: int, chunk: int, micro: int, ranks: tuple[int, ...]
    ) -> Layer:
        key = layer if block.kind != "embedding" else -1
        if key not in passing.layers:
            values = {rank: self._values(passing.streams[rank], block, layer, rank, micro) for rank in ranks}
            passing.layers[key] = Layer(values)
        return passing.layers[key]

    def _values(self, stream: Stream, block: Block, layer: int, rank: int, micro: int) -> Values:
        program, groups = self.program, self.groups
        tensor, shard = groups.coordinate("tp", rank), program.shard
        tokens = self._tokens(groups.coordinate("dp", rank), groups.coordinate("cp", rank), micro)
        own = tokens.part(tensor, shard.tp) if shard.tokens_split else tokens
        split = shard.vocab_split and shard.tp > 1
        rows = -(-program.model.vocab_size // shard.tp)
        return Values(
            program.model, self.devices[rank], stream, layer, block.kind, tokens, own, tensor, shard.tp,
            groups.members("etp", rank).index(rank), tensor * rows if split else None, program.setup.model.vocab_size,
            self.divisor, self.share, program.setup.framework.partial_gradients,
            shard.biases_sum(program.setup.framework),
        )  # fmt: skip

    def _tokens(self, data: int, context: int, micro: int) -> Tokens:
        """Return the rows of a micro-batch on one data-parallel rank, and of them one context-parallel slice."""
        key = (data, context, micro)
        if key not in self.slices:
            batch = self.program.setup.strategy.batch
            first = data * (batch.global_ // self.program.setup.strategy.mesh.dp) + micro * batch.micro
            whole = tokens_of(self.rows[first : first + batch.micro], self.dtype, self.seen + first)
            self.slices[key] = whole.part(context, self.program.shard.cp)
        return self.slices[key]

    def _each(self, here: Layer, hook: Callable[[Values], None], ranks: Iterable[int]) -> None:
        for rank in ranks:
            try:
                hook(here.values[rank])
            except (KeyError, ValueError, AssertionError) as error:
                layer = here.values[rank].layer
                raise Impossible(f"rank {rank}, layer {layer}: {hook.__name__}: {error!r}") from error

    def _kernel(self, step: TaskNode, here: Layer, ranks: tuple[int, ...], micro: int) -> None:
        run = KERNELS.get(step.work.name)
        if run is None:
            raise Impossible(f"no virtual kernel for {step.work.name!r}")
        for rank in ranks:
            try:
                run(here.values[rank])
            except (KeyError, ValueError, AssertionError) as error:
                raise Impossible(f"{describe(step, rank, micro)}: {step.work.name}: {error!r}") from error

    # --- recomputation ---

    def _is_recomputed(self, chunk: int, layer: int, block: Block) -> bool:
        pieces = self.program.chunks[chunk].pieces
        return any(p.block is block and p.first <= layer < p.first + p.recomputed for p in pieces)

    def _entry(self, values: Values, hidden: np.ndarray | None) -> np.ndarray:
        """Return what a recomputed layer keeps of its input."""
        assert hidden is not None
        return np.split(hidden, values.tensors, axis=-1)[values.tensor] if self.program.recompute_gather else hidden

    def _forget(self, values: Values, block: Block, recomputed: bool) -> None:
        """Forget what backward must not find: all of a recomputed layer, and what is gathered again."""
        recompute = self.program.setup.strategy.recompute
        if recomputed and recompute.mode == "selective":
            for name in ("attention.probabilities", "attention.dropped"):
                values.made.pop(name, None)
        elif recomputed:
            kept = KEPT if self.program.setup.framework.recompute_pruned else ()
            values.made = {name: array for name, array in values.made.items() if name in kept}
            if not recompute.mp_comm:  # what collectives made is kept
                return
            values.sent.clear()
        for node in block.forward:
            if not isinstance(node, Collective) or node.name.startswith("experts."):
                continue
            if self.program.setup.framework.partial_gradients:
                continue  # all that is gathered is kept
            if node.op == "all_gather" and node.axis in ("tp", "cp"):
                for value in exchange_of(node).values:
                    values.sent.pop(value, None)

    def _gather_entry(self, step: TaskNode, here: Layer, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        parts = {rank: [here.entries[rank]] for rank in ranks}
        whole = self.communicator.collect(step, chunk, micro, ranks, parts, along=-1)
        for rank in ranks:
            here.values[rank].stream.hidden = whole[rank][0]

    # --- collectives ---

    def _exchange(self, step: TaskNode, here: Layer, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        """Run a collective of a block."""
        assert isinstance(step.work, Collective)
        exchange = exchange_of(step.work)
        again = step.work.name.endswith(".again.gradient")
        arrays: dict[int, list[np.ndarray]] = {}
        for rank in ranks:
            values = here.values[rank]
            if exchange.prepare is not None and not again:
                exchange.prepare(values)
            try:
                arrays[rank] = [values.made[n] if again else values.read(n) for n in exchange.values]
            except KeyError as error:
                raise Impossible(f"{describe(step, rank, micro)}: {step.work.name} lacks {error}") from error
        results = self.communicator.collect(
            step, chunk, micro, ranks, arrays, along=exchange.along, maximum=exchange.maximum
        )
        for rank in ranks:
            here.values[rank].sent.update(zip(exchange.values, results[rank], strict=True))

    def _boundary(self, step: TaskNode, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        """Run sends, receives, and what the tensor group gathers of a boundary that was sent in parts."""
        work = step.work
        assert isinstance(work, Collective)
        if work.name.startswith(("weights.", "gradients.")):
            self.traffic.exchange(step, chunk, micro, ranks)
            return
        streams = self.passing[chunk, micro].streams
        what = "activation" if work.name.endswith("activation") else "gradient"
        attribute = "hidden" if what == "activation" else "gradient"
        if work.op == "all_gather":
            parts = {rank: [getattr(streams[rank], attribute)] for rank in ranks}
            whole = self.communicator.collect(step, chunk, micro, ranks, parts, along=-1)
            for rank in ranks:
                setattr(streams[rank], attribute, whole[rank][0])
            return
        for rank in ranks:
            source, target = group_of(self.program, work, rank, chunk)
            if work.op == "send":
                array = getattr(streams[rank], attribute)
                if self.program.boundary_scattered:
                    array = np.split(array, self.program.shard.tp, axis=-1)[self.groups.coordinate("tp", rank)]
                to = chunk + 1 if what == "activation" else chunk - 1
                self.mail[target, what, to, micro] = array
            else:
                array = self.mail.pop((target, what, chunk, micro))
                setattr(streams[rank], attribute, array)
            self.communicator.record(step, (source, target), array.size, rank, micro)
