"""A framework: what the software adds to the hardware. Which kernels are fused, what overlaps, what the host costs.

A framework is a preset, or a file with these fields. None of its figures is fitted to the step times of a table that is
reported with it, unless a calibration file says so.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from parallel_strategy.spec.file import PRESETS, Section, SpecFile

# Kinds of kernels beside matrix products, and how many tensors of the main one's size each reads and writes.
TENSORS = {
    "small": 0.0,  # next to nothing: a launch
    "multiply": 3.0,  # any of two equal shapes
    "scale": 2.0,  # by a number
    "broadcast": 2.0,  # with one number a row
    "row": 2.0,  # with one row
    "bias": 2.0,
    "sum": 1.0,  # of each row
    "column": 1.0,  # sum over rows
    "sigmoid": 2.0,
    "layer_norm": 2.0,
    "softmax": 2.0,
    "log_softmax": 2.0,
    "log_softmax_gradient": 3.0,
    "transpose": 2.0,
    "gather": 2.0,
    "scatter": 2.0,
}


Schedule = Literal[
    "gpipe", "1f1b", "interleaved", "mindspore_vpp", "mindspore_vpp_less_memory", "zb_h1", "zb_h2", "zb_v", "dualpipe"
]
MeshAxis = Literal["pp", "dp", "cp", "tp", "ep"]
Dtype = Literal["fp32", "fp16", "bf16", "fp8", "fp4"]


class Executes(Section):
    """What a framework can carry out of a strategy. Whatever is left out sets no limit.

    `predict` prices what leaves it and says so; `export`, `prove` and `compile` refuse it
    (`spec.capability.outside`).
    """

    schedules: list[Schedule] | None = Field(default=None, description="with more than one pipeline stage")
    axes: list[MeshAxis] | None = Field(default=None, description="axes of the mesh that may be larger than 1")
    order: list[Literal["pp", "dp", "cp", "tp"]] | None = Field(
        default=None, description="the order of the mesh's axes, outermost first"
    )
    zero_stages: list[Literal[0, 1, 2, 3]] | None = Field(default=None, description="optimizer sharding; 0: none")
    dtypes: list[Dtype] | None = None
    expert_tensor: bool = Field(default=True, description="mesh.etp other than mesh.tp")
    chunk_sizes: bool = Field(default=True, description="pipeline.chunks: chunks of sizes of their own")
    overlap: bool = Field(default=True, description="tensor.overlap above 1")
    interleave: bool = Field(default=True, description="tensor.interleave 2")
    sequence_parallel: bool = True
    sequence_parallel_micro: PositiveInt | None = Field(
        default=None, description="largest batch.micro with sequence or context parallelism"
    )
    micro_batches_per_stage: dict[Schedule, PositiveInt] = Field(
        default={}, description="the fewest micro-batches of a pipeline over its stages, by schedule"
    )
    uneven_vocabulary: bool = Field(
        default=True, description="a split vocabulary need not be a multiple of mesh.tp: it is padded"
    )
    offload_optimizer: bool = True
    offload_activation: bool = True
    overrides: bool = Field(default=True, description="operators that are split otherwise")
    server_devices: PositiveInt | None = Field(
        default=None, description="beyond half a server the devices must fill servers of so many"
    )
    only_pangu_alpha: bool = Field(default=False, description="it has this project's network and no other")


class Composed(Section):
    """The kernels of an operator that has none of its own: kind -> how many, each over the operator's main tensor."""

    forward: dict[str, NonNegativeFloat] = Field(default={})
    backward: dict[str, NonNegativeFloat] = Field(default={})

    @field_validator("forward", "backward")
    @classmethod
    def check_kinds(cls, counts: dict[str, float]) -> dict[str, float]:
        for kind in counts:
            if kind not in TENSORS:
                raise ValueError(f"{kind!r} is no kind of kernel; known: {', '.join(TENSORS)}")
        return counts


class ExpertHabits(Section):
    """How a framework runs a layer of experts."""

    router_launches: NonNegativeFloat = Field(
        default=8.0, description="kernels of routing and permuting that the host issues forward; half as many backward"
    )
    launches_per_expert: NonNegativeFloat = Field(
        default=0.0, description="kernels for each expert of a rank forward; twice as many backward. 0: grouped ones"
    )
    waits_for_counts: bool = Field(
        default=False,
        description="the host reads how many tokens each expert has before it issues the rest: nothing is issued "
        "ahead, and what it issues for experts adds to the device's time",
    )
    overlap: float = Field(default=0.0, ge=0, le=1, description="share of the experts' all-to-all that is hidden")
    network_overlap: float = Field(
        default=0.0, ge=0, le=1, description="the same where the group crosses servers, if that is more"
    )
    dispatch: Literal["expert", "server"] = Field(
        default="expert",
        description="a token is sent once for every expert that it chose, or once to each rank and server of them",
    )


class FrameworkSpec(SpecFile):
    """Kernels, overlap, host and memory habits of one training framework."""

    name: str
    executes: Executes = Field(default=Executes(), description="what it can carry out; left out: everything")
    described_by: Literal["megatron", "mindformers"] | None = Field(
        default=None, description="whose configuration says a strategy to it; `search` keeps to what that can say"
    )
    spread: float = Field(
        default=0.12,
        gt=0,
        description="of ln(measured / predicted) where no calibration has seen a run: of its development rows, if any",
    )
    attention: Literal["unfused", "fused_softmax", "flash"] = Field(
        default="fused_softmax", description="flash never writes the score matrix; fused_softmax writes it in 16 bits"
    )
    causal_flash: bool = Field(default=True, description="the flash kernel skips the masked half")
    flash_scale: float = Field(default=1.0, gt=0, description="over the device's flash_eff: age of the kernel")
    ring_scale: float = Field(
        default=1.0, gt=0, le=1, description="of ring attention over one rank's: keys come in parts, results are merged"
    )
    ring_merge_bytes: NonNegativeFloat = Field(
        default=0.0,
        description="read and written for an element of ring attention's result when that of one more step is merged "
        "into it, by kernels of its own",
    )
    ring_steps_kept: bool = Field(
        default=False,
        description="ring attention holds the keys, values and results of all its steps until its forward ends "
        "(TransformerEngine); False: those of two",
    )
    quantize_bytes: NonNegativeFloat = Field(
        default=4.0,
        description="read and written for an element of a product in 8 or 4 bits; more where the largest value is "
        "sought first",
    )
    fused_norm: bool = True
    fused_bias_activation: bool = True
    fused_dropout_add: bool = True
    fused_gradient_accumulation: bool = Field(
        default=True, description="weight gradients are added by the matmul itself"
    )
    composed: dict[str, Composed] = Field(
        default={},
        description="operators made of several kernels, by the last word of their name (norm, softmax, activation, "
        "residual, bias, heads, mask, loss, word, position, query_embedding, dropout)",
    )
    fused_qkv: bool = Field(default=True, description="False: three separate matmuls, as in MindSpore's PanGu-alpha")
    pad_vocab_to: int = Field(default=1, ge=1, description="the vocabulary is padded to a multiple of this times tp")
    weight_bytes_sent: NonNegativeFloat = Field(
        default=2.0, description="per parameter, when sharded weights are gathered"
    )
    gradient_bytes_sent: NonNegativeFloat = Field(default=2.0, description="per parameter, when gradients are reduced")
    weights_sent: Literal["bucket", "weight", "owner"] = Field(
        default="bucket",
        description="sharded weights are gathered in one message a block (bucket), each matrix by itself (weight), or "
        "each rank in turn broadcasts the part that it updates (owner)",
    )
    gather_cards: PositiveInt | None = Field(
        default=None, description="network cards of a server that gathers and reduce-scatters reach; absent: all"
    )
    partial_gradients: bool = Field(
        default=False,
        description="gradients of activations stay partial sums over the tensor group until the conjugate of a forward "
        "collective, and unsplit weights are reduced over that group too; False: Megatron's f and g",
    )
    parameter_collectives: bool = Field(
        default=False,
        description="a collective for every weight (zero.threshold_kb and zero.whole hold); False: buckets",
    )
    recompute_pruned: bool = Field(
        default=False, description="what no gradient needs is not computed again: a layer's last product and its sum"
    )
    fp32_tables: bool = Field(default=False, description="rows of a split vocabulary are summed in fp32")
    experts: ExpertHabits = Field(default=ExpertHabits(), description="mixtures of experts")
    graphs: float = Field(
        default=0.0, ge=0, le=1, description="share of the host's work on layers that CUDA graphs replay"
    )
    keeps_gathered: bool = Field(
        default=False,
        description="with pipeline stages level 3's weights stay gathered from the first micro-batch to the last, and "
        "whole gradients are added up (FSDP without reshard after forward)",
    )
    fp32_logits: bool = True
    fused_cross_entropy: bool = False
    kept_logits: bool = Field(
        default=False,
        description="the loss keeps the logits as they came and in fp32 beside the probabilities, as PyTorch's does",
    )
    dp_overlap: float = Field(default=0.0, ge=0, le=1, description="share of gradient traffic hidden behind backward")
    gather_overlap: float = Field(
        default=0.0, ge=0, le=1, description="share of weight gathering hidden behind forward"
    )
    tp_overlap: float = Field(default=0.0, ge=0, le=1, description="share of forward tensor-parallel traffic hidden")
    tp_backward_overlap: float = Field(default=0.0, ge=0, le=1, description="the same, backward")
    p2p_overlap: bool = Field(default=False, description="sends run beside compute; otherwise both sides wait")
    engine_ms_per_slot: NonNegativeFloat = Field(
        default=0.0,
        description="what a pipeline engine adds to each micro-batch of a stage, forward and backward together, beside "
        "launches: nothing runs on the device meanwhile",
    )
    p2p_scatter_gather: bool = Field(default=False, description="a stage boundary is split over the tensor group")
    interference: NonNegativeFloat = Field(
        default=0.1, description="slow-down of compute while a collective runs beside it (memory and core contention)"
    )
    jitter: NonNegativeFloat = Field(
        default=0.01, description="spread of the ranks' compute times; who waits for n ranks waits for the slowest"
    )
    host_us_per_launch: NonNegativeFloat = Field(default=8.0, description="host time to issue one kernel, forward")
    host_us_per_launch_backward: NonNegativeFloat = Field(default=5.0, description="the same, backward")
    launch_blocking: bool = Field(
        default=False, description="the host waits for every kernel (CUDA_LAUNCH_BLOCKING=1): its time adds up"
    )
    host_us_per_layer: NonNegativeFloat = Field(default=0.0, description="host time per layer and pass beside launches")
    host_us_per_collective: NonNegativeFloat = Field(default=15.0)
    host_us_per_recompute: NonNegativeFloat = Field(
        default=0.0, description="host time of a checkpointed layer's entry"
    )
    step_overhead_ms: NonNegativeFloat = Field(default=5.0, description="data, loss-scale check, logging: once a step")
    optimizer_bytes_per_parameter: NonNegativeFloat = Field(
        default=34.0, description="memory traffic of unscale, norm, Adam and the copy to 16 bits, per owned parameter"
    )
    flatten_bytes_per_parameter: NonNegativeFloat = Field(
        default=0.0, description="memory traffic of copying gradients into the buffer that is reduced, and out of it"
    )
    flatten_launches_per_weight: NonNegativeFloat = Field(default=0.0, description="kernels that do that")
    launches_per_weight: NonNegativeFloat = Field(
        default=0.0, description="kernels that norm, clip and update launch for every weight"
    )
    weight_bytes: NonNegativeFloat = Field(default=2.0, description="resident per parameter")
    gradient_bytes: NonNegativeFloat = Field(default=2.0, description="resident per parameter")
    weight_gradient_copy_bytes: float = Field(
        default=0.0,
        ge=0,
        description="per element of a block's largest weight, whose gradient is written before it is added",
    )
    bf16_accumulated: bool = Field(
        default=False,
        description="gradients of bf16 weights are added up in an fp32 copy, whole on each rank, whose part the update "
        "reads in place of one of its own (DeepSpeed's BF16_Optimizer)",
    )
    master_bytes: NonNegativeFloat = Field(
        default=4.0, description="fp32 copy of the weights (0: the weights are fp32)"
    )
    moment_bytes: NonNegativeFloat = Field(default=8.0, description="both Adam moments")
    context_gib: NonNegativeFloat = Field(default=0.0, description="what the runtime keeps beside tensors")
    fragmentation: NonNegativeFloat = Field(default=0.0, description="of activations, lost to the allocator")
    workspace_mib: NonNegativeFloat = Field(default=32.0, description="scratch memory of matrix products and attention")
    memory_reading: Literal["tensors", "device"] = Field(
        default="tensors", description="tensors: allocated peak; device: what nvidia-smi or npu-smi shows"
    )

    @classmethod
    def presets_directory(cls) -> Path:
        return PRESETS / "frameworks"
