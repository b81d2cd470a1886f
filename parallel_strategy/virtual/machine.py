"""The interpreter: N virtual devices in one process walk the program's nodes, in the order of the pipeline schedule.

The ranks of a stage go node by node together; stages run as their lists allow, a message waiting where it arrives. A
stage that can never go on is a deadlock. Every collective is logged as each of its ranks sees it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.graph.collectives import OUTSIDE, Record, group_of
from parallel_strategy.graph.operator import Block, Collective, Kernel
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.sharding import WORD_TABLES, step_collectives
from parallel_strategy.graph.tasks import Step, Tasks
from parallel_strategy.schedule.orders import Task, order_of
from parallel_strategy.schedule.simulate import Deadlock
from parallel_strategy.spec.model import BYTES
from parallel_strategy.virtual import kernels
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.batch import Tokens, predictions, tokens_of
from parallel_strategy.virtual.exchange import COLLECTIVES, all_reduce_maximum
from parallel_strategy.virtual.kernels import Stream, Values, exchange_of
from parallel_strategy.virtual.serial import Name, Weights
from parallel_strategy.virtual.state import Device
from parallel_strategy.virtual.weights import Parts


class Impossible(RuntimeError):
    """A node that cannot be executed: what it needs is not there, or does not fit. The message says which."""


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
    """Virtual devices with the weights of a model. `log[rank]`: what the rank sent and received in the last step."""

    def __init__(self, program: Program, weights: Weights, adam: Adam | None = None) -> None:
        self.program, self.adam = program, adam or Adam()
        self.dtype = next(iter(weights.values())).dtype.type
        strategy = program.question.strategy
        self.order = order_of(strategy.pipeline.schedule, program.pp, program.chunks_per_stage, strategy.micro_batches)
        self.tasks, self.parts, self.groups = Tasks(program), Parts(program), program.groups
        self.stages = [self.groups.ranks_of_stage(stage) for stage in range(program.pp)]
        self.devices = [
            Device.build(program, self.parts, rank, weights, self.dtype) for rank in range(strategy.mesh.devices)
        ]
        self.log: list[list[Record]] = []

    def step(self, rows: np.ndarray) -> tuple[float, float]:
        """One update on all rows [batch.global, S + 1]. Returns the loss and the global norm of its gradient."""
        self.log = [[] for _ in self.devices]
        self.rows, self.divisor = rows, predictions(rows)
        self.mail: dict[tuple[int, str, int, int], np.ndarray] = {}
        self.passing: dict[tuple[int, int], Passing] = {}
        self.done: set[Task] = set()
        self.slices: dict[tuple[int, int, int], Tokens] = {}
        for device in self.devices:
            device.loss = 0.0
        self._run_schedule()
        left = [device.rank for device in self.devices if device.level >= 2 and device.gradients]
        if left:
            raise Impossible(f"rank {left[0]}: gradients of the last micro-batches were never reduced")
        return self._finish()

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
        run: list[Step] = []
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

    def _block(self, steps: list[Step], kind: str, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        """Consecutive nodes of one block in one task."""
        block, layer = steps[0].block, steps[0].layer
        passing = self.passing[chunk, micro]
        if block is None:
            for step in steps:
                self._boundary(step, chunk, micro, ranks)
            return
        here = self._layer(passing, block, layer, chunk, micro, ranks)
        recomputed = self._is_recomputed(chunk, layer, block)
        if kind == "F":
            if recomputed:
                here.entries = {rank: self._entry(here.values[rank]) for rank in ranks}
            self._each(here, kernels.enter_forward, ranks)
        elif kind == "B":
            self._each(here, kernels.enter_backward, ranks)
            if recomputed:
                self._restore(here, steps, ranks)
        computed = False
        for step in steps:
            if isinstance(step.work, Kernel):
                self._kernel(step, here, ranks, micro)
                computed = True
            elif step.work.name.startswith(("weights.", "gradients.")):
                self._weights(step, chunk, micro, ranks)
            elif step.work.name == "recompute.input":
                self._gather_entry(step, here, chunk, micro, ranks)
            else:
                self._exchange(step, here, chunk, micro, ranks)
        if kind == "F":
            self._each(here, kernels.leave_forward, ranks)
            for values in here.values.values():
                self._forget(values, block, recomputed)
                self.devices[self._rank_of(here, values)].loss += values.loss
        elif kind == "B" and computed:
            self._each(here, kernels.leave_backward, ranks)
        self._release(block, layer, ranks)

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
            tensor * rows if split else None, program.question.model.vocab_size, self.divisor,
        )  # fmt: skip

    def _tokens(self, data: int, context: int, micro: int) -> Tokens:
        """The rows of a micro-batch on one data-parallel rank, and of them one context-parallel slice."""
        key = (data, context, micro)
        if key not in self.slices:
            batch = self.program.question.strategy.batch
            first = data * (batch.global_ // self.program.question.strategy.mesh.dp) + micro * batch.micro
            whole = tokens_of(self.rows[first : first + batch.micro], self.dtype)
            self.slices[key] = whole.part(context, self.program.shard.cp)
        return self.slices[key]

    def _each(self, here: Layer, hook: Callable[[Values], None], ranks: Iterable[int]) -> None:
        for rank in ranks:
            hook(here.values[rank])

    def _rank_of(self, here: Layer, values: Values) -> int:
        return next(rank for rank, other in here.values.items() if other is values)

    def _kernel(self, step: Step, here: Layer, ranks: tuple[int, ...], micro: int) -> None:
        run = kernels.KERNELS.get(step.work.name)
        if run is None:
            raise Impossible(f"no virtual kernel for {step.work.name!r}")
        for rank in ranks:
            try:
                run(here.values[rank])
            except (KeyError, ValueError, AssertionError) as error:
                raise Impossible(
                    f"rank {rank}, layer {step.layer}, {step.phase}, micro-batch {micro}: {step.work.name}: {error!r}"
                ) from error

    # --- recomputation ---

    def _is_recomputed(self, chunk: int, layer: int, block: Block) -> bool:
        if self.program.question.strategy.recompute.mode != "full":
            return False
        pieces = self.program.chunks[chunk].pieces
        return any(p.block is block and p.first <= layer < p.first + p.recomputed for p in pieces)

    def _entry(self, values: Values) -> np.ndarray:
        """What a recomputed layer keeps of its input."""
        hidden = values.stream.hidden
        assert hidden is not None
        return np.split(hidden, values.tensors, axis=-1)[values.tensor] if self.program.recompute_gather else hidden

    def _forget(self, values: Values, block: Block, recomputed: bool) -> None:
        """What backward must not find: all of a recomputed layer, and what is gathered again."""
        again = {node.name for node in block.backward if node.name.endswith(".again.gradient")}
        if recomputed:
            values.made.clear()
            if self.program.question.strategy.recompute.mp_comm:
                values.sent.clear()
        elif self.program.question.strategy.recompute.mode == "selective":
            values.made.pop("attention.probabilities", None)
        for name in again:
            for value in exchange_of_name(name):
                values.sent.pop(value, None)

    def _restore(self, here: Layer, steps: list[Step], ranks: tuple[int, ...]) -> None:
        if not self.program.recompute_gather:
            for rank in ranks:
                here.values[rank].stream.hidden = here.entries[rank]

    def _gather_entry(self, step: Step, here: Layer, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        whole = self._collect(step, chunk, micro, ranks, {rank: [here.entries[rank]] for rank in ranks}, along=-1)
        for rank in ranks:
            here.values[rank].stream.hidden = whole[rank][0]

    # --- collectives ---

    def _collect(
        self,
        step: Step,
        chunk: int,
        micro: int,
        ranks: Iterable[int],
        arrays: dict[int, list[np.ndarray]],
        *,
        along: int = 1,
        maximum: bool = False,
        elements: int | None = None,
    ) -> dict[int, list[np.ndarray]]:
        """Run one collective in every group of these ranks. `elements`: of the whole tensor without padding, where it
        is not to be read from the arrays."""
        work = step.work
        assert isinstance(work, Collective)
        function = all_reduce_maximum if maximum else COLLECTIVES[work.op]
        result: dict[int, list[np.ndarray]] = {}
        for rank in ranks:
            group = group_of(self.program, work, rank, chunk)
            if rank not in result:
                missing = [member for member in group if member not in arrays]
                if missing:
                    raise Impossible(f"{work.name}: rank {rank} waits for rank {missing[0]}, which has no such node")
                try:
                    columns = [
                        function([arrays[member][i] for member in group], along) for i in range(len(arrays[rank]))
                    ]
                except ValueError as error:
                    raise Impossible(
                        f"rank {rank}, layer {step.layer}, {step.phase}, micro-batch {micro}: {work.op} "
                        f"{work.name}: {error}"
                    ) from error
                for index, member in enumerate(group):
                    result[member] = [column[index] for column in columns]
            whole = result[rank] if work.op == "all_gather" else arrays[rank]
            size = elements if elements is not None else sum(array.size for array in whole)
            self._record(work, group, size, rank, step.layer, step.phase, micro)
        return result

    def _record(
        self, work: Collective, group: tuple[int, ...], elements: int, rank: int, layer: int, phase: str, micro: int
    ) -> None:
        size = elements * BYTES[work.dtype]
        self.log[rank].append(Record(work.op, work.axis, group, size, work.dtype, layer, phase, micro, work.name))

    def _exchange(self, step: Step, here: Layer, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        """A collective of a block."""
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
                raise Impossible(
                    f"rank {rank}, layer {step.layer}: {step.work.name} has nothing to send: {error}"
                ) from error
        results = self._collect(step, chunk, micro, ranks, arrays, along=exchange.along, maximum=exchange.maximum)
        for rank in ranks:
            here.values[rank].sent.update(zip(exchange.values, results[rank], strict=True))

    def _boundary(self, step: Step, chunk: int, micro: int, ranks: tuple[int, ...]) -> None:
        """Sends, receives, and what the tensor group gathers of a boundary that was sent in parts."""
        work = step.work
        assert isinstance(work, Collective)
        if work.name.startswith(("weights.", "gradients.")):
            self._weights(step, chunk, micro, ranks)
            return
        streams = self.passing[chunk, micro].streams
        what = "activation" if work.name.endswith("activation") else "gradient"
        attribute = "hidden" if what == "activation" else "gradient"
        if work.op == "all_gather":
            parts = {rank: [getattr(streams[rank], attribute)] for rank in ranks}
            whole = self._collect(step, chunk, micro, ranks, parts, along=-1)
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
            self._record(work, (source, target), array.size, rank, step.layer, step.phase, micro)

    # --- weights and gradients ---

    def _names(self, step: Step, rank: int) -> list[Name]:
        """The weights that a collective of weights or gradients is about."""
        assert isinstance(step.work, Collective)
        expert = ".expert" in step.work.name
        parameters = self.devices[rank].parameters
        if step.block is None:
            return [name for name, parameter in parameters.items() if parameter.expert == expert]
        return [(step.layer, p.name) for p in step.block.parameters if p.expert == expert]

    def _weights(self, step: Step, chunk: int, micro: int, ranks: Iterable[int]) -> None:
        work, devices = step.work, self.devices
        assert isinstance(work, Collective)
        names = {rank: self._names(step, rank) for rank in ranks}
        whole = {rank: sum(int(devices[rank].parameters[n].elements) for n in names[rank]) for rank in ranks}
        size = next(iter(whole.values()))
        if work.op == "all_gather":
            runs = {rank: [devices[rank].kept[n] for n in names[rank]] for rank in ranks}
            result = self._collect(step, chunk, micro, ranks, runs, along=0, elements=size)
            for rank in ranks:
                for name, array in zip(names[rank], result[rank], strict=True):
                    devices[rank].whole[name] = devices[rank].joined(name, array)
            return
        gradients = {}
        for rank in ranks:
            device = devices[rank]
            zeros = {
                n: np.zeros(device.parameters[n].shape, self.dtype) for n in names[rank] if n not in device.gradients
            }
            found = [device.gradients.pop(n) if n in device.gradients else zeros[n] for n in names[rank]]
            flat = work.op == "reduce_scatter"
            gradients[rank] = [device.padded(n, g) if flat else g for n, g in zip(names[rank], found, strict=True)]
        result = self._collect(step, chunk, micro, ranks, gradients, along=0, elements=size)
        for rank in ranks:
            for name, array in zip(names[rank], result[rank], strict=True):
                if work.op == "reduce_scatter":
                    devices[rank].add_part(name, array)
                else:
                    devices[rank].gradients[name] = array

    def _release(self, block: Block, layer: int, ranks: tuple[int, ...]) -> None:
        """Level 3: a block's weights are there only while it runs. A word table that the head shares stays."""
        if self.program.question.strategy.zero.stage < 3:
            return
        shared = self.program.model.tied_embedding and not self.program.tied_across_stages
        for rank in ranks:
            device = self.devices[rank]
            for parameter in block.parameters:
                keep = shared and parameter.name in WORD_TABLES
                if not keep and device.shards[parameter.expert] > 1:
                    device.whole.pop((layer, parameter.name), None)

    # --- the end of a step ---

    def _finish(self) -> tuple[float, float]:
        devices, everyone = self.devices, range(len(self.devices))
        nodes = {rank: step_collectives(self.program, self.groups.coordinate("pp", rank)) for rank in everyone}

        def run(name: str, exchange: Callable[[Step, list[int]], None]) -> None:
            """Everyone's next node, if it has this name."""
            ranks = [rank for rank in everyone if nodes[rank] and nodes[rank][0].name == name]
            if not ranks:
                return
            for stage_ranks in _alike(ranks, {rank: nodes[rank][0] for rank in ranks}):
                exchange(Step(nodes[stage_ranks[0]][0], OUTSIDE, "step", None), stage_ranks)
            for rank in ranks:
                nodes[rank].pop(0)

        def sums(wanted: Callable[[int, Name], bool]) -> Callable[[Step, list[int]], None]:
            """All-reduce of the gradients, or of this rank's runs of them, that are wanted."""

            def exchange(step: Step, ranks: list[int]) -> None:
                held = {r: devices[r].gradient_parts if devices[r].level >= 2 else devices[r].gradients for r in ranks}
                if ".replica" in step.work.name:
                    held = {r: devices[r].gradient_parts for r in ranks}
                names = {r: [n for n in devices[r].parameters if wanted(r, n) and n in held[r]] for r in ranks}
                result = self._collect(
                    step, 0, OUTSIDE, ranks, {r: [held[r][n] for n in names[r]] for r in ranks}, along=0
                )
                for rank in ranks:
                    held[rank].update(zip(names[rank], result[rank], strict=True))

            return exchange

        def of_kind(expert: bool) -> Callable[[int, Name], bool]:
            return lambda rank, name: devices[rank].parameters[name].expert == expert

        def scalar(attribute: str) -> Callable[[Step, list[int]], None]:
            def exchange(step: Step, ranks: list[int]) -> None:
                values = {r: [np.array([getattr(devices[r], attribute)])] for r in ranks}
                for rank, (total,) in self._collect(step, 0, OUTSIDE, ranks, values, along=0).items():
                    setattr(devices[rank], attribute, float(total[0]))

            return exchange

        def reduction(step: Step, ranks: list[int]) -> None:
            self._weights(step, 0, OUTSIDE, ranks)

        run("gradients.partial", sums(lambda rank, name: devices[rank].parameters[name].partial_over_tp))
        run("gradients.tied", sums(lambda rank, name: name[1] in WORD_TABLES))
        for kind in ("dense", "expert"):
            run(f"gradients.{kind}", reduction)
        for device in devices:
            if device.level:  # what no group reduced is this rank's alone
                for name in list(device.gradients):
                    device.add_part(name, device.run_of(name, device.gradients.pop(name)))
        for expert, kind in ((False, "dense"), (True, "expert")):
            run(f"gradients.{kind}.replica", sums(of_kind(expert)))
        for device in devices:
            device.keep_gradients()
            device.squares = device.sum_of_squares()
        run("norm", scalar("squares"))
        run("loss", scalar("loss"))
        norm, loss = devices[0].squares ** 0.5, devices[self.stages[self.program.chunks[-1].stage][0]].loss
        self.gradients = [dict(device.gradient_parts) for device in devices]
        for device in devices:
            device.update(self.adam)
        for kind in ("dense", "expert"):
            run(f"weights.{kind}", reduction)
        left = [(rank, names[0].name) for rank, names in nodes.items() if names]
        if left:
            raise Deadlock(f"rank {left[0][0]} waits at {left[0][1]} for others")
        return loss, norm


def exchange_of_name(name: str) -> tuple[str, ...]:
    """The values of a collective that gathers again."""
    from parallel_strategy.graph.operator import Phase

    return exchange_of(Collective(name, "all_gather", "tp", 0.0, Phase.BACKWARD_INPUT)).values


def _alike(ranks: list[int], nodes: dict[int, Collective]) -> list[list[int]]:
    """The ranks by equal nodes: stages have weights of other sizes."""
    result: dict[Collective, list[int]] = {}
    for rank in ranks:
        result.setdefault(nodes[rank], []).append(rank)
    return list(result.values())
