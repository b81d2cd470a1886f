"""Prices a program: seconds of every block by phase, of stage boundaries, of gradient traffic, of the optimizer.

What is priced here is what the closed form adds up, what the event simulation replays and what reports explain.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.kernel import kernel_seconds, smooth_maximum
from parallel_strategy.cost.memory import kept_bytes
from parallel_strategy.graph.operator import Block, Collective, KernelTable, Phase
from parallel_strategy.graph.program import Chunk, Piece, Program
from parallel_strategy.graph.recompute import skipped_again
from parallel_strategy.graph.sharding import (
    gather_weights,
    owned_elements,
    scatter_gradients,
    scatter_micro_batch,
    step_collectives,
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one phase of a block. `device` are kernels, `tensor` exposed collectives, `host` what issuing
    costs."""

    device: float = 0.0
    tensor: float = 0.0
    host: float = 0.0

    @property
    def seconds(self) -> float:
        """Device and host work beside one another; the slower of the two sets the pace."""
        return float(smooth_maximum(self.device + self.tensor, self.host))

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.device + other.device, self.tensor + other.tensor, self.host + other.host)

    def times(self, count: float) -> "Cost":
        return Cost(self.device * count, self.tensor * count, self.host * count)


@dataclass(frozen=True, slots=True)
class BlockCost:
    """All phases of one block."""

    forward: Cost
    recompute_full: Cost
    recompute_selective: Cost
    backward_input: Cost
    backward_weight: Cost

    def times(self, count: float) -> "BlockCost":
        return BlockCost(*(getattr(self, field.name).times(count) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class ChunkTime:
    """Seconds of one chunk for one micro-batch: forward, backward of activations (with recomputation), of weights."""

    forward: float
    backward_input: float
    backward_weight: float

    @property
    def backward(self) -> float:
        return self.backward_input + self.backward_weight


@dataclass(frozen=True, slots=True)
class StepTail:
    """What a stage does besides its micro-batches, in seconds."""

    gradient_reduce: float = 0.0  # exposed part
    gradient_hidden: float = 0.0  # part that runs beside the last backward
    weight_gather: float = 0.0
    embedding_reduce: float = 0.0
    optimizer: float = 0.0
    fixed: float = 0.0

    @property
    def exposed(self) -> float:
        return self.gradient_reduce + self.weight_gather + self.embedding_reduce + self.optimizer + self.fixed


class Price:
    """Lazily priced program."""

    def __init__(self, program: Program, network: Network | None = None) -> None:
        self.program = program
        question = program.question
        self.cluster, self.framework, self.strategy = question.cluster, question.framework, question.strategy
        self.network = network or Network(question.cluster)
        self.dtype = question.model.compute_dtype
        self._blocks: dict[str, BlockCost] = {}
        self.kernel_times: dict[str, tuple[KernelTable, np.ndarray]] = {}  # device times do not depend on the placement

    def collective(self, op: str, axis: str, size: float) -> float:
        members, stride = self.program.group(axis)
        return self.network.seconds(op, size, members, stride)

    def collectives(self, nodes: Iterable[Collective]) -> float:
        """Seconds of these, one after another. Those of one kind over one axis go as one message, as buckets do."""
        sizes: dict[tuple[str, str], float] = {}
        for node in nodes:
            sizes[node.op, node.axis] = sizes.get((node.op, node.axis), 0.0) + node.bytes
        return sum(self.collective(op, axis, size) for (op, axis), size in sizes.items())

    def block(self, block: Block) -> BlockCost:
        if block.kind not in self._blocks:
            if self.half is not None:  # every kernel and collective runs twice, on half as much
                self._blocks[block.kind] = self.half.block(self.half.program.blocks[block.kind]).times(2.0)
            else:
                self._blocks[block.kind] = self._price(block)
        return self._blocks[block.kind]

    @cached_property
    def half(self) -> "Price | None":
        """The price of half a micro-batch, where micro-batches run as two halves."""
        question, strategy = self.program.question, self.strategy
        if strategy.tensor.interleave == 1:
            return None
        batch = strategy.batch.model_copy(update={"micro": strategy.batch.micro // strategy.tensor.interleave})
        tensor = strategy.tensor.model_copy(update={"interleave": 1})
        halved = strategy.model_copy(update={"batch": batch, "tensor": tensor})
        return Price(Program(question.with_strategy(halved)), self.network)

    def _price(self, block: Block) -> BlockCost:
        framework = self.framework
        if block.kind not in self.kernel_times:
            kernels = block.table()
            self.kernel_times[block.kind] = kernels, kernel_seconds(kernels, self.cluster.device, framework, self.dtype)
        table, device = self.kernel_times[block.kind]
        forward = table.phase == Phase.FORWARD
        backward_input, backward_weight = table.phase == Phase.BACKWARD_INPUT, table.phase == Phase.BACKWARD_WEIGHT
        exposed = [0.0, 0.0]
        hidden = [0.0, 0.0]
        issued = [0, 0]
        for collective in block.collectives:
            side = 0 if collective.phase == Phase.FORWARD else 1
            seconds = self.collective(collective.op, collective.axis, collective.bytes)
            share = framework.tp_overlap if side == 0 else max(framework.tp_overlap, framework.tp_backward_overlap)
            if ".again" in collective.name and collective.axis == "tp":
                share = max(share, 0.9)  # gathered while the input gradient is computed
            if collective.axis == "cp":
                share = max(share, 0.8)  # a ring step hides behind the attention of the block that is there
            exposed[side] += seconds * (1 - share)
            hidden[side] += seconds * share
            issued[side] += 1
        scale = self.cluster.host.launch_scale * 1e-6
        layer = framework.host_us_per_layer if block.kind not in ("embedding", "head") else 0.0
        launches = table.launches
        tensor_host = framework.host_us_per_collective

        def host(mask: np.ndarray, us: float, collectives: int) -> float:
            return scale * (float(launches[mask].sum()) * us + collectives * tensor_host + layer)

        slow = framework.interference
        fore = Cost(
            float(device[forward].sum()) + slow * hidden[0],
            exposed[0],
            host(forward, framework.host_us_per_launch, issued[0]),
        )
        skipped = {node.name for node in skipped_again(block)} if framework.recompute_pruned else set()
        unneeded = forward & np.array([kernel.name in skipped for kernel in block.kernels], dtype=bool)
        sums = sum(
            self.collective(c.op, c.axis, c.bytes) * (1 - framework.tp_overlap)
            for c in block.collectives
            if c.phase == Phase.FORWARD and c.name in skipped
        )
        entry = self.collectives([self.program.recompute_gather] if self.program.recompute_gather else [])
        again = Cost(
            fore.device - float(device[unneeded].sum()),
            (fore.tensor - sums if self.strategy.recompute.mp_comm else 0.0) + entry,
            fore.host + scale * framework.host_us_per_recompute,
        )
        core = table.attention & forward
        selective = Cost(
            float(device[core].sum()), 0.0, scale * float(launches[core].sum()) * framework.host_us_per_launch
        )
        back = Cost(
            float(device[backward_input].sum()) + slow * hidden[1],
            exposed[1],
            host(backward_input, framework.host_us_per_launch_backward, issued[1]),
        )
        weight = Cost(
            float(device[backward_weight].sum()),
            0.0,
            scale * float(launches[backward_weight].sum()) * framework.host_us_per_launch_backward,
        )
        costs = [fore, again, selective, back, weight]
        if framework.launch_blocking:
            costs = [Cost(cost.device + cost.host, cost.tensor) for cost in costs]
        return BlockCost(*costs)

    def _sharded_weights(self, piece: Piece) -> tuple[float, float, float]:
        """ZeRO-3: exposed seconds of gathering a piece's weights for forward, for backward, and of scattering its
        gradients."""
        if self.strategy.zero.stage < 3:
            return 0.0, 0.0, 0.0
        gather = self.collectives(gather_weights(self.program, piece.block, Phase.FORWARD))
        again = self.collectives(gather_weights(self.program, piece.block, Phase.BACKWARD_INPUT))
        return gather, again, self.collectives(scatter_gradients(self.program, piece.block))

    def piece(self, piece: Piece) -> tuple[Cost, Cost, Cost]:
        """Forward, backward of activations with recomputation, backward of weights: of all blocks of a piece."""
        cost = self.block(piece.block)
        mode = self.strategy.recompute.mode
        again = cost.recompute_full if mode == "full" else cost.recompute_selective if mode == "selective" else Cost()
        forward = cost.forward.times(piece.count)
        back = cost.backward_input.times(piece.count) + again.times(piece.recomputed)
        weight = cost.backward_weight.times(piece.count)
        gather, gather_again, scatter = self._sharded_weights(piece)
        if gather:
            forward = _beside(forward, gather * piece.count, self.framework.gather_overlap, self.framework.interference)
            traffic = (gather_again + scatter) * piece.count
            back = _beside(back, traffic, self.framework.dp_overlap, self.framework.interference, also=weight.device)
        if self.overrides:
            extra = self._overridden_seconds(piece)
            forward, back = forward + Cost(device=extra / 3), back + Cost(device=2 * extra / 3)
        if self.two_halves:
            forward, back = (self._interleaved(cost, piece.count) for cost in (forward, back))
        return forward, back, weight

    @cached_property
    def overrides(self) -> dict[int | str, float]:
        """Seconds that overridden operators add to one micro-batch, by layer or end of the network."""
        if not self.strategy.overrides:
            return {}
        from parallel_strategy.cost.overrides import override_seconds  # few strategies have any

        return override_seconds(self.program.question)

    def _overridden_seconds(self, piece: Piece) -> float:
        if piece.block.kind in ("layer", "query"):
            return sum(self.overrides.get(piece.first + layer, 0.0) for layer in range(piece.count))
        return self.overrides.get(piece.block.kind, 0.0)

    @cached_property
    def two_halves(self) -> bool:
        """Two independent halves run at once: a micro-batch cut in two, or DualPipe's forward beside a backward."""
        return self.strategy.tensor.interleave > 1 or self.strategy.pipeline.schedule == "dualpipe"

    def _interleaved(self, cost: Cost, count: int) -> Cost:
        """Collectives of one half beside the computation of the other, but for the first and the last of a run."""
        hidden = min(cost.tensor * (1.0 - 0.5 / max(1, count)), cost.device)
        return Cost(cost.device + self.framework.interference * hidden, cost.tensor - hidden, cost.host)

    def chunk(self, chunk: Chunk) -> ChunkTime:
        """Whole-chunk times: host and device are compared per phase, since a stage waits for its neighbours between
        them."""
        forward = back = weight = Cost()
        for piece in chunk.pieces:
            a, b, c = self.piece(piece)
            forward, back, weight = forward + a, back + b, weight + c
        both = (back + weight).seconds
        share = weight.device / max(1e-30, back.device + back.tensor + weight.device)
        offload = self.offload_seconds(chunk)
        forward_seconds = max(forward.seconds, offload) * self.slowest
        backward_seconds = max(both, offload) * self.slowest
        return ChunkTime(forward_seconds, backward_seconds * (1 - share), backward_seconds * share)

    def offload_seconds(self, chunk: Chunk) -> float:
        """Copying the saved activations of a chunk to the host, or back."""
        share = self.strategy.offload.activation
        if not share:
            return 0.0
        saved = sum(kept_bytes(piece, self.program, piece.block.saved_bytes) for piece in chunk.pieces)
        return share * saved / (self.cluster.host.h2d_gbps * 1e9)

    @cached_property
    def slowest(self) -> float:
        """The slowest of n ranks over their mean: the expected largest of n normal deviations is about sqrt(2 ln n)."""
        return 1.0 + self.framework.jitter * math.sqrt(2.0 * math.log(self.strategy.mesh.devices))

    @cached_property
    def chunks(self) -> list[ChunkTime]:
        alike: dict[tuple, ChunkTime] = {}
        keys = [chunk.contents for chunk in self.program.chunks]
        if self.overrides:  # which may name single layers
            keys = [(*chunk.contents, *(piece.first for piece in chunk.pieces)) for chunk in self.program.chunks]
        for key, chunk in zip(keys, self.program.chunks, strict=True):
            if key not in alike:
                alike[key] = self.chunk(chunk)
        return [alike[key] for key in keys]

    @cached_property
    def boundary(self) -> float:
        """Seconds to send an activation to the next stage."""
        if self.program.pp == 1:
            return 0.0
        size, stride = self.program.group("pp")
        seconds = self.network.seconds("send", self.program.boundary_bytes, size, stride)
        mesh = self.strategy.mesh
        if self.framework.p2p_scatter_gather and mesh.tp > 1 and not self.program.shard.sequence_parallel:
            seconds += self.collective("all_gather", "tp", self.program.boundary_bytes * mesh.tp)
        return seconds

    def tail(self, stage: int) -> StepTail:
        """Gradient reduction, weight gathering and the optimizer of a stage."""
        program, framework, strategy = self.program, self.framework, self.strategy
        nodes = [node for _, node in step_collectives(program, stage)]
        level = strategy.zero.stage
        between = ("gradients.tied", "gradients.partial")
        traffic = self.collectives(n for n in nodes if n.name.startswith("gradients.") and n.name not in between)
        traffic += strategy.micro_batches * self.collectives(n for _, n in scatter_micro_batch(program, stage))
        last_bucket = 0.0
        if strategy.zero.bucket_mb is not None and level < 2:
            reduced = [n for n in nodes if n.name.startswith("gradients.") and n.name not in between]
            traffic, last_bucket = self._bucketed(reduced, strategy.zero.bucket_mb * 2**20)
        if framework.flatten_bytes_per_parameter and strategy.mesh.dp > 1:
            flat = sum(program.stage_elements(stage, expert=expert) for expert in (False, True))
            copied = flat * framework.flatten_bytes_per_parameter / (self.cluster.device.hbm.gbps * 1e9)
            launched = len(program.stage_parameters(stage)) * framework.flatten_launches_per_weight
            traffic += copied + launched * self.cluster.device.vector.launch_us * 1e-6
            traffic += self.collective("all_reduce", "weights", 8.0)  # the loss goes by itself
        gather = self.collectives(n for n in nodes if n.name.startswith("weights."))
        # between stages and inside the tensor group; the sums of one number are part of the framework's step overhead
        apart = [n for n in nodes if n.name in between]
        backward = sum(self.chunks[chunk.index].backward for chunk in program.stage_chunks(stage))
        hidden = min(
            framework.dp_overlap * (traffic - last_bucket), backward * (strategy.micro_batches if level == 2 else 1)
        )
        hidden_gather = framework.gather_overlap * gather
        owned = owned_elements(program, stage)
        hbm = self.cluster.device.hbm
        update = owned * framework.optimizer_bytes_per_parameter / (hbm.gbps * 1e9 * hbm.eff)
        launch = self.cluster.device.vector.launch_us * 1e-6
        weights = len(program.stage_parameters(stage)) if framework.launches_per_weight else 0
        update += weights * framework.launches_per_weight * launch
        if strategy.offload.optimizer:
            host = self.cluster.host
            copied = owned * (framework.gradient_bytes_sent + framework.weight_bytes_sent)
            per_server = min(self.cluster.devices_per_server, strategy.mesh.devices)
            update = copied / (host.h2d_gbps * 1e9) + owned * 28 * per_server / (host.adam_gbps * 1e9)
        return StepTail(
            gradient_reduce=traffic - hidden + framework.interference * hidden,
            gradient_hidden=hidden,
            weight_gather=gather - hidden_gather + framework.interference * hidden_gather,
            embedding_reduce=self.collectives(apart),
            optimizer=update,
            fixed=framework.step_overhead_ms * 1e-3 * self.cluster.host.launch_scale,
        )

    def _bucketed(self, nodes: list[Collective], bucket: float) -> tuple[float, float]:
        """Seconds of the gradients' collectives in buckets, and of the last bucket, which nothing is left to hide."""
        total = last = 0.0
        for node in nodes:
            whole, rest = divmod(node.bytes, bucket)
            ends = self.collective(node.op, node.axis, rest or bucket)
            total += int(whole - (rest == 0)) * self.collective(node.op, node.axis, bucket) + ends
            last += ends
        return total, last


def _beside(cost: Cost, traffic: float, overlap: float, interference: float, also: float = 0.0) -> Cost:
    """Traffic that runs beside compute up to its length; the overlapped part slows the compute down."""
    hidden = min(traffic * overlap, cost.device + cost.tensor + also)
    return Cost(cost.device + interference * hidden, cost.tensor + traffic - hidden, cost.host)
