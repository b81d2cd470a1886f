"""The same strategy as arguments of Megatron-LM, and of MindSpeed, which adds Ascend's to them."""

from parallel_strategy.spec.strategy import Question, even_stages


def arguments(question: Question) -> list[str]:
    """Megatron-LM's arguments; MindSpeed takes them too."""
    strategy, model = question.strategy, question.model
    mesh = strategy.mesh
    words = [
        *("--num-layers", model.num_layers, "--hidden-size", model.hidden_size),
        *("--ffn-hidden-size", model.ffn_hidden_size, "--num-attention-heads", model.num_heads),
        *("--seq-length", model.seq_length, "--max-position-embeddings", model.seq_length),
        *("--tensor-model-parallel-size", mesh.tp, "--pipeline-model-parallel-size", mesh.pp),
        *("--micro-batch-size", strategy.batch.micro, "--global-batch-size", strategy.batch.global_),
    ]
    if model.kv_heads not in (None, model.num_heads):
        words += ["--group-query-attention", "--num-query-groups", model.kv_heads]
    if mesh.cp > 1:
        words += ["--context-parallel-size", mesh.cp]
    if model.experts:
        words += ["--num-experts", model.experts.count, "--moe-router-topk", model.experts.top_k]
        words += ["--expert-model-parallel-size", mesh.ep]
    if strategy.tensor.sequence_parallel and mesh.tp > 1:
        words += ["--sequence-parallel"]
    words += precision(question) + optimizer(question) + pipeline(question) + recompute(question)
    return [str(word) for word in words]


def precision(question: Question) -> list[str]:
    kinds = {"fp16": ["--fp16"], "bf16": ["--bf16"], "fp8": ["--bf16", "--fp8-format", "hybrid"], "fp32": []}
    return kinds[question.model.compute_dtype]


def optimizer(question: Question) -> list[str]:
    strategy = question.strategy
    words = []
    if strategy.zero.stage == 1:
        words += ["--use-distributed-optimizer"]
    elif strategy.zero.stage > 1:
        sharding = {2: "optim_grads", 3: "optim_grads_params"}[strategy.zero.stage]
        words += ["--use-megatron-fsdp", "--data-parallel-sharding-strategy", sharding]
    if strategy.offload.optimizer:
        words += ["--optimizer-cpu-offload"]
    return words


def pipeline(question: Question) -> list:
    """Uneven stages: the first and the last by Megatron's own arguments; others only MindSpeed can say."""
    strategy, model = question.strategy, question.model
    pp, vpp = strategy.mesh.pp, strategy.pipeline.vpp
    words: list = []
    if pp == 1:
        return words
    stages = strategy.layers_of_stages(model.num_layers)
    if vpp > 1:
        words += ["--num-layers-per-virtual-pipeline-stage", model.num_layers // pp // vpp]
    if strategy.pipeline.schedule == "dualpipe":
        words += ["--schedules-method", "dualpipev"]
    if len(set(stages)) > 1:
        if pp > 2 and len(set(stages[1:-1])) == 1:
            words += [
                "--decoder-first-pipeline-num-layers",
                stages[0],
                "--decoder-last-pipeline-num-layers",
                stages[-1],
            ]
        else:
            words += ["--num-layer-list", ",".join(map(str, stages))]
    return words


def recompute(question: Question) -> list:
    recompute = question.strategy.recompute
    if recompute.mode == "none":
        return []
    if recompute.mode == "selective":
        return ["--recompute-granularity", "selective"]
    words: list = ["--recompute-granularity", "full"]
    if recompute.per_stage is None:
        return [*words, "--recompute-method", "uniform", "--recompute-num-layers", 1]
    # One number for all stages: the largest, so that it fits wherever the strategy fits.
    return [*words, "--recompute-method", "block", "--recompute-num-layers", max(recompute.per_stage)]


def notes(question: Question) -> list[str]:
    """What the line cannot say."""
    strategy, model = question.strategy, question.model
    found = []
    if model.query_layer:
        found.append("Megatron has no query layer: PanGu-alpha's ports to it count one layer less and add it in code")
    stages = strategy.layers_of_stages(model.num_layers)
    if strategy.mesh.pp > 1 and stages != even_stages(model.num_layers, strategy.mesh.pp):
        found.append("--num-layer-list is MindSpeed's")
    if strategy.recompute.per_stage is not None and len(set(strategy.recompute.per_stage)) > 1:
        found.append("recomputation differs between stages here, and cannot there")
    if strategy.mesh.axes != ["pp", "dp", "cp", "tp"] and strategy.mesh.devices > 1:
        found.append(f"the ranks here are ordered {', '.join(strategy.mesh.axes)}; Megatron's order is pp, dp, cp, tp")
    return found


def text(question: Question) -> str:
    """One argument a line, to be given as `$(grep -v '^#' megatron.txt)`."""
    lines = [f"# {note}" for note in notes(question)]
    words = arguments(question)
    line = ""
    for word in words:
        if word.startswith("--") and line:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line]) + "\n"
