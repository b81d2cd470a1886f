"""Sharding of every operator of one repeated block: MindSpore's choices, and what each costs.

The devices of a stage are a device matrix: the data and tensor axes of the mesh, cut where they cross a level of
topology. Each operator may split its rows (sequences), its columns and, a matrix product, its inner dimension over
each axis of the matrix, or repeat itself along it; its in_strategy is the product of the axes on each dimension. Where
the layout that an operator leaves is not the one that the next one reads, MindSpore redistributes: AllGather, AllToAll,
or a slice that costs nothing forward and an AllGather backward.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.elimination import Tables
from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.spec.strategy import Setup

# what an axis of the device matrix does to an operator
WHOLE, ROWS, COLUMNS, INNER, SCATTER = range(5)
# inner dimension split: partial sums, added up everywhere, or so that each device keeps its rows
PRODUCT, POINTWISE, ALONG_ROWS = (WHOLE, ROWS, COLUMNS, INNER, SCATTER), (WHOLE, ROWS, COLUMNS), (WHOLE, ROWS)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the device matrix."""

    name: str
    size: int
    stride: int


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator over [rows, columns] tensors of the whole stage. A matrix product has `inner`; `row_limit` and
    `column_limit` are the most parts that a dimension can be cut into."""

    name: str
    primitive: str
    inputs: tuple[str, ...]
    rows: int
    columns: int
    inner: int = 0
    choices: tuple[int, ...] = POINTWISE
    passes: float = 2.0  # of the output, that an element-wise kernel reads and writes
    row_limit: int = 1 << 30
    column_limit: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sharding of one operator, as MindSpore writes it."""

    name: str
    primitive: str
    in_strategy: tuple[tuple[int, ...], ...]
    tensor_map: tuple[tuple[int, ...], ...]  # axes of the device matrix from the right; -1: not split
    seconds: float  # forward and backward of one micro-batch, redistribution of its inputs included


class BlockSharding:
    """All choices of one block's operators, priced once. Raises nothing; what is not legal costs infinity."""

    def __init__(
        self,
        setup: Setup,
        axes: list[Axis],
        operators: list[Operator],
        *,
        weight_second_per_byte: float = 0.0,
        state_bytes: float = 16.0,
    ) -> None:
        self.setup, self.axes, self.operators = setup, axes, operators
        self.network = Network(setup.cluster, setup.strategy.mesh.devices)
        self.by_name = {operator.name: operator for operator in operators}
        self.element = setup.model.element_bytes
        self.weight_price, self.state_bytes = weight_second_per_byte, state_bytes
        self.micro_batches = max(1, setup.strategy.micro_batches)

    @cached_property
    def options(self) -> dict[str, np.ndarray]:
        """Return [choices, axes] of every operator: what each axis does to it. Illegal ones are left out."""
        return {operator.name: self._legal(operator) for operator in self.operators}

    def _legal(self, operator: Operator) -> np.ndarray:
        every = np.array(list(product(operator.choices, repeat=len(self.axes))), dtype=np.int64)
        rows, columns, inner = (self.parts(every, kinds) for kinds in ((ROWS,), (COLUMNS,), (INNER, SCATTER)))
        kept = rows * self.parts(every, (SCATTER,))
        fits = (kept <= operator.row_limit) & (columns <= operator.column_limit)
        fits &= (operator.rows % kept == 0) & (operator.columns % columns == 0)
        if operator.inner:
            fits &= operator.inner % inner == 0
        return every[fits]

    def parts(self, options: np.ndarray, kinds: tuple[int, ...]) -> np.ndarray:
        """Return into how many parts the axes that do one of `kinds` cut."""
        sizes = np.array([axis.size for axis in self.axes], dtype=np.int64)
        return np.where(np.isin(options, kinds), sizes, 1).prod(axis=-1)

    def line(self, op: str, axis: Axis, size: np.ndarray) -> np.ndarray:
        """Return the seconds of a collective along one axis, over arrays of bytes."""
        lines = self.network.lines(op, axis.size, axis.stride)
        return np.min([one.alpha + one.beta * size for one in lines], axis=0) * (size > 0)

    def input_layout(self, name: str) -> np.ndarray:
        """Return [choices, axes]: how each choice wants its first input, as WHOLE, ROWS, COLUMNS."""
        options = self.options[name]
        if not self.by_name[name].inner:
            return options
        return np.select([options == ROWS, np.isin(options, (INNER, SCATTER))], [ROWS, COLUMNS], WHOLE)

    def output_layout(self, name: str) -> np.ndarray:
        options = self.options[name]
        return np.select([np.isin(options, (ROWS, SCATTER)), options == COLUMNS], [ROWS, COLUMNS], WHOLE)

    def own_seconds(self, name: str) -> np.ndarray:
        """Return [choices] forward and backward of one micro-batch, with collectives of the operator itself and its
        share of the gradient's all-reduce."""
        return self.operator_seconds(self.by_name[name], self.options[name])

    def operator_seconds(self, operator: Operator, options: np.ndarray) -> np.ndarray:
        """Return [choices] the same of any operator: [choices, axes] say what each axis does to it."""
        setup = self.setup
        device, dtype = setup.cluster.device, setup.model.compute_dtype
        bandwidth = device.hbm.gbps * 1e9 * device.hbm.eff
        rows = operator.rows / self.parts(options, (ROWS,))
        columns = operator.columns / self.parts(options, (COLUMNS,))
        local = rows * columns * self.element
        if not operator.inner:
            return 2.5 * operator.passes * local / (bandwidth * device.vector.eff) + 2 * device.vector.launch_us * 1e-6
        inner = operator.inner / self.parts(options, (INNER, SCATTER))
        one = np.ones_like(rows)
        seconds = np.zeros_like(rows)
        for m, n, k in ((rows, columns, inner), (rows, inner, columns), (inner, columns, rows)):
            moved = self.element * (m * k + k * n + m * n) / bandwidth
            seconds += np.maximum(matmul_seconds(device, dtype, m, n, k, one), moved) + device.gemm.launch_us * 1e-6
        weight = inner * columns
        framework = setup.framework
        entering = rows * inner * self.element
        for index, axis in enumerate(self.axes):
            does = options[:, index]
            seconds += np.where(does == INNER, self.line("all_reduce", axis, local), 0.0)
            scattered = self.line("reduce_scatter", axis, local) + self.line("all_gather", axis, local)
            seconds += np.where(does == SCATTER, scattered, 0.0)
            seconds += np.where(does == COLUMNS, self.line("all_reduce", axis, entering), 0.0)
            gradient = self.line("all_reduce", axis, weight * framework.gradient_bytes_sent)
            seconds += np.where(does == ROWS, gradient * (1 - framework.dp_overlap) / self.micro_batches, 0.0)
        return seconds + self.weight_price * weight * self.state_bytes

    def redistribution(self, before: str, after: str) -> np.ndarray:
        """Return [choices of before, choices of after] seconds, forward and backward, of bringing the output of one
        operator into the layout that the other reads."""
        left, right = self.output_layout(before), self.input_layout(after)
        unique_left, index_left = np.unique(left, axis=0, return_inverse=True)
        unique_right, index_right = np.unique(right, axis=0, return_inverse=True)
        operator = self.by_name[before]
        seconds = self.moving_seconds(operator.rows * operator.columns, unique_left, unique_right)
        return seconds[index_left.reshape(-1)][:, index_right.reshape(-1)]

    def moving_seconds(self, elements: float, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return [layouts before, layouts after] the same of a tensor of so many elements; layouts are [number,
        axes]."""
        source, target = before[:, None, :], after[None, :, :]
        sizes = np.array([axis.size for axis in self.axes])
        local = elements * self.element / np.where(source != WHOLE, sizes, 1).prod(axis=-1)
        local = np.broadcast_to(local, (len(before), len(after))).astype(float)
        seconds = np.zeros_like(local)
        # slices first, since they shrink what follows; then exchanges, then gathers
        sliced = [(source[..., i] == WHOLE) & (target[..., i] != WHOLE) for i in range(len(self.axes))]
        for index, axis in enumerate(self.axes):
            local = np.where(sliced[index], local / axis.size, local)
            seconds += np.where(sliced[index], self.line("all_gather", axis, local * axis.size), 0.0)  # its backward
        for index, axis in enumerate(self.axes):
            here, there = source[..., index], target[..., index]
            moved = (here != WHOLE) & (there != WHOLE) & (here != there)
            seconds += np.where(moved, 2 * self.line("all_to_all", axis, local), 0.0)
        for index, axis in enumerate(self.axes):
            gathered = (source[..., index] != WHOLE) & (target[..., index] == WHOLE)
            whole = local * axis.size
            both = self.line("all_gather", axis, whole) + self.line("reduce_scatter", axis, whole)
            seconds += np.where(gathered, both, 0.0)
            local = np.where(gathered, whole, local)
        return seconds

    @cached_property
    def tables(self) -> Tables:
        tables = Tables({name: len(options) for name, options in self.options.items()})
        for operator in self.operators:
            tables.add((operator.name,), self.own_seconds(operator.name))
            for source in operator.inputs:
                tables.add((source, operator.name), self.redistribution(source, operator.name))
        return tables

    def seconds(self, choice: dict[str, int], name: str) -> float:
        """Return the seconds of one operator under a choice of all, its inputs' redistribution included."""
        total = float(self.own_seconds(name)[choice[name]])
        for source in self.by_name[name].inputs:
            total += float(self.redistribution(source, name)[choice[source], choice[name]])
        return total

    def chosen(self, choice: dict[str, int]) -> list[Chosen]:
        result = []
        for operator in self.operators:
            does = self.options[operator.name][choice[operator.name]]
            strategy, maps = self.in_strategy(operator, does)
            seconds = self.seconds(choice, operator.name)
            result.append(Chosen(operator.name, operator.primitive, strategy, maps, seconds))
        return result

    def in_strategy(
        self, operator: Operator, does: np.ndarray
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Return (splits of every dimension of every input, the first axis of the device matrix on each of them)."""

        def cut(*kinds: int) -> tuple[int, int]:
            here = [index for index, what in enumerate(does) if what in kinds]
            size = int(np.prod([self.axes[index].size for index in here], dtype=np.int64)) if here else 1
            return size, len(self.axes) - 1 - here[0] if here else -1

        rows, columns, inner = cut(ROWS), cut(COLUMNS), cut(INNER, SCATTER)
        if operator.inner:
            dimensions: list[list[tuple[int, int]]] = [[rows, inner], [inner, columns]]
        elif operator.primitive == "LayerNorm":
            dimensions = [[rows, (1, -1)], [(1, -1)], [(1, -1)]]
        else:
            dimensions = [[rows, columns] for _ in operator.inputs]
        return (
            tuple(tuple(size for size, _ in each) for each in dimensions),
            tuple(tuple(axis for _, axis in each) for each in dimensions),
        )

    def index(self, name: str, does: tuple[int, ...]) -> int:
        """Return the number of a choice. Raises KeyError where it is not legal."""
        found = np.flatnonzero((self.options[name] == np.array(does)).all(axis=1))
        if not len(found):
            raise KeyError(name)
        return int(found[0])


def mesh_axes(setup: Setup) -> list[Axis]:
    """Return the data and tensor axes of the mesh, outermost first, cut where they cross a level of topology."""
    mesh, network = setup.strategy.mesh, Network(setup.cluster, setup.strategy.mesh.devices)
    axes: list[Axis] = []
    for name in mesh.axes:
        size, stride = getattr(mesh, name), mesh.stride(name)
        if name not in ("dp", "tp") or size == 1:
            continue
        pieces, below = [], 1
        for span in network.spans(size, stride):
            if size % (span.members * span.groups) == 0 and span.members == below and name == "tp":
                pieces.append(Axis(f"{name}_{span.name}", span.groups, stride * below))
                below *= span.groups
        if below != size:
            pieces = [Axis(name, size, stride)]
        axes += [Axis(name, size, stride)] if len(pieces) == 1 else pieces[::-1]
    return axes


def block_of(setup: Setup) -> list[Operator]:
    """Return the operators of one transformer layer over the whole stage: every micro-batch of its data-parallel
    ranks."""
    model, strategy = setup.model, setup.strategy
    sequences = strategy.batch.micro * strategy.mesh.dp
    rows, hidden = sequences * model.seq_length, model.hidden_size
    width, heads = model.num_heads * model.head_width, model.num_heads
    keys = model.key_value_heads * model.head_width
    inner, ups = model.ffn_hidden_size, 2 if model.gated_ffn else 1
    scores = 1.0 + 4.0 * model.num_heads * model.seq_length / width  # passes over scores, per element of the context

    def matmul(name: str, source: str, columns: int, inside: int, column_limit: int = 1 << 30) -> Operator:
        return Operator(name, "MatMul", (source,), rows, columns, inside, PRODUCT, column_limit=column_limit)

    return [
        Operator("attention.norm", "LayerNorm", ("feed_forward.residual",), rows, hidden, choices=ALONG_ROWS),
        matmul("attention.query", "attention.norm", width, hidden, column_limit=heads),
        matmul("attention.key", "attention.norm", keys, hidden, column_limit=model.key_value_heads),
        matmul("attention.value", "attention.norm", keys, hidden, column_limit=model.key_value_heads),
        Operator("attention.core", "BatchMatMul", ("attention.query", "attention.key", "attention.value"), rows, width,
                 passes=scores, row_limit=sequences, column_limit=heads),
        matmul("attention.output", "attention.core", hidden, width),
        Operator("attention.residual", "Add", ("attention.output", "feed_forward.residual"), rows, hidden, passes=3),
        Operator("feed_forward.norm", "LayerNorm", ("attention.residual",), rows, hidden, choices=ALONG_ROWS),
        matmul("feed_forward.up", "feed_forward.norm", ups * inner, hidden),
        Operator("feed_forward.activation", "GeLU", ("feed_forward.up",), rows, ups * inner),
        matmul("feed_forward.down", "feed_forward.activation", hidden, inner),
        Operator("feed_forward.residual", "Add", ("feed_forward.down", "attention.residual"), rows, hidden, passes=3),
    ]  # fmt: skip


def mesh_choice(block: BlockSharding) -> dict[str, int]:
    """Return what the mesh stands for: rows over dp; over tp columns of the first product and inner dimension of the
    second."""
    split = {"attention.output": INNER, "feed_forward.down": INNER}
    whole = ("attention.norm", "attention.residual", "feed_forward.norm", "feed_forward.residual")
    choice = {}
    for operator in block.operators:
        tensor = WHOLE if operator.name in whole else split.get(operator.name, COLUMNS)
        if tensor == COLUMNS:  # fewer key heads than ranks: each holds a copy
            parts = int(np.prod([axis.size for axis in block.axes if axis.name.startswith("tp")]))
            tensor = COLUMNS if parts <= operator.column_limit else WHOLE
        choice[operator.name] = block.index(
            operator.name, tuple(ROWS if axis.name == "dp" else tensor for axis in block.axes)
        )
    return choice
