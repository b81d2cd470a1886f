"""strategy.yaml: how a model is laid over a cluster. Short, commented, meant to be edited by hand.

The file names the model, the cluster and the framework too, so that one file is one setup. Rules that join two
fields are checked here; whatever breaks one gets a line with the field and the nearest legal value.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import yaml
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, SkipValidation, model_validator

from pangu.foundation.errors import PlacedError, UserError
from pangu.foundation.settings import changed, checked
from pangu.foundation.yaml_document import shown
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.divide import divisors, even_stages, nearest
from parallel_strategy.spec.even_parts import uneven_parts
from parallel_strategy.spec.file import PRESETS, Section, SpecFile
from parallel_strategy.spec.framework import FrameworkSpec, Schedule
from parallel_strategy.spec.model import ModelSpec

FILES = (".yaml", ".yml")
CHUNKED = ("interleaved", "mindspore_vpp", "mindspore_vpp_less_memory")
V_SHAPED = ("zb_v", "dualpipe")
MOST_TASKS = 5_000_000  # forward passes of all stages in a step: a replay of them takes seconds


class ModelChoice(Section):
    """The network: a preset or a file."""

    preset: str | None = Field(default=None, description="`init --list` shows them")
    file: str | None = Field(default=None, description="a model.yaml, relative to the strategy file")
    seq: PositiveInt | None = Field(default=None, description="sequence length, where it differs from the model's")
    dtype: Literal["fp32", "fp16", "bf16", "fp8", "fp4"] | None = Field(
        default=None, description="what it computes in, where that is not the model's"
    )


class ClusterChoice(Section):
    """The machine room: a preset or a file."""

    preset: str | None = Field(default=None, description="`init --list` shows them")
    file: str | None = Field(default=None, description="a cluster.yaml, relative to the strategy file")


class Batch(Section):
    """Sequences per step over the whole cluster, and per micro-batch on one data-parallel rank."""

    global_: PositiveInt = Field(alias="global", description="sequences of one step, of all devices")
    micro: PositiveInt = Field(default=1, description="sequences of one micro-batch on one data-parallel rank")


class Mesh(Section):
    """Sizes of the axes; `order` from the outermost (slowest rank) to the innermost."""

    pp: PositiveInt = Field(default=1, description="pipeline stages")
    dp: PositiveInt = Field(default=1, description="data-parallel ranks")
    cp: PositiveInt = Field(default=1, description="context-parallel ranks: parts of the sequence")
    tp: PositiveInt = Field(default=1, description="tensor-parallel ranks")
    ep: PositiveInt = Field(default=1, description="experts are spread over this many ranks of dp x cp")
    etp: PositiveInt | None = Field(
        default=None,
        description="ranks that split each expert, where they are not those of tp: ep is then of dp x cp x tp / etp "
        "(Megatron's --expert-tensor-parallel-size; 1: MindSpeed's --moe-tp-extend-ep)",
    )
    order: list[Literal["pp", "dp", "cp", "tp"]] = Field(default=["pp", "dp", "cp", "tp"])

    @property
    def devices(self) -> int:
        return self.pp * self.dp * self.cp * self.tp

    @property
    def expert_tensor(self) -> int:
        """Return the ranks that split each expert."""
        return self.etp or self.tp

    @property
    def is_folded(self) -> bool:
        """Return whether experts are split otherwise than all else."""
        return self.expert_tensor != self.tp

    @property
    def spreads_experts(self) -> bool:
        """Return whether ranks that hold the same dense weights hold other parts of experts."""
        return self.ep > 1 or self.is_folded

    @property
    def axes(self) -> list[str]:
        """Return the axes, outermost to innermost: those that `order` names, and before the innermost any other that is
        larger than 1."""
        return list(_strides(tuple(self.order), self.pp, self.dp, self.cp, self.tp))

    def stride(self, axis: str) -> int:
        """Return the distance in rank between neighbours along this axis."""
        strides = _strides(tuple(self.order), self.pp, self.dp, self.cp, self.tp)
        return strides.get(axis, self.devices)  # an axis of size 1 that the order leaves out

    @model_validator(mode="after")
    def check_order(self) -> "Mesh":
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"order {self.order} names an axis twice")
        if self.is_folded:
            return self._checked_fold()
        if (self.dp * self.cp) % self.ep:
            legal = divisors(self.dp * self.cp)
            raise ValueError(
                f"ep {self.ep} must divide dp x cp = {self.dp * self.cp}; nearest: {nearest(legal, self.ep)}"
            )
        return self

    def _checked_fold(self) -> "Mesh":
        ranks = self.dp * self.cp * self.tp
        if ranks % self.expert_tensor:
            legal = divisors(ranks)
            raise ValueError(
                f"etp {self.etp} must divide dp x cp x tp = {ranks}; nearest: {nearest(legal, self.expert_tensor)}"
            )
        if ranks // self.expert_tensor % self.ep:
            rest = ranks // self.expert_tensor
            raise ValueError(
                f"ep {self.ep} must divide dp x cp x tp / etp = {rest}; nearest: {nearest(divisors(rest), self.ep)}"
            )
        inner = [axis for axis in self.axes if axis != "pp" and getattr(self, axis) > 1]
        together = [self.stride(axis) for axis in inner]
        steps = [getattr(self, axis) * self.stride(axis) for axis in inner[1:]]
        if inner != [axis for axis in ("dp", "cp", "tp") if axis in inner] or together[:-1] != steps:
            raise ValueError(f"etp {self.etp} beside tp {self.tp} needs order [pp, dp, cp, tp], not {self.order}")
        return self


@lru_cache(maxsize=4096)
def _strides(order: tuple[str, ...], pp: int, dp: int, cp: int, tp: int) -> dict[str, int]:
    """Return the axes from the outermost to the innermost, each with the distance in rank between neighbours along
    it."""
    sizes, axes = {"pp": pp, "dp": dp, "cp": cp, "tp": tp}, list(order)
    for axis, size in sizes.items():
        if axis not in axes and size > 1:
            axes.insert(max(0, len(axes) - 1), axis)
    stride, strides = 1, {}
    for axis in reversed(axes):
        strides[axis] = stride
        stride *= sizes[axis]
    return dict(reversed(strides.items()))


class Pipeline(Section):
    """How micro-batches go through the stages."""

    schedule: Schedule = "1f1b"
    stages: list[PositiveInt] | None = Field(
        default=None, description="layers of each stage; absent: as even as can be"
    )
    vpp: PositiveInt = Field(default=1, description="chunks of layers on each stage")
    chunks: list[NonNegativeInt] | None = Field(
        default=None,
        description="layers of each chunk in the order of the model, pp x vpp of them, in place of `stages`; the first "
        "and the last, which have embedding and head, may have none",
    )
    micro_batches: PositiveInt | None = Field(default=None, description="absent: global batch / dp / micro")


class Tensor(Section):
    """How the operators of a layer are split over tp."""

    sequence_parallel: bool = Field(
        default=False, description="norms, dropouts and residual sums are split over tp by positions"
    )
    vocab: Literal["split", "whole"] = Field(default="split", description="how the embedding lies over tp")
    interleave: Literal[1, 2] = Field(
        default=1, description="2: a micro-batch runs as two halves, one's collectives beside the other's computation"
    )
    overlap: Literal[1, 2, 4, 8] = Field(
        default=1,
        description="parts in which a product runs beside the collective of its input or output (MindSpeed's CoC and "
        "MC2); 1: whole, and hidden as far as the framework file says",
    )


class Zero(Section):
    """Optimizer sharding. Level 1: states; 2: and gradients; 3: and weights (MindSpore's hsdp levels, ZeRO stages)."""

    optimizer_shard: bool = Field(default=False, description="false: every data-parallel rank has all of it")
    level: Literal[1, 2, 3] = 1
    group: Literal["dp"] = "dp"
    weight_shard_size: int = Field(
        default=-1, ge=-1, description="-1: the whole group; else ranks that share one copy, a divisor of dp x cp"
    )
    threshold_kb: int = Field(default=64, ge=0, description="parameters below this stay whole")
    bucket_mb: float | None = Field(
        default=None, ge=0.001, description="gradients are fused into collectives of this size; absent: one at the end"
    )
    whole: list[str] = Field(
        default=[], description="names of parameters, `*` for any text, that MindSpore is told to keep whole"
    )

    @property
    def stage(self) -> int:
        return self.level if self.optimizer_shard else 0


class Recompute(Section):
    """What is computed again in backward. `per_stage`: number of layers of each stage that `mode` applies to."""

    mode: Literal["none", "full", "selective"] = Field(default="none", description="selective: attention only")
    per_stage: list[NonNegativeInt] | None = Field(
        default=None, description="layers of each stage that it applies to; absent: all"
    )
    mp_comm: bool = Field(default=True, description="full: the tensor-parallel collectives run again too")
    slice_activation: bool = Field(default=False, description="the kept input of a layer is split over tp")


class Offload(Section):
    """What lies on the host."""

    optimizer: bool = Field(default=False, description="Adam's states live and are updated on the host")
    activation: float = Field(default=0.0, ge=0, le=1, description="share of saved activations copied to the host")


class Override(Section):
    """An operator whose sharding is not the block's: name pattern and MindSpore's in_strategy."""

    operator: str
    strategy: list[list[PositiveInt]]


class StrategySpec(SpecFile):
    """How a model is laid over a cluster. Every value can be edited; `predict` says what it costs."""

    written_by: ClassVar[str] = "python -m parallel_strategy init"

    version: Literal[1] = 1
    model: ModelChoice = ModelChoice()
    cluster: ClusterChoice = ClusterChoice()
    framework: str = Field(
        default="mindspore", description="what the software adds: kernels, overlap, host time; a preset or a .yaml file"
    )
    batch: Batch
    mesh: Mesh = Mesh()
    pipeline: Pipeline = Pipeline()
    tensor: Tensor = Tensor()
    zero: Zero = Zero()
    recompute: Recompute = Recompute()
    offload: Offload = Offload()
    overrides: list[Override] = Field(
        default=[], description="operators that are split otherwise: {operator: pattern, strategy: [[..], [..]]}"
    )

    @classmethod
    def presets_directory(cls) -> Path:
        return PRESETS / "strategies"

    @model_validator(mode="after")
    def check_batch(self) -> "StrategySpec":
        share = self.batch.global_ / self.mesh.dp
        per_rank = self.batch.global_ // self.mesh.dp
        if self.batch.global_ < self.mesh.dp:
            raise ValueError(
                f"mesh.dp {self.mesh.dp} must divide batch.global {self.batch.global_}; nearest: {self.batch.global_}"
            )
        if self.batch.global_ % self.mesh.dp:
            low = self.batch.global_ // self.mesh.dp * self.mesh.dp
            legal = [n for n in (low, low + self.mesh.dp) if n]
            raise ValueError(
                f"batch.global {self.batch.global_} must be a multiple of mesh.dp {self.mesh.dp}; "
                f"nearest: {nearest(legal, self.batch.global_)}"
            )
        if per_rank % self.batch.micro:
            raise ValueError(
                f"batch.micro {self.batch.micro} must divide the {share:g} sequences of one data-parallel rank; "
                f"nearest: {nearest(divisors(per_rank), self.batch.micro)}"
            )
        if self.pipeline.micro_batches not in (None, per_rank // self.batch.micro):
            raise ValueError(
                f"pipeline.micro_batches {self.pipeline.micro_batches} disagrees with batch and mesh, which give "
                f"{per_rank // self.batch.micro}"
            )
        return self

    @model_validator(mode="after")
    def check_pipeline(self) -> "StrategySpec":
        pipeline, pp = self.pipeline, self.mesh.pp
        if pipeline.chunks is not None:
            self._check_chunks(pipeline.chunks)
        if pipeline.stages is not None and len(pipeline.stages) != pp:
            raise ValueError(f"pipeline.stages has {len(pipeline.stages)} entries, mesh.pp is {pp}")
        if self.recompute.per_stage is not None and len(self.recompute.per_stage) != pp:
            raise ValueError(f"recompute.per_stage has {len(self.recompute.per_stage)} entries, mesh.pp is {pp}")
        if pipeline.schedule in CHUNKED and pp > 1 and pipeline.vpp > 1 and self.micro_batches % pp:
            legal = [max(1, self.micro_batches // pp) * pp, (self.micro_batches // pp + 1) * pp]
            raise ValueError(
                f"pipeline.schedule {pipeline.schedule!r} needs a number of micro-batches that is a multiple "
                f"of pp {pp}, "
                f"not {self.micro_batches}; nearest: {nearest(legal, self.micro_batches)}"
            )
        copies, size = self.mesh.dp * self.mesh.cp, self.zero.weight_shard_size
        if size == 0 or (size > 0 and self.zero.optimizer_shard and copies % size):
            raise ValueError(
                f"zero.weight_shard_size {size} must be -1 or divide dp x cp = {copies}; "
                f"nearest: {nearest(divisors(copies), size)}"
            )
        if self.tensor.interleave > 1 and self.batch.micro % self.tensor.interleave:
            raise ValueError(
                f"tensor.interleave {self.tensor.interleave} must divide batch.micro {self.batch.micro}; nearest: 1"
            )
        if pipeline.vpp > 1 and pipeline.schedule not in CHUNKED:
            raise ValueError(f"pipeline.vpp {pipeline.vpp} needs a schedule with chunks; nearest: 'interleaved'")
        return self

    def _check_chunks(self, chunks: list[int]) -> None:
        count = self.mesh.pp * self.chunks_per_stage
        if self.pipeline.stages is not None:
            raise ValueError("pipeline.chunks and pipeline.stages say the same thing; leave one of them")
        if len(chunks) != count:
            raise ValueError(
                f"pipeline.chunks has {len(chunks)} entries, mesh.pp x chunks of a stage = {count}; nearest: {count}"
            )
        if 0 in chunks[1:-1] or (count == 1 and chunks == [0]):
            raise ValueError(
                f"pipeline.chunks: chunk {chunks.index(0, 1) if count > 1 else 0} has no layer; nearest: 1"
            )

    def dump(self) -> str:
        """Return YAML text that `parse` reads back to an equal strategy."""
        return yaml.safe_dump(
            self.model_dump(mode="json", by_alias=True, exclude_none=True),
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,
            width=110,
        )

    def moved(self, old: Path, new: Path) -> "StrategySpec":
        """Return the same strategy for a file in folder `new` instead of `old`: files that it names are still found."""

        def there(name: str) -> str:
            path = Path(name)
            return name if path.is_absolute() else os.path.relpath((old / path).resolve(), new.resolve())

        updates: dict[str, object] = {}
        for field, choice in (("model", self.model), ("cluster", self.cluster)):
            if choice.file is not None:
                updates[field] = choice.model_copy(update={"file": there(choice.file)})
        if self.framework.endswith(FILES):
            updates["framework"] = there(self.framework)
        return self.model_copy(update=updates)

    @property
    def micro_batches(self) -> int:
        return self.batch.global_ // self.mesh.dp // self.batch.micro

    def check_model(self, model: ModelSpec) -> None:
        """Check the rules that join the strategy with the model. Raises UserError with the nearest legal value."""
        mesh, pipeline = self.mesh, self.pipeline
        if model.num_heads % mesh.tp:
            raise UserError(
                f"mesh.tp {mesh.tp} must divide num_heads {model.num_heads}; "
                f"nearest: {nearest(divisors(model.num_heads), mesh.tp)}"
            )
        if model.seq_length % mesh.cp:
            raise UserError(
                f"mesh.cp {mesh.cp} must divide the sequence {model.seq_length}; "
                f"nearest: {nearest(divisors(model.seq_length), mesh.cp)}"
            )
        if mesh.ep > 1 and (model.experts is None or model.experts.count % mesh.ep):
            count = model.experts.count if model.experts else 1
            raise UserError(
                f"mesh.ep {mesh.ep} must divide the {count} experts of the model; nearest: "
                f"{nearest(divisors(count), mesh.ep)}"
            )
        if mesh.is_folded:
            self._check_fold(model)
        chunks = mesh.pp * self.chunks_per_stage
        if pipeline.chunks is not None and sum(pipeline.chunks) != model.num_layers:
            raise UserError(
                f"pipeline.chunks sums to {sum(pipeline.chunks)}, the model has {model.num_layers} layers; "
                f"nearest: {even_stages(model.num_layers, chunks)}"
            )
        if chunks > model.num_layers and pipeline.chunks is None:
            raise UserError(
                f"mesh.pp {mesh.pp} x chunks {self.chunks_per_stage} needs {chunks} layers, the model has "
                f"{model.num_layers}; "
                f"nearest pp: {max(1, model.num_layers // self.chunks_per_stage)}"
            )
        if pipeline.stages is not None and sum(pipeline.stages) != model.num_layers:
            raise UserError(
                f"pipeline.stages sums to {sum(pipeline.stages)}, the model has {model.num_layers} layers; "
                f"nearest: {even_stages(model.num_layers, mesh.pp)}"
            )
        if self.micro_batches * chunks > MOST_TASKS:
            most = max(1, MOST_TASKS // chunks) * self.batch.micro * self.mesh.dp
            raise UserError(
                f"batch.global {self.batch.global_}: {self.micro_batches:,} micro-batches through {chunks:,} chunks of "
                f"layers are more than are replayed; nearest: {most}"
            )

    def _check_fold(self, model: ModelSpec) -> None:
        """Check an expert-tensor size apart from tp: each rank of the tensor group must have tokens of its own."""
        etp = self.mesh.expert_tensor
        if model.experts is None:
            raise UserError(f"mesh.etp {etp} splits experts, and the model has none; nearest: {self.mesh.tp}")
        if model.experts.ffn_hidden_size % etp:
            legal = divisors(model.experts.ffn_hidden_size)
            raise UserError(
                f"mesh.etp {etp} must divide experts.ffn_hidden_size {model.experts.ffn_hidden_size}; "
                f"nearest: {nearest(legal, etp)}"
            )
        if self.mesh.tp > 1 and not self.tensor.sequence_parallel:
            raise UserError(
                f"mesh.etp {etp} beside mesh.tp {self.mesh.tp} needs tensor.sequence_parallel: true; "
                f"nearest: {self.mesh.tp}"
            )

    def check_stages(self, model: ModelSpec) -> None:
        """Check layers of each stage against its chunks and what it recomputes. Rows of measured runs need not obey."""
        stages = self.layers_of_stages(model.num_layers)
        if min(stages) < self.chunks_per_stage and self.pipeline.chunks is None:
            raise UserError(
                f"pipeline.stages: stage {stages.index(min(stages))} has {min(stages)} layers for "
                f"{self.chunks_per_stage} chunks; nearest: {even_stages(model.num_layers, self.mesh.pp)}"
            )
        for stage, (layers, again) in enumerate(zip(stages, self.recompute.per_stage or stages, strict=True)):
            if again > layers:
                raise UserError(
                    f"recompute.per_stage: stage {stage} recomputes {again} of its {layers} layers; nearest: {layers}"
                )

    def check_parts(self, model: ModelSpec, cluster: ClusterSpec) -> None:
        """Check what must fall into equal parts, and the type that the device must have. Rows of measured runs need not
        obey. Raises UserError with the nearest legal value."""
        mesh = self.mesh
        split = self.tensor.sequence_parallel
        for line in uneven_parts(model, mesh.tp, mesh.cp, sequence_parallel=split, etp=mesh.expert_tensor):
            raise UserError(line)
        best = cluster.device.nearest_dtype(model.compute_dtype)
        if best != model.compute_dtype:
            raise UserError(f"model.dtype: {cluster.device.name} has no {model.compute_dtype}; nearest: {best!r}")

    @property
    def chunks_per_stage(self) -> int:
        if self.mesh.pp > 1 and self.pipeline.schedule in V_SHAPED:
            return 2
        return self.pipeline.vpp

    @property
    def stages_of_chunks(self) -> list[int]:
        """Return the stage that holds each chunk, in the order of the model: round robin, or there and back again for
        the V-shaped schedules."""
        pp, per_stage = self.mesh.pp, self.chunks_per_stage
        if per_stage == 2 and self.pipeline.schedule in V_SHAPED:
            return [*range(pp), *reversed(range(pp))]
        return list(range(pp)) * per_stage

    def layers_of_chunks(self, num_layers: int) -> list[int]:
        """Return the layers of each chunk in the order of the model. Explicit stages are cut evenly into theirs."""
        pipeline, owners = self.pipeline, self.stages_of_chunks
        if pipeline.chunks is not None:
            return list(pipeline.chunks)
        if pipeline.stages is None:
            return even_stages(num_layers, len(owners))
        sizes = [0] * len(owners)
        for stage, layers in enumerate(pipeline.stages):
            mine = [index for index, owner in enumerate(owners) if owner == stage]
            for index, size in zip(mine, even_stages(layers, len(mine)), strict=True):
                sizes[index] = size
        return sizes

    def layers_of_stages(self, num_layers: int) -> list[int]:
        if self.pipeline.stages:
            return list(self.pipeline.stages)
        layers = [0] * self.mesh.pp
        for stage, size in zip(self.stages_of_chunks, self.layers_of_chunks(num_layers), strict=True):
            layers[stage] += size
        return layers


class Residual(Protocol):
    """What runs of like shapes took beyond the model, as a calibration knows it."""

    def factor(self, model: ModelSpec, strategy: StrategySpec) -> float:
        """Return what a predicted step time is multiplied by."""
        ...

    def interval(self, model: ModelSpec, strategy: StrategySpec) -> float:
        """Return the factor within which four of five measured times lie."""
        ...


class Setup(Section):
    """A strategy with everything it names resolved: what every reader of the program starts from."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: ModelSpec
    cluster: ClusterSpec
    framework: FrameworkSpec
    strategy: StrategySpec
    residual: SkipValidation[Residual | None] = None  # of a calibration

    @classmethod
    def load(cls, path: Path | str, changes: Iterable[Sequence[str]] = (), devices: int | None = None) -> "Setup":
        """Read a strategy file and the files or presets that it names, and check them against each other.

        `changes` are the (field, value) pairs of `--set`; `devices` is how many compute, where they are not those of
        the file's mesh.
        """
        document = changed(StrategySpec.read(path), changes)
        strategy = checked(StrategySpec, document)
        folder = Path(path).parent
        try:
            return cls.resolve(strategy, folder, devices)
        except PlacedError:
            raise
        except UserError as error:
            raise document.mistake(str(error)) from None

    @classmethod
    def resolve(cls, strategy: StrategySpec, folder: Path, devices: int | None = None) -> "Setup":
        model = _choose(ModelSpec, strategy.model.preset, strategy.model.file, folder, "model", "pangu-alpha-2.6b")
        updates: dict[str, object] = {}
        if strategy.model.seq is not None:
            updates["seq_length"] = strategy.model.seq
        if strategy.model.dtype is not None:
            updates["compute_dtype"] = strategy.model.dtype
        model = model.model_copy(update=updates)
        cluster = _choose(
            ClusterSpec, strategy.cluster.preset, strategy.cluster.file, folder, "cluster", "cloudbrain2-2048"
        )
        if strategy.framework.endswith(FILES):
            framework = FrameworkSpec.load(_there(folder, strategy.framework, "framework"))
        else:
            framework = _preset(FrameworkSpec, strategy.framework, "framework")
        strategy.check_model(model)
        strategy.check_stages(model)
        strategy.check_parts(model, cluster)
        needed, present = strategy.mesh.devices, cluster.device_count
        if needed > present:
            raise UserError(
                f"mesh: pp x dp x cp x tp = {needed} devices, the cluster {cluster.name!r} has {present}; "
                f"nearest mesh.dp: "
                f"{max(1, strategy.mesh.dp * present // needed)}"
            )
        crowded = cluster.crowded(devices or strategy.mesh.devices)
        return cls(model=model, cluster=crowded, framework=framework, strategy=strategy)

    def with_strategy(self, strategy: StrategySpec) -> "Setup":
        """Return the same model, cluster and framework under another strategy, which is known to be legal."""
        return Setup.model_construct(
            model=self.model,
            cluster=self.cluster,
            framework=self.framework,
            strategy=strategy,
            residual=self.residual,
        )


def _choose(kind, preset: str | None, file: str | None, folder: Path, field: str, default: str):
    if preset is not None and file is not None:
        raise UserError(f"{field}: give preset or file, not both")
    if file is not None:
        return kind.load(_there(folder, file, f"{field}.file"))
    return _preset(kind, default if preset is None else preset, f"{field}.preset")


def _preset(kind, name: str, field: str):
    try:
        return kind.preset(name)
    except PlacedError:
        raise
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def _there(folder: Path, name: str, field: str) -> Path:
    """Return the file that a field names, seen from the folder of the strategy file."""
    path = folder / name
    try:
        found = path.is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        beside = [entry.name for entry in folder.glob("*.y*ml")]
        near = difflib.get_close_matches(Path(name).name, beside, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{field}: {shown(name, 200)}: there is no such file in {folder.resolve()}{hint}")
    return path
