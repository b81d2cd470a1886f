"""Seconds of every block of a program by phase, and of any of its collectives.

The closed form adds them up, the event simulation replays them, reports explain them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.kernel import kernel_seconds, smooth_maximum
from parallel_strategy.graph.operator import Block, Collective, Kernel, KernelTable, Phase
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.recompute import skipped_again
from parallel_strategy.spec.strategy import Setup


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one phase of a block. `device` are kernels, `tensor` exposed collectives, `host` what issuing
    costs."""

    device: float = 0.0
    tensor: float = 0.0
    host: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the time of device and host, which work beside one another; the slower sets the pace."""
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


ROUTER_KERNELS = 8  # of `experts.route`, which the block's kernels have already


def network_of(setup: Setup, devices: int) -> Network:
    """Return the cluster's network as the framework uses it."""
    return Network(setup.cluster, devices, setup.framework.gather_cards)


class Price:
    """Lazily priced program."""

    def __init__(self, program: Program, network: Network | None = None) -> None:
        self.program = program
        setup = program.setup
        self.cluster, self.framework, self.strategy = setup.cluster, setup.framework, setup.strategy
        self.network = network or network_of(setup, setup.strategy.mesh.devices)
        self.dtype = setup.model.compute_dtype
        self._blocks: dict[str, BlockCost] = {}
        self.kernel_times: dict[str, tuple[KernelTable, np.ndarray]] = {}  # device times do not depend on the placement

    def collective(self, op: str, axis: str, size: float) -> float:
        members, stride = self.program.group(axis)
        return self.network.seconds(op, size, members, stride)

    def collectives(self, nodes: Iterable[Collective]) -> float:
        """Return the seconds of these, one after another. Those of one kind over one axis go as one message, as buckets
        do."""
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
        """Return the price of half a micro-batch, where micro-batches run as two halves."""
        setup, strategy = self.program.setup, self.strategy
        if strategy.tensor.interleave == 1:
            return None
        batch = strategy.batch.model_copy(update={"micro": strategy.batch.micro // strategy.tensor.interleave})
        tensor = strategy.tensor.model_copy(update={"interleave": 1})
        halved = strategy.model_copy(update={"batch": batch, "tensor": tensor})
        return Price(Program(setup.with_strategy(halved)), self.network)

    def _price(self, block: Block) -> BlockCost:
        framework = self.framework
        if block.kind not in self.kernel_times:
            kernels = block.table()
            self.kernel_times[block.kind] = kernels, kernel_seconds(kernels, self.cluster.device, framework, self.dtype)
        table, device = self.kernel_times[block.kind]
        forward = table.phase == Phase.FORWARD
        backward_input, backward_weight = table.phase == Phase.BACKWARD_INPUT, table.phase == Phase.BACKWARD_WEIGHT
        pairs = self._products_beside(block) if self.strategy.tensor.overlap > 1 else {}
        exposed = [0.0, 0.0]
        hidden = [0.0, 0.0]
        issued = [0, 0]
        for collective in block.collectives:
            side = 0 if collective.phase == Phase.FORWARD else 1
            seconds = self.collective(collective.op, collective.axis, collective.bytes)
            share = framework.tp_overlap if side == 0 else max(framework.tp_overlap, framework.tp_backward_overlap)
            if collective.axis == "ep":
                seconds, share = self._exchange(collective)
            if ".again" in collective.name and collective.axis == "tp":
                share = max(share, 0.9)  # gathered while the input gradient is computed
            if collective.axis == "cp":
                share = max(share, 0.8)  # a ring step hides behind the attention of the block that is there
            if id(collective) in pairs:
                product = pairs[id(collective)]
                seconds, share, slower = self._in_parts(collective, block.kernels[product], float(device[product]))
                exposed[side] += slower
            exposed[side] += seconds * (1 - share)
            hidden[side] += seconds * share
            issued[side] += 1
        scale = self.cluster.host.launch_scale * 1e-6 * (1.0 - framework.graphs)
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
        if block.kind == "expert_layer":
            costs = self._with_experts_issued(costs, scale)
        if framework.launch_blocking:
            costs = [Cost(cost.device + cost.host, cost.tensor) for cost in costs]
        return BlockCost(*costs)

    def _products_beside(self, block: Block) -> dict[int, int]:
        """Return for each collective of the tensor group (by `id`) the product that runs beside it, by its place among
        the block's kernels: the one that a gathered input goes to, or that an output to be summed comes from."""
        places = {id(kernel): place for place, kernel in enumerate(block.kernels)}
        pairs: dict[int, int] = {}
        for nodes in (block.forward, block.backward):
            for index, node in enumerate(nodes):
                if not isinstance(node, Collective) or node.axis != "tp" or ".again" in node.name:
                    continue
                near = nodes[index + 1 :] if node.op == "all_gather" else reversed(nodes[:index])
                for other in near:
                    if isinstance(other, Kernel) and other.m and other.phase == node.phase:
                        if places[id(other)] not in pairs.values():
                            pairs[id(node)] = places[id(other)]
                        break
        return pairs

    def _in_parts(self, node: Collective, kernel: Kernel, seconds: float) -> tuple[float, float, float]:
        """Return the seconds of a collective that runs in parts beside a product, the share of them that hides behind
        it, and by how much the product's parts are slower than the whole (`seconds`). While one part is sent the next
        is computed; the first computation, or the last message, has nothing beside it."""
        parts = self.strategy.tensor.overlap
        sent = parts * self.collective(node.op, node.axis, node.bytes / parts)
        part = replace(kernel, m=max(1, kernel.m // parts), bytes=kernel.bytes / parts, flops=kernel.flops / parts)
        one = float(kernel_seconds(KernelTable.of([part]), self.cluster.device, self.framework, self.dtype)[0])
        computed = max(seconds, parts * one)
        if not sent:
            return 0.0, 0.0, 0.0
        return sent, min(sent, computed) * (1 - 1 / parts) / sent, computed - seconds

    def _exchange(self, node: Collective) -> tuple[float, float]:
        """Return the seconds of sending tokens to experts, or back, and the share of them that is hidden."""
        experts, habits = self.program.model.experts, self.framework.experts
        members, stride = self.program.group(node.axis)
        crossing = (
            self.network.capacity[self.network.spans(members, stride)[-1].level] >= self.cluster.devices_per_server
        )
        share = max(habits.overlap, habits.network_overlap if members > 1 and crossing else 0.0)
        if habits.dispatch == "expert" or experts is None:
            return self.collective(node.op, node.axis, node.bytes), share
        return self.network.dispatch_seconds(node.bytes, members, stride, experts.top_k), share

    def _with_experts_issued(self, costs: list[Cost], scale: float) -> list[Cost]:
        """Return the costs of all phases with what the host issues for experts beside the kernels of the block: those
        of routing, and some for each expert of a rank."""
        framework, experts = self.framework, self.program.model.experts
        habits = framework.experts
        assert experts is not None
        here = experts.count // self.program.shard.ep
        routed, each = max(0.0, habits.router_launches - ROUTER_KERNELS), habits.launches_per_expert * here
        forward = scale * framework.host_us_per_launch * (routed + each)
        backward = scale * framework.host_us_per_launch_backward * (routed / 2 + 2 * each)
        issued = (forward, forward, 0.0, backward / 2, backward / 2)
        if habits.waits_for_counts:
            return [replace(cost, device=cost.device + extra) for cost, extra in zip(costs, issued, strict=True)]
        return [replace(cost, host=cost.host + extra) for cost, extra in zip(costs, issued, strict=True)]

    @cached_property
    def overrides(self) -> dict[int | str, float]:
        """Return seconds that overridden operators add to one micro-batch, by layer or end of the network."""
        if not self.strategy.overrides:
            return {}
        from parallel_strategy.cost.overrides import override_seconds  # few strategies have any

        return override_seconds(self.program.setup)

    @cached_property
    def two_halves(self) -> bool:
        """Return two independent halves run at once: a micro-batch cut in two, or DualPipe's forward beside a
        backward."""
        return self.strategy.tensor.interleave > 1 or self.strategy.pipeline.schedule == "dualpipe"

    def bucketed(self, nodes: list[Collective], bucket: float) -> tuple[float, float]:
        """Return the seconds of the gradients' collectives in buckets, and of the last bucket, which nothing is left to
        hide."""
        total = last = 0.0
        for node in nodes:
            whole, rest = divmod(node.bytes, bucket)
            ends = self.collective(node.op, node.axis, rest or bucket)
            total += int(whole - (rest == 0)) * self.collective(node.op, node.axis, bucket) + ends
            last += ends
        return total, last
