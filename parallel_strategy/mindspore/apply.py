"""A strategy applied to a serial training step, from outside: nothing of the network changes but what is set here.

MindSpore's semi-automatic parallelism reads everything from attributes: the split of each operator, the pipeline stage
and the recomputation of each cell, and a configuration around the whole. A step is any cell with `loss` (the network
under its loss, whose operators have the names of `operators`), `optimizer` and `accumulate_inside`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.communication import create_group, get_rank, init
from mindspore.nn.utils import no_init_parameters
from mindspore.parallel import Layout
from mindspore.parallel._auto_parallel_context import auto_parallel_context
from mindspore.parallel._utils import _clear_auto_parallel_context, _init_auto_parallel_context
from mindspore.parallel.auto_parallel import AutoParallel
from mindspore.parallel.nn import GradAccumulation, Pipeline

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.fusion import whole_megabytes
from parallel_strategy.mindspore.limits import check_propagated, check_read, check_supported
from parallel_strategy.mindspore.operator_splits import operator_splits
from parallel_strategy.mindspore.pangu_network import (
    EXPERT_LETTERS,
    FOLLOWERS,
    RECOMPUTED,
    TABLE_COPY,
    layer_of_cell,
    owned_parameters,
    row_of,
)
from parallel_strategy.mindspore.pipeline_stages import (
    places_of_layers,
    recomputed_layers,
    stage_of_cell,
    stays_whole,
)
from parallel_strategy.spec.strategy import Setup

SCHEDULERS = {"1f1b": "1f1b", "gpipe": "gpipe", "mindspore_vpp": "1f1b", "zb_v": "zero_bubble_v"}


def start(setup: Setup) -> None:
    """Set compiled graphs for Ascend, and the process's place among the others."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="Ascend")
    init()


class AccumulatedGradients(nn.Cell):
    """(gradients, loss) -> the same, of all parts of the batch, and the sums set back to zero.

    MindSpore's compiler adds each part's gradients to the parameters that are called `accu_grads.*` here, and reduces
    them over the devices with the last part. With optimizer sharding what it returns is the reduced sum already;
    without, the sum stands in these parameters (mindspore.parallel.nn.PipelineGradReducer, whose second case does not
    compile in 2.10).
    """

    def __init__(self, parameters: ParameterTuple, sharded: bool, tied: "TiedTable | None") -> None:
        super().__init__(auto_prefix=False)
        self.sums = parameters.clone(prefix="accu_grads", init="zeros")
        self.sharded = sharded
        self.map = ops.HyperMap()
        here = tied.index_here if tied is not None else -1
        self.tied = tuple(index == here for index in range(len(parameters)))
        if tied is not None and here >= 0:
            self.add_tied = ops.AllReduce(group=tied.group)

    def take(self, gradient: Tensor, total: Parameter, tied: bool) -> Tensor:
        result = gradient if self.sharded else ops.depend(total, gradient) * 1.0
        total = ops.depend(total, result)
        result = ops.depend(result, ops.assign(total, ops.zeros_like(total)))
        return self.add_tied(result) if tied else result

    def construct(self, gradients: tuple[Tensor, ...], loss: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.map(self.take, gradients, self.sums, self.tied), loss


@dataclass(frozen=True)
class TiedTable:
    """The word table where two stages of a pipeline read it, each its own copy.

    A parameter that two stages share gets no gradient on the second in MindSpore 2.10, silently. With a copy both get
    one, their sum updates both, and they stay equal to the bit.
    """

    index_here: int  # which of the optimizer's parameters this stage has of the two; -1: none
    group: str  # of the two ranks that hold the same part
    ranks: tuple[int, int]


def copy_tied_table(setup: Setup, step: nn.Cell) -> TiedTable | None:
    """Give the last stage a word table of its own. None where one stage has both ends."""
    mesh, rank = setup.strategy.mesh, get_rank()
    places = places_of_layers(setup)
    first_stage, last_stage = places[0].stage, places[-1].stage
    if first_stage == last_stage:  # also where a schedule leads there and back again
        return None
    network = step.loss.network.network
    table = network.output_table
    if not table.requires_grad:  # there is nothing to add
        network.output_table = Parameter(
            initializer("zeros", table.shape, table.dtype) if table.has_init else table.value(),
            name=TABLE_COPY,
            requires_grad=False,
        )
        return None
    # Not a clone: MindSpore lays a clone out as an optimizer's state of what it was cloned from.
    copy = Parameter(
        initializer("zeros", table.shape, table.dtype) if table.has_init else table.value(), name=TABLE_COPY
    )
    network.output_table = copy
    parameters = [*step.optimizer.parameters, copy]
    step.optimizer.update_these(parameters)
    step.holders = tuple(2 if parameter is table or parameter is copy else 1 for parameter in parameters)
    stage_devices = mesh.devices // mesh.pp
    stage, place = divmod(rank, stage_devices)
    ends = (place + first_stage * stage_devices, place + last_stage * stage_devices)
    group = f"tied-{place}"
    if stage not in (first_stage, last_stage):
        return TiedTable(-1, group, ends)
    create_group(group, list(ends))
    first = next(index for index, parameter in enumerate(parameters) if parameter is table)
    return TiedTable(first if stage == first_stage else len(parameters) - 1, group, ends)


class FedByParameters(nn.Cell):
    """A step whose inputs are those of its differentiated part; the other numbers are parameters that are set before.

    MindSpore gives every compiled graph that takes data a strategy for it, and has one strategy for all of them.
    """

    def __init__(self, step: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.step = step
        self.loss_scale, self.learning_rate, self.epsilon, self.decay = (
            Parameter(Tensor(1.0, ms.float32), name=name, requires_grad=False)
            for name in ("loss_scale", "learning_rate", "epsilon", "decay")
        )

    def construct(self, rows: Tensor, scale: Tensor, dropout_seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.step.update(
            rows, scale, dropout_seed, self.loss_scale, self.learning_rate, self.epsilon, self.decay
        )


@dataclass(frozen=True)
class StrategyFiles:
    """MindSpore's own files. Absolute paths; the last two end in .json.

    load_parameters: the splits of all operators that own a parameter, which then get none here (parameter strategy, or
    its JSON). load_operators: the splits of all operators. save_operators: where MindSpore writes those that are set
    here. It reads and writes operators' splits in sharding propagation only; there every rank takes the whole batch,
    for it finds no strategy for inputs that are split over a part of the devices.
    """

    load_parameters: str | None = None
    load_operators: str | None = None
    save_operators: str | None = None

    @property
    def propagated(self) -> bool:
        return self.load_operators is not None or self.save_operators is not None


class ParallelStep:
    """The step under a strategy; called as the serial step is, with this rank's share of the rows (`whole_batch`: with
    all of them)."""

    def __init__(
        self, step: FedByParameters, whole: AutoParallel, parts: int, tied: TiedTable | None, whole_batch: bool
    ) -> None:
        self.step, self.whole, self.parts, self.whole_batch = step, whole, parts, whole_batch
        # Groups that are not MindSpore's own: its compiled graphs name them, but say wrong ranks beside the name.
        self.groups = {tied.group: tied.ranks} if tied is not None else {}

    def inputs(self, rows: Tensor, scale: float, dropout_seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return prepared rows [N, ...], with one scale and one seed for each part that they are cut into."""
        shape = (self.parts,) if self.parts > 1 else ()
        seeds = dropout_seed + np.arange(self.parts, dtype=np.int32).reshape(shape)
        return rows, Tensor(np.full(shape, scale, np.float32)), Tensor(seeds, ms.int32)

    def compile(self, rows: Tensor) -> dict[str, tuple]:
        """Compile for rows of this shape; returns MindSpore's layout of every parameter."""
        self.whole.compile(*self.inputs(rows, 1.0, 0))
        return self.whole.parameter_layout_dict

    def fusion_mb(self) -> dict[str, int]:
        """Return what MindSpore's compiler is told of the size of fused collectives, as it reads it."""
        _init_auto_parallel_context(self.whole)
        told = auto_parallel_context()
        try:
            return {
                "allreduce": told.fusion_threshold_mb(),
                "allgather": told.allgather_fusion_threshold_mb(),
                "reducescatter": told.reducescatter_fusion_threshold_mb(),
            }
        finally:
            _clear_auto_parallel_context(self.whole)

    def __call__(
        self, rows: Tensor, predictions: Tensor, loss_scale: Tensor, dropout_seed: Tensor, *rates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do what the serial step does. rates: its learning rate, epsilon and decay."""
        step = self.step
        holders = (step.loss_scale, step.learning_rate, step.epsilon, step.decay)
        for holder, value in zip(holders, (loss_scale, *rates), strict=True):
            holder.set_data(value)
        scale = float(loss_scale.asnumpy()) / float(predictions.asnumpy())
        return self.whole(*self.inputs(rows, scale, int(dropout_seed.asnumpy())))


def apply(setup: Setup, step: nn.Cell, files: StrategyFiles | None = None, row_axes: int = 1) -> ParallelStep:
    """Return the step under the strategy, or with splits from MindSpore's files.

    row_axes: of a prepared row: 1 for the ids of a causal one.

    Raises UserError for what MindSpore cannot do and for an operator without a split.
    """
    strategy, mesh, files = setup.strategy, setup.strategy.mesh, files or StrategyFiles()
    check_supported(setup)
    if files.propagated:
        check_propagated(setup)
    if files.load_parameters is not None:
        check_read(setup)
    loss = step.loss
    if files.load_operators is None:
        owners = {owned.path for owned in owned_parameters(setup.model)}
        shard_operators(setup, loss, skip=owners if files.load_parameters is not None else set())
    if setup.model.experts is not None and mesh.pp > 1:
        loss.network.copies = mesh.tp
    place_stages(setup, loss)
    recompute_layers(setup, loss)
    with no_init_parameters():
        tied = copy_tied_table(setup, step)
    for parameter in loss.trainable_params():
        parameter.parallel_optimizer = not stays_whole(setup, parameter.name)
    if strategy.offload.optimizer:
        put_on_host(step.optimizer)
    parts = strategy.micro_batches
    if parts > 1:
        loss.cell_init_args = "lazy_inline_" + type(loss).__name__  # one graph for all micro-batches
    if mesh.pp > 1:
        share_other_stages(setup, loss)
        step.accumulate_inside(lambda whole: Pipeline(whole, parts))
    elif parts > 1:
        step.accumulate_inside(lambda whole: GradAccumulation(whole, parts))
    if parts > 1:
        with no_init_parameters():
            step.reduction = AccumulatedGradients(step.optimizer.parameters, strategy.zero.optimizer_shard, tied)
    step.set_train()
    fed = FedByParameters(step)
    return ParallelStep(fed, configured(setup, fed, files, row_axes), parts, tied, files.propagated)


def configured(setup: Setup, step: nn.Cell, files: StrategyFiles, row_axes: int) -> AutoParallel:
    strategy, mesh, zero = setup.strategy, setup.strategy.mesh, setup.strategy.zero
    whole = AutoParallel(step, parallel_mode="sharding_propagation" if files.propagated else "semi_auto")
    if files.load_parameters is not None:
        whole.load_param_strategy_file(files.load_parameters)
    if files.load_operators is not None:
        whole.load_operator_strategy_file(files.load_operators)
    if files.save_operators is not None:
        whole.save_operator_strategy_file(files.save_operators)
    if files.propagated:
        whole.dataset_strategy("full_batch")
    else:
        # What the differentiated part takes: rows, scale and seed; the last two one for each part that it cuts.
        one = (1,) if strategy.micro_batches > 1 else ()
        whole.dataset_strategy(((mesh.dp, *(1 for _ in range(row_axes))), one, one))
    if mesh.pp > 1:
        schedule = strategy.pipeline.schedule
        interleave = strategy.pipeline.vpp > 1 or schedule != "1f1b"  # MindSpore has the others as interleaved ones
        whole.pipeline(stages=mesh.pp, interleave=interleave, scheduler=SCHEDULERS[schedule])
    if fusion := fused(setup):
        whole.comm_fusion(fusion)
    if zero.optimizer_shard:
        whole.hsdp(zero.weight_shard_size, zero.threshold_kb, f"level{zero.level}")
    return whole


def fused(setup: Setup) -> dict[str, dict]:
    """Return MindSpore's configuration of fused collectives: each kind up to a size in whole megabytes. Empty: its
    default."""
    size = whole_megabytes(setup)
    if size is None:
        return {}
    limit = {"mode": "size", "config": size}
    return {kind: dict(limit) for kind in ("allreduce", "allgather", "reducescatter")}


def operators(cell: nn.Cell, path: str = "") -> Iterator[tuple[str, ops.Primitive]]:
    """Yield every primitive of a network with its path. A network that the loss wraps is left out of the path."""
    for name, primitive in cell._primitives.items():
        yield f"{path}{name}", primitive
    for name, child in cell._cells.items():
        if child is not None:
            yield from operators(child, path if name in ("network", "base") else f"{path}{name}.")


def shard_operators(setup: Setup, loss: nn.Cell, skip: set[str]) -> None:
    splits = operator_splits(setup)
    for path, primitive in operators(loss):
        if path in skip:
            continue
        split = splits.of(path)
        if split is not None and (placed := expert_layouts(setup, path)) is not None:
            primitive.shard(placed)
        elif split is not None:
            primitive.shard(split.inputs, split.outputs)
        elif primitive.name not in FOLLOWERS:
            raise UserError(f"operator {path} ({primitive.name}) has no split: it has no row in pangu_network")


def expert_layouts(setup: Setup, path: str) -> tuple[Layout, ...] | None:
    """Return where the operands of an expert's operator lie, where data parallelism is larger than expert parallelism.

    MindSpore would order the devices as the operands come, experts before rows. Neighbours must have different experts
    of the same rows, or each all-to-all becomes several collectives.
    """
    mesh, row = setup.strategy.mesh, row_of(path)
    if row is None or not 1 < mesh.ep < mesh.dp:
        return None
    if not any(dimension.letter in EXPERT_LETTERS for operand in row.operands for dimension in operand):
        return None
    sizes = {"Q": mesh.dp // mesh.ep, "P": mesh.ep, "M": mesh.tp}
    axes = {letter: size for letter, size in sizes.items() if size > 1}
    layout = Layout(tuple(axes.values()), tuple(axes))
    words = [[one.letter if one.letter in axes else "None" for one in operand] for operand in row.operands if operand]
    return tuple(layout(*operand) for operand in words)


def place_stages(setup: Setup, loss: nn.Cell) -> None:
    if setup.strategy.mesh.pp == 1:
        return
    places = places_of_layers(setup)
    for path, cell in loss.cells_and_names():
        place = stage_of_cell(setup, path.replace("network.", ""), places)
        if place is not None:
            cell.pipeline_stage = place.stage
            if setup.strategy.chunks_per_stage > 1:
                cell.pipeline_segment = place.chunk


def share_other_stages(setup: Setup, loss: nn.Cell) -> None:
    """Let the compiler read one layer for all those of other stages, which it drops: a third of its time at 64 layers.

    Layers of the same stage cannot share a graph: it would have one set of gradients.
    """
    places = places_of_layers(setup)
    stage = get_rank() // (setup.strategy.mesh.devices // setup.strategy.mesh.pp)
    for path, cell in loss.cells_and_names():
        layer = layer_of_cell(setup.model, path.replace("network.", ""))
        if layer is not None and places[layer].stage != stage:
            cell.cell_init_args = "lazy_inline_" + type(cell).__name__


def recompute_layers(setup: Setup, loss: nn.Cell) -> None:
    """Recompute the first layers of each stage, as many as the strategy says; `selective` is softmax and what it
    takes."""
    strategy = setup.strategy
    mode = strategy.recompute.mode
    wanted = recomputed_layers(setup)
    for path, cell in loss.cells_and_names():
        layer = layer_of_cell(setup.model, path.replace("network.", ""))
        if layer is None or layer not in wanted:
            continue
        if mode == "full":
            cell.recompute(
                mp_comm_recompute=strategy.recompute.mp_comm,
                recompute_slice_activation=strategy.recompute.slice_activation,
            )
        else:
            for name in RECOMPUTED:
                getattr(cell.attention, name).recompute()


def put_on_host(optimizer: nn.Cell) -> None:
    """Run Adam's kernel on the host, where its moments then are."""
    optimizer.adam_weight_decay.set_device("CPU")
