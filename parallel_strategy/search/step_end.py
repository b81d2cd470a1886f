"""The end of a step and what does not change during it, for all layouts with one number of stages: gradient traffic,
weight gathering, the optimizer, and the bytes of weights, gradients and optimizer states.

The formulas of `Price.tail` and `Memory.stage`, written over arrays [layouts, pp].
"""

import numpy as np

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.memory import gradient_and_state_bytes
from parallel_strategy.search.shapes import KINDS, Layout, ShapeTable
from parallel_strategy.spec.strategy import Question

HEAD = KINDS.index("head")


class StepEnd:
    """`counts`: [pp, chunks, kinds] blocks of every stage."""

    def __init__(
        self,
        question: Question,
        devices: int,
        network: Network,
        pp: int,
        layouts: list[Layout],
        tables: list[ShapeTable],
        micro_batches: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        self.question, self.devices, self.network, self.pp, self.layouts = question, devices, network, pp, layouts
        self.micro_batches = micro_batches
        self.dense, self.expert, self.partial = (
            np.stack([getattr(table, name) for table in tables]) for name in ("dense", "expert", "partial")
        )
        self.boundary_bytes = np.array([table.boundary for table in tables])
        self.table_elements = [table.table_elements for table in tables]
        self.weights_groups = [self._weights_group(layout) for layout in layouts]
        self.expert_groups = [self._expert_group(layout) for layout in layouts]
        self.dense_shards = np.array([size for size, _ in self.weights_groups], dtype=float)[:, None]
        self.expert_shards = np.array([size for size, _ in self.expert_groups], dtype=float)[:, None]
        held = counts.sum(axis=1)
        held[:, HEAD] = np.minimum(held[:, HEAD], 1)  # a head is held once however often it runs
        self.stage_dense, self.stage_expert, self.stage_partial = (
            elements @ held.T for elements in (self.dense, self.expert, self.partial)
        )
        self.stage_weights = np.stack([table.weights for table in tables]) @ held.T
        framework, device = question.framework, question.cluster.device
        copied = (self.stage_dense + self.stage_expert) * framework.flatten_bytes_per_parameter
        launched = self.stage_weights * framework.flatten_launches_per_weight * device.vector.launch_us * 1e-6
        several = np.array([layout.dp > 1 for layout in layouts])[:, None]
        self.flattening = np.where(several, copied / (device.hbm.gbps * 1e9) + launched, 0.0)
        _, self.distinct, self.like = np.unique(held, axis=0, return_index=True, return_inverse=True)
        self.boundary = np.array([self._send(x, size) for x, size in zip(layouts, self.boundary_bytes, strict=True)])
        self._gathers: dict[tuple[int, str], np.ndarray] = {}
        self._seconds: dict[tuple, float] = {}
        self.tails = self._tails()

    def stride(self, layout: Layout, axis: str) -> int:
        """Distance in rank between neighbours along an axis."""
        stride = 1
        sizes = {"pp": self.pp, "dp": layout.dp, "cp": layout.cp, "tp": layout.tp}
        for inner in reversed(layout.order):
            if inner == axis:
                return stride
            stride *= sizes[inner]
        return stride

    def _weights_group(self, layout: Layout) -> tuple[int, int]:
        stride = self.stride(layout, "dp")
        return layout.dp * layout.cp, min(stride, self.stride(layout, "cp")) if layout.cp > 1 else stride

    def _expert_group(self, layout: Layout) -> tuple[int, int]:
        return layout.dp * layout.cp // layout.ep, self.stride(layout, "dp") * max(1, layout.ep // layout.cp)

    def _collective(self, op: str, size: float, members: int, stride: int) -> float:
        """Many layouts ask for the same one."""
        key = (op, size, members, stride)
        if key not in self._seconds:
            self._seconds[key] = self.network.seconds(op, size, members, stride)
        return self._seconds[key]

    def _send(self, layout: Layout, size: float) -> float:
        if self.pp == 1:
            return 0.0
        seconds = self.network.seconds("send", size, self.pp, self.stride(layout, "pp"))
        if self.question.framework.p2p_scatter_gather and layout.tp > 1 and not layout.sequence_parallel:
            seconds += self.network.seconds("all_gather", size * layout.tp, layout.tp, self.stride(layout, "tp"))
        return seconds

    def gathered(self, kind: int, op: str, sent: float) -> np.ndarray:
        """[layouts, 1] seconds of one collective of a block's weights, `sent` bytes each, over the ranks that share
        them."""
        if (kind, op) not in self._gathers:
            parts = zip(self.dense[:, kind], self.weights_groups, self.expert[:, kind], self.expert_groups, strict=True)
            both = [
                self._collective(op, dense * sent, *ranks) + self._collective(op, expert * sent, *expert_ranks)
                for dense, ranks, expert, expert_ranks in parts
            ]
            self._gathers[kind, op] = np.array(both)[:, None]
        return self._gathers[kind, op]

    def _tails(self) -> dict[str, np.ndarray]:
        """[layouts, pp] seconds of every collective that a step's end may need."""
        framework = self.question.framework
        names = ("all_reduce", "reduce_scatter", "all_gather", "apart", "apart_sharded")
        tied = self.question.model.tied_embedding and self.pp > 1
        # most stages hold the same blocks
        tails = {name: np.zeros((len(self.layouts), len(self.distinct))) for name in names}
        tables = np.zeros((len(self.layouts), 2))  # between the first and the last stage
        dense, expert, partial = (
            elements[:, self.distinct].tolist()
            for elements in (self.stage_dense, self.stage_expert, self.stage_partial)
        )
        for row, layout in enumerate(self.layouts):
            for elements, group in ((dense[row], self.weights_groups[row]), (expert[row], self.expert_groups[row])):
                for op in ("all_reduce", "reduce_scatter", "all_gather"):
                    sent = framework.weight_bytes_sent if op == "all_gather" else framework.gradient_bytes_sent
                    tails[op][row] += [self._collective(op, value * sent, *group) for value in elements]
            shards = (1.0, float(self.dense_shards[row, 0]))
            for column, name in enumerate(("apart", "apart_sharded")):
                sent = framework.gradient_bytes_sent / shards[column]
                if tied:
                    stride = (self.pp - 1) * self.stride(layout, "pp")
                    tables[row, column] = self._collective("all_reduce", self.table_elements[row] * sent, 2, stride)
                group = layout.tp, self.stride(layout, "tp")
                tails[name][row] += [self._collective("all_reduce", value * sent, *group) for value in partial[row]]
        whole = {name: values[:, self.like] for name, values in tails.items()}
        for column, name in enumerate(("apart", "apart_sharded")):
            if tied:
                whole[name][:, [0, -1]] += tables[:, [column]]
        return whole

    def first(self, zero: int, backward: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """[rows, pp] seconds that each stage adds to its own finish: gradients are summed. `backward`: [rows, pp]
        seconds of one micro-batch, behind which traffic hides."""
        framework = self.question.framework
        traffic, room = np.zeros_like(backward), backward
        if zero == 0:
            traffic = self.tails["all_reduce"][rows]
        elif zero < 3:
            traffic = self.tails["reduce_scatter"][rows]
        if zero == 2:
            traffic = traffic * self.micro_batches[rows, None]
            room = backward * self.micro_batches[rows, None]
        traffic = traffic + self.flattening[rows]
        hidden = np.minimum(framework.dp_overlap * traffic, room)
        apart = self.tails["apart_sharded" if zero >= 2 else "apart"][rows]
        return traffic - hidden + framework.interference * hidden + apart

    def after(self, zero: int, offload: bool) -> np.ndarray:
        """[layouts] seconds that follow once all stages have their gradients: the update, and weights gathered."""
        framework, cluster = self.question.framework, self.question.cluster
        gather = self.tails["all_gather"] if zero in (1, 2) else np.zeros_like(self.stage_dense)
        hidden = framework.gather_overlap * gather
        dense_shards, expert_shards = (self.dense_shards, self.expert_shards) if zero else (1.0, 1.0)
        owned = self.stage_dense / dense_shards + self.stage_expert / expert_shards
        hbm, host = cluster.device.hbm, cluster.host
        update = owned * framework.optimizer_bytes_per_parameter / (hbm.gbps * 1e9 * hbm.eff)
        update = update + self.stage_weights * framework.launches_per_weight * cluster.device.vector.launch_us * 1e-6
        if offload:
            copied = owned * (framework.gradient_bytes_sent + framework.weight_bytes_sent)
            per_server = min(cluster.devices_per_server, self.devices)
            update = copied / (host.h2d_gbps * 1e9) + owned * 28 * per_server / (host.adam_gbps * 1e9)
        fixed = framework.step_overhead_ms * 1e-3 * host.launch_scale
        return (update + gather - hidden + framework.interference * hidden).max(axis=-1) + fixed

    def static(self, zero: int, offload: bool) -> np.ndarray:
        """[layouts, pp] bytes of weights, gradients, optimizer and buffers."""
        framework = self.question.framework
        gradient, states = gradient_and_state_bytes(framework, self.question.model.compute_dtype)
        parts = np.zeros_like(self.stage_dense)
        for elements, size in ((self.stage_dense, self.dense_shards), (self.stage_expert, self.expert_shards)):
            parts = parts + elements / (size if zero >= 3 else 1) * framework.weight_bytes
            parts = parts + elements / (size if zero >= 2 else 1) * gradient
            if not offload:
                parts = parts + elements / (size if zero >= 1 else 1) * states
        if zero >= 3:
            largest = (self.dense + self.expert).max(axis=1)
            parts = parts + 2 * largest[:, None] * framework.weight_bytes
        if self.pp > 1:
            parts = parts + 2 * self.boundary_bytes[:, None]
        return parts
