"""The same strategy as arguments of Megatron-LM, and of MindSpeed, which adds Ascend's to them."""

from parallel_strategy.export import megatron_model
from parallel_strategy.spec.strategy import Setup


def arguments(setup: Setup) -> list[str]:
    """Return Megatron-LM's arguments; MindSpeed takes them too."""
    strategy, mesh = setup.strategy, setup.strategy.mesh
    words = [
        *megatron_model.model_arguments(setup),
        *("--tensor-model-parallel-size", mesh.tp, "--pipeline-model-parallel-size", mesh.pp),
        *("--micro-batch-size", strategy.batch.micro, "--global-batch-size", strategy.batch.global_),
    ]
    if mesh.cp > 1:
        words += ["--context-parallel-size", mesh.cp]
    sequence_parallel = strategy.tensor.sequence_parallel and mesh.tp > 1
    if sequence_parallel:
        words += ["--sequence-parallel"]
    if mesh.pp > 1 and mesh.dp > 1 and mesh.axes.index("dp") < mesh.axes.index("pp"):
        words += ["--use-tp-pp-dp-mapping"]
    if strategy.tensor.overlap > 1 and mesh.tp > 1:
        words += ["--use-ascend-coc", "--coc-parallel-num", strategy.tensor.overlap]
    words += megatron_model.habits(
        setup.framework,
        tp=mesh.tp,
        sequence_parallel=sequence_parallel,
        chunks=strategy.pipeline.vpp if mesh.pp > 1 else 1,
        sharded=strategy.zero.stage > 0,
    )
    words += optimizer(setup) + pipeline(setup) + recompute(setup)
    return [str(word) for word in words]


def optimizer(setup: Setup) -> list:
    strategy = setup.strategy
    zero, dp = strategy.zero, strategy.mesh.dp
    words: list = []
    if zero.stage == 1 or (zero.stage == 0 and offloads_optimizer(setup)):
        words += ["--use-distributed-optimizer"]
    elif zero.stage > 1:
        sharding = {2: "optim_grads", 3: "optim_grads_params"}[zero.stage]
        words += ["--use-distributed-optimizer", "--use-megatron-fsdp", "--data-parallel-sharding-strategy", sharding]
        words += ["--ckpt-format", "fsdp_dtensor"]  # the only format that it takes with fsdp
    if zero.stage and zero.weight_shard_size not in (-1, dp):
        words += ["--num-distributed-optimizer-instances", dp // zero.weight_shard_size]
    if zero.bucket_mb is not None:
        # Megatron counts a bucket's gradients, not their bytes.
        gradient_bytes = 2 if setup.model.compute_dtype == "fp16" else 4
        words += [] if setup.framework.dp_overlap > 0 else ["--overlap-grad-reduce"]
        words += ["--ddp-bucket-size", round(zero.bucket_mb * 2**20 / gradient_bytes)]
    if offloads_optimizer(setup):
        words += ["--optimizer-cpu-offload", "--use-precision-aware-optimizer"]
    return words


def offloads_optimizer(setup: Setup) -> bool:
    """Return whether Megatron's optimizer lies on the host: a form of its distributed one, which a single rank may have
    too."""
    strategy = setup.strategy
    is_distributed = strategy.zero.stage > 0 or strategy.mesh.dp * strategy.mesh.cp == 1
    return strategy.offload.optimizer and is_distributed


def needs_one_connection(setup: Setup) -> bool:
    """Return whether Megatron refuses to start without CUDA_DEVICE_MAX_CONNECTIONS=1 on GPUs before Blackwell."""
    mesh = setup.strategy.mesh
    return (mesh.tp > 1 or mesh.cp > 1) and setup.strategy.zero.stage < 2


def pipeline(setup: Setup) -> list:
    """Return uneven stages: the first and the last by arguments of their own, others by a drawing of all."""
    strategy, model = setup.strategy, setup.model
    pp, vpp = strategy.mesh.pp, strategy.pipeline.vpp
    words: list = []
    if pp == 1:
        return words
    stages = strategy.layers_of_stages(model.num_layers)
    chunks = strategy.layers_of_chunks(model.num_layers)
    if strategy.pipeline.schedule == "dualpipe":
        words += ["--schedules-method", "dualpipev"]
    if len(set(chunks)) > 1 and vpp > 1 and not has_even_chunks(chunks, pp):
        return [*words, "--pipeline-model-parallel-layout", drawing(chunks)]  # which says how many there are, too
    if vpp > 1:
        words += ["--num-virtual-stages-per-pipeline-rank", vpp]
    if len(set(stages)) > 1:
        if pp > 2 and len(set(stages[1:-1])) == 1:
            words += ["--decoder-first-pipeline-num-layers", stages[0]]
            words += ["--decoder-last-pipeline-num-layers", stages[-1]]
        else:
            words += ["--pipeline-model-parallel-layout", drawing(stages)]
    return words


def has_even_chunks(chunks: list[int], pp: int) -> bool:
    """Return whether two numbers say all chunks: every stage has equal ones, and all stages but the first and the last
    are alike."""
    is_equal = all(len(set(chunks[stage::pp])) == 1 for stage in range(pp))
    return is_equal and pp > 2 and len(set(chunks[1 : pp - 1])) == 1


def drawing(chunks: list[int]) -> str:
    """Return every chunk as Megatron draws them: E embedding, t a layer, L loss, | between chunks."""
    return "E" + "|".join("t" * layers for layers in chunks) + "L"


def recompute(setup: Setup) -> list:
    recompute = setup.strategy.recompute
    if recompute.mode == "none":
        return []
    if recompute.mode == "selective":
        return ["--recompute-granularity", "selective"]
    words: list = ["--recompute-granularity", "full"]
    if slices_activation(setup):
        words += ["--distribute-saved-activations"]
    if recompute.per_stage in (None, stages_of(setup)):
        return [*words, "--recompute-method", "uniform", "--recompute-num-layers", 1]
    # One number for all stages and their chunks: the largest, so that it fits wherever the strategy fits.
    chunks = setup.strategy.chunks_per_stage
    most = -(-max(recompute.per_stage or [0]) // chunks)
    return [*words, "--recompute-method", "block", "--recompute-num-layers", most]


def stages_of(setup: Setup) -> list[int]:
    return setup.strategy.layers_of_stages(setup.model.num_layers)


def is_one_number(setup: Setup) -> bool:
    """Return whether one number says what every stage recomputes: Megatron's block method has no other."""
    recompute, stages = setup.strategy.recompute, stages_of(setup)
    if recompute.mode == "none" or recompute.per_stage in (None, stages):
        return True
    most, chunks = max(recompute.per_stage or [0]), setup.strategy.chunks_per_stage
    is_block = most % chunks == 0 and recompute.per_stage == [min(most, layers) for layers in stages]
    return recompute.mode == "full" and is_block


def has_order(setup: Setup) -> bool:
    """Return whether Megatron has this order of ranks: its own, or with data parallelism outermost."""
    mesh = setup.strategy.mesh
    used = [axis for axis in mesh.axes if getattr(mesh, axis) > 1]
    return any(
        used == [axis for axis in order if axis in used]
        for order in (("pp", "dp", "cp", "tp"), *([("dp", "pp", "cp", "tp")] if mesh.cp == 1 else []))
    )


def slices_activation(setup: Setup) -> bool:
    strategy = setup.strategy
    return strategy.recompute.slice_activation and strategy.mesh.tp > 1 and not strategy.tensor.sequence_parallel


# Schedules that Megatron or MindSpeed has, here and there.
SCHEDULES = {"1f1b", "interleaved", "dualpipe"}


def unsaid(setup: Setup) -> list[str]:
    """Return what of the strategy no argument says."""
    strategy, model = setup.strategy, setup.model
    zero, mesh = strategy.zero, strategy.mesh
    said = {
        "pipeline.schedule": mesh.pp == 1 or strategy.pipeline.schedule in SCHEDULES,
        "tensor.interleave": strategy.tensor.interleave == 1,
        "tensor.overlap": mesh.tp == 1 or strategy.tensor.overlap == 1 or setup.framework.executes.overlap,
        "tensor.vocab whole": mesh.tp == 1 or strategy.tensor.vocab == "split",
        "zero.threshold_kb": zero.stage == 0 or zero.threshold_kb == 0 or not setup.framework.parameter_collectives,
        "zero.whole": not zero.whole,
        "mesh.order": has_order(setup),
        "recompute.per_stage": is_one_number(setup),
        "recompute.mp_comm": strategy.recompute.mode != "full" or mesh.tp == 1 or strategy.recompute.mp_comm,
        "recompute.slice_activation": not strategy.recompute.slice_activation
        or strategy.recompute.mode != "full"
        or slices_activation(setup),
        "offload.optimizer": not strategy.offload.optimizer or offloads_optimizer(setup),
        "offload.activation": strategy.offload.activation == 0,
        "overrides": not strategy.overrides,
    }
    return [*megatron_model.unsaid(model), *(field for field, is_said in said.items() if not is_said)]


def refused(setup: Setup) -> list[str]:
    """Return what Megatron's own check of its arguments refuses."""
    strategy, model = setup.strategy, setup.model
    mesh, found = strategy.mesh, []
    if model.experts and mesh.tp > 1 and not strategy.tensor.sequence_parallel:
        found.append("experts with tensor parallelism need tensor.sequence_parallel")
    if mesh.ep > 1 and model.compute_dtype == "fp16":
        found.append("expert parallelism needs bf16")
    if mesh.cp > 1 and model.seq_length % (2 * mesh.cp):
        found.append(f"the sequence must be a multiple of {2 * mesh.cp}, twice the context parallelism")
    return found


def notes(setup: Setup) -> list[str]:
    """Return what the line cannot say, and what it needs around it."""
    strategy, model = setup.strategy, setup.model
    found = []
    if needs_one_connection(setup):
        found.append("environment: CUDA_DEVICE_MAX_CONNECTIONS=1 (GPUs before Blackwell)")
    if fields := unsaid(setup):
        found.append(f"no argument says: {', '.join(fields)}")
    found += [f"Megatron refuses this: {reason}" for reason in refused(setup)]
    if model.query_layer:
        found.append("Megatron has no query layer: PanGu-alpha's ports to it count one layer less and add it in code")
    stages = strategy.layers_of_stages(model.num_layers)
    if strategy.mesh.pp > 1 and len(set(stages)) > 1:
        found.append(f"for MindSpeed, in place of Megatron's arguments: --num-layer-list {','.join(map(str, stages))}")
    if strategy.pipeline.schedule == "dualpipe" and strategy.mesh.pp > 1:
        found.append("--schedules-method is MindSpeed's")
    if strategy.tensor.overlap > 1 and strategy.mesh.tp > 1:
        found.append("--use-ascend-coc and --coc-parallel-num are MindSpeed's")
    return found


def text(setup: Setup) -> str:
    """Return one argument a line, to be given as `$(grep -v '^#' megatron.txt)`."""
    lines = [f"# WORLD_SIZE={setup.strategy.mesh.devices}", *(f"# {note}" for note in notes(setup))]
    words = arguments(setup)
    line = ""
    for word in words:
        if word.startswith("--") and line:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line]) + "\n"
