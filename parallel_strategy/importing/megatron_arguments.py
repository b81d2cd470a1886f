"""Arguments of Megatron-LM and MindSpeed: a line, a file of arguments, or the script that starts a training."""

import re
from typing import Any

from pangu.foundation.yaml_document import shown
from parallel_strategy.importing.imported import Imported, model_of
from parallel_strategy.importing.megatron_flags import HABITS, MINDSPEED, NOT_MODELLED, SWITCHES, is_without_effect
from parallel_strategy.importing.shell_words import Script, layer_pattern, read_script
from parallel_strategy.spec.divide import divisors, even_stages, nearest

LAUNCHER = (
    "--nproc_per_node", "--nproc-per-node", "--nnodes", "--node_rank", "--node-rank", "--master_addr",
    "--master-addr", "--master_port", "--master-port", "--rdzv_id", "--rdzv_backend", "--rdzv_endpoint",
    "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id",
)  # fmt: skip

COUNTED = ("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split")

TOKENIZERS = {"GPT2BPETokenizer": 50_257, "Llama2Tokenizer": 32_000}  # words of those that have one vocabulary


class Flags:
    """The flags of a script: {flag: value, None for a switch}. Each is taken once."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.given: dict[str, str | None] = {}
        self.taken: dict[str, str] = {}  # flag -> our field, "" for none
        self.not_modelled: list[str] = []
        words = script.words
        for index, word in enumerate(words):
            if not word.startswith("--") or word == "--":
                continue
            flag, equals, value = word.partition("=")
            follows = words[index + 1] if index + 1 < len(words) else "--"
            found: str | None = value if equals else None if follows.startswith("--") else follows
            if flag in SWITCHES:
                found = None
            if self.given.get(flag, found) != found:
                before, after = (shown(value).strip("'") for value in (self.given[flag], found))
                raise script.mistake(flag, f"is given twice, as {before} and as {after}; leave one of them")
            self.given[flag] = found

    def has(self, flag: str, ours: str = "") -> bool:
        """Take a switch."""
        if flag in self.given:
            self.taken[flag] = ours or self.taken.get(flag, "")
        return flag in self.given

    def text(self, *flags: str, default: str | None = None, ours: str) -> str | None:
        """Take the first of these flags that is given. Raises PlacedError for one without a value."""
        result = default
        for flag in reversed(flags):
            if flag in self.given:
                self.taken[flag], value = ours, self.given[flag]
                if value is None:
                    raise self.script.mistake(flag, "has no value")
                if "$" in value or "@" in value:
                    raise self.script.mistake(
                        flag, f"{shown(value)} is set nowhere in the file; write the value itself"
                    )
                result = value
        return result

    def number(self, *flags: str, default: int | None = None, ours: str, least: int = 1) -> int | None:
        """Take a whole number. Raises PlacedError for one below `least`."""
        text = self.text(*flags, ours=ours)
        if text is None:
            return default
        flag = next(flag for flag in flags if flag in self.given)
        if not re.fullmatch(r"\d{1,12}", text):
            raise self.script.mistake(flag, f"{shown(text)} is not a whole number")
        if int(text) < least:
            raise self.script.mistake(flag, f"{text} is out of range; nearest: {least}")
        return int(text)

    def needed(self, flag: str, ours: str) -> int:
        """Take a whole number that has to be there."""
        value = self.number(flag, ours=ours)
        if value is None:
            raise self.script.mistake(flag, "is missing, and nothing else says it")
        return value

    def rate(self, flag: str, ours: str) -> float | None:
        """Take a number."""
        text = self.text(flag, ours=ours)
        try:
            return None if text is None else float(text)
        except ValueError:
            raise self.script.mistake(flag, f"{shown(text)} is not a number") from None

    def leave(self, flag: str, why: str) -> None:
        """Say of a flag that is given that nothing of ours says it."""
        value = self.given[flag]
        self.taken[flag] = ""
        self.not_modelled.append(f"{flag}{'' if value is None else ' ' + value} ({why})")


def read_arguments(text: str, where: str, name: str) -> Imported:
    """Return the model and the strategy of a Megatron or MindSpeed job. Raises PlacedError for mistakes."""
    flags = Flags(read_script(text, where))
    notes: list[str] = []
    model = _model(flags, notes)
    model["name"] = name
    places = {
        ours: f"{where}:{flags.script.line(flag)}: field {flag!r}"
        for flag, ours in reversed(flags.taken.items())
        if ours
    }
    spec = model_of(model, places, where)
    strategy = _strategy(flags, model, notes)
    for flag, why in NOT_MODELLED.items():
        if flag in flags.given and flag not in flags.taken:
            flags.leave(flag, why)
    rest = [flag for flag in flags.given if flag not in flags.taken]
    habits = [flag for flag in rest if flag in HABITS]
    if habits:
        notes.append(f"said by the framework file, not by the strategy: {', '.join(habits)}")
    neutral = [flag for flag in rest if flag in LAUNCHER or is_without_effect(flag)]
    return Imported(
        "arguments of MindSpeed" if is_mindspeed(flags) else "arguments of Megatron-LM",
        spec,
        strategy,
        [flag for flag, ours in flags.taken.items() if ours],
        flags.not_modelled,
        neutral,
        [flag for flag in rest if flag not in neutral and flag not in habits],
        notes,
    )


def is_mindspeed(flags: Flags) -> bool:
    """Return whether a job is for Ascend: by the name of its devices, or by flags that only MindSpeed has."""
    return "NPUS_PER_NODE" in flags.script.variables or any(flag in flags.given for flag in MINDSPEED)


def _model(flags: Flags, notes: list[str]) -> dict[str, Any]:
    hidden, heads = flags.needed("--hidden-size", "hidden_size"), flags.needed("--num-attention-heads", "num_heads")
    gated = flags.has("--swiglu", "gated_ffn")
    ffn = flags.number("--ffn-hidden-size", ours="ffn_hidden_size")
    if ffn is None:  # as Megatron has it
        ffn = hidden * 4 * 2 // 3 // 64 * 64 if gated else 4 * hidden
    groups = flags.number("--num-query-groups", default=heads, ours="kv_heads")
    if "--num-query-groups" in flags.given and not flags.has("--group-query-attention", "kv_heads") and groups != heads:
        notes.append("--num-query-groups without --group-query-attention: Megatron takes no notice, nor do we")
        groups = heads
    channels = flags.number("--kv-channels", ours="head_size")
    vocabulary = flags.number("--padded-vocab-size", "--vocab-size", ours="vocab_size") or _words(flags, notes)
    model: dict[str, Any] = {
        "num_layers": flags.needed("--num-layers", "num_layers"),
        "hidden_size": hidden,
        "num_heads": heads,
        "kv_heads": None if groups == heads else groups,
        "head_size": None if channels is None or channels * heads == hidden else channels,
        "ffn_hidden_size": ffn,
        "seq_length": flags.needed("--seq-length", "seq_length"),
        "vocab_size": vocabulary,
        "gated_ffn": gated,
        "activation": _activation(flags, gated),
        "bias": not flags.has("--disable-bias-linear", "bias"),
        "tied_embedding": not flags.has("--untie-embeddings-and-output-weights", "tied_embedding"),
        "norm": _chosen(flags, "--normalization", {"LayerNorm": "layer_norm", "RMSNorm": "rms_norm"}, "norm"),
        "position": _position(flags),
        "compute_dtype": _dtype(flags),
        "dropout_rate": _dropout(flags),
        "prediction_layers": flags.number("--mtp-num-layers", default=0, ours="prediction_layers", least=0),
    }
    flags.number("--max-position-embeddings", ours="seq_length")
    if flags.has("--multi-latent-attention", "latent_attention"):
        model |= {"latent_attention": _latent(flags), "head_size": None, "kv_heads": None}
    if "--num-experts" in flags.given:
        model["experts"] = _experts(flags, ffn, model["num_layers"])
    return model


def _words(flags: Flags, notes: list[str]) -> int:
    """Return the vocabulary of a tokenizer whose name says it. Raises PlacedError for another one."""
    kind = flags.given.get("--tokenizer-type") or ("GPT2BPETokenizer" if "--merge-file" in flags.given else "")
    if kind not in TOKENIZERS:
        raise flags.script.mistake("--vocab-size", "is missing: the tokenizer says it, which is not read; add it")
    notes.append(f"no --vocab-size: {TOKENIZERS[kind]:,} words of {kind} taken")
    return TOKENIZERS[kind]


def _chosen(flags: Flags, flag: str, legal: dict[str, str], ours: str) -> str:
    """Return what a word stands for, the first of the legal ones where there is none."""
    word = flags.text(flag, default=next(iter(legal)), ours=ours)
    if word not in legal:
        raise flags.script.mistake(flag, f"{shown(word)} is none of {', '.join(legal)}")
    return legal[word]


def _activation(flags: Flags, gated: bool) -> str:
    if gated:
        return "silu"
    if flags.has("--squared-relu"):
        flags.leave("--squared-relu", "priced as relu")
        return "relu"
    exact = flags.has("--no-bias-gelu-fusion", "activation") and not flags.has("--openai-gelu", "activation")
    return "gelu_erf" if exact else "gelu_tanh"


def _position(flags: Flags) -> str:
    if flags.has("--use-rotary-position-embeddings", "position"):
        flags.text("--position-embedding-type", ours="position")
        return "rotary"
    legal = {"learned_absolute": "learned", "rope": "rotary", "none": "none", "alibi": "alibi", "mrope": "rotary"}
    return _chosen(flags, "--position-embedding-type", legal, "position")


def _dtype(flags: Flags) -> str:
    if flags.has("--fp16", "compute_dtype") and flags.has("--bf16", "compute_dtype"):
        raise flags.script.mistake("--fp16", "contradicts --bf16; leave one of them")
    for flag, narrow in (("--fp8-format", "fp8"), ("--fp4-format", "fp4")):
        if flags.text(flag, ours="compute_dtype") is not None:
            return narrow
    return "fp16" if flags.has("--fp16") else "bf16" if flags.has("--bf16", "compute_dtype") else "fp32"


def _dropout(flags: Flags) -> float:
    hidden, attention = (flags.rate(flag, "dropout_rate") for flag in ("--hidden-dropout", "--attention-dropout"))
    rate = hidden if hidden is not None else 0.1
    if (attention if attention is not None else 0.1) != rate:
        flags.not_modelled.append(f"an attention dropout other than the hidden one (one rate for both: {rate:g} taken)")
    return rate


def _latent(flags: Flags) -> dict[str, int | None]:
    ours = "latent_attention"
    return {
        "query_rank": flags.number("--q-lora-rank", default=0, ours=ours, least=0),
        "key_value_rank": flags.number("--kv-lora-rank", default=512, ours=ours),
        "head_size": flags.number("--qk-head-dim", "--qk-nope-head-dim", default=128, ours=ours),
        "rotary_head_size": flags.number("--qk-pos-emb-head-dim", "--qk-rope-head-dim", default=64, ours=ours),
        "value_head_size": flags.number("--v-head-dim", default=128, ours=ours),
    }


def _experts(flags: Flags, ffn: int, num_layers: int) -> dict[str, Any]:
    inner = flags.number("--moe-ffn-hidden-size", "--moe-intermediate-size", default=ffn, ours="experts") or ffn
    shared = flags.number("--moe-shared-expert-intermediate-size", default=0, ours="experts", least=0) or 0
    count = flags.number("--n-shared-experts", default=round(shared / inner), ours="experts", least=0)
    if shared % inner:
        flags.leave("--moe-shared-expert-intermediate-size", f"no multiple of {inner}: {count} of it taken")
    capacity = flags.rate("--moe-expert-capacity-factor", "experts")
    first = flags.number("--first-k-dense-replace", default=0, ours="experts", least=0)
    frequency = flags.text("--moe-layer-freq", ours="experts")
    if frequency is not None and frequency != "1":
        pattern = layer_pattern(frequency)
        dense = pattern.index(1) if pattern and 1 in pattern else None
        if pattern is None or len(pattern) not in (1, num_layers):
            raise flags.script.mistake("--moe-layer-freq", f"{shown(frequency)} is no list of {num_layers} layers")
        if dense is None or set(pattern[dense:]) != {1}:
            flags.leave("--moe-layer-freq", "experts are priced in every layer after the first dense ones")
        first = dense or 0
    return {
        "count": flags.number("--num-experts", ours="experts"),
        "top_k": flags.number("--moe-router-topk", default=2, ours="experts"),
        "ffn_hidden_size": inner,
        "shared": count,
        "capacity_factor": 1.0 if capacity is None or capacity <= 0 else capacity,
        "first_layer": first,
    }


def _strategy(flags: Flags, model: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    micro = flags.number("--micro-batch-size", default=1, ours="batch") or 1
    sizes: dict[str, int] = {
        axis: flags.number(f"--{name}-parallel-size", default=1, ours="mesh") or 1
        for axis, name in (("tp", "tensor-model"), ("pp", "pipeline-model"), ("cp", "context"), ("ep", "expert-model"))
    }
    expert_tp = flags.number("--expert-tensor-parallel-size", default=sizes["tp"], ours="mesh") or sizes["tp"]
    if flags.has("--moe-tp-extend-ep", "mesh"):  # MindSpeed: each rank of the tensor group has experts of its own
        expert_tp, sizes["ep"] = 1, sizes["ep"] * sizes["tp"]
    etp = None if expert_tp == sizes["tp"] or "experts" not in model else expert_tp
    dp = _data_parallel(flags, sizes, etp or sizes["tp"], notes)
    batch = flags.number("--global-batch-size", default=micro * dp, ours="batch") or micro * dp
    order = ["dp", "pp", "cp", "tp"] if flags.has("--use-tp-pp-dp-mapping", "mesh.order") else ["pp", "dp", "cp", "tp"]
    pipeline = _pipeline(flags, model["num_layers"], sizes["pp"])
    return {
        "batch": {"global": batch, "micro": micro},
        "mesh": {
            "pp": sizes["pp"],
            "dp": dp,
            "cp": sizes["cp"],
            "tp": sizes["tp"],
            "ep": sizes["ep"],
            "etp": etp,
            "order": order,
        },
        "pipeline": pipeline,
        "tensor": {
            "sequence_parallel": flags.has("--sequence-parallel", "tensor"),
            "overlap": _overlap(flags, sizes["tp"], notes),
        },
        "zero": _zero(flags, dp * sizes["cp"], model["compute_dtype"]),
        "recompute": _recompute(flags, model["num_layers"], sizes["pp"], pipeline),
        "offload": {"optimizer": flags.has("--optimizer-cpu-offload", "offload")},
    }


def _overlap(flags: Flags, tp: int, notes: list[str]) -> int:
    """Return the parts in which a product runs beside its collective. MC2 chooses them itself."""
    fused = [flag for flag in ("--use-mc2", "--use-ascend-mc2") if flags.has(flag, "tensor.overlap")]
    parts = flags.number("--coc-parallel-num", default=1, ours="tensor.overlap") or 1
    if parts not in (1, 2, 4, 8):
        raise flags.script.mistake("--coc-parallel-num", f"{parts} is none of 1, 2, 4, 8; nearest: 8")
    if flags.has("--use-ascend-coc", "tensor.overlap"):
        return parts if tp > 1 else 1
    if fused and tp > 1:
        notes.append(f"{fused[0]} chooses the parts of a product itself: tensor.overlap 8 taken")
        return 8
    return 1


def _processes(flags: Flags) -> int | None:
    """Return how many processes the launcher starts, as far as the file says it."""
    script = flags.script
    said = re.search(r"^\s*(?:#\s*|export\s+)?WORLD_SIZE=(\d{1,9})\b", script.text, re.MULTILINE)
    if said:
        return int(said[1])

    def value(*names: str) -> int | None:
        for name in names:
            found = flags.given.get(name) if name.startswith("--") else script.variables.get(name)
            if found and re.fullmatch(r"\d{1,9}", found):
                return int(found)
        return None

    a_node = value("--nproc_per_node", "--nproc-per-node", "GPUS_PER_NODE", "NPUS_PER_NODE", "NPROC_PER_NODE")
    return None if a_node is None else a_node * (value("--nnodes", "NNODES", "NUM_NODES") or 1)


def _data_parallel(flags: Flags, sizes: dict[str, int], expert_tp: int, notes: list[str]) -> int:
    group, processes = sizes["tp"] * sizes["pp"] * sizes["cp"], _processes(flags)
    if processes is None:
        dp = max(1, sizes["ep"] * expert_tp // (sizes["cp"] * sizes["tp"]))
        notes.append(f"the number of processes is said nowhere: mesh.dp {dp} taken; `--set mesh.dp N` for another")
        return dp
    if processes % group or not processes:
        legal = nearest([n for n in divisors(max(processes, 1)) if n <= group], group)
        flag = next((one for one in ("--tensor-model-parallel-size", *LAUNCHER) if one in flags.given), "WORLD_SIZE")
        raise flags.script.mistake(
            flag, f"tp x pp x cp = {group} does not divide the {processes} processes; nearest: {legal}"
        )
    return processes // group


def _pipeline(flags: Flags, layers: int, pp: int) -> dict[str, Any]:
    chunks = flags.number("--num-virtual-stages-per-pipeline-rank", ours="pipeline.vpp")
    a_chunk = flags.number("--num-layers-per-virtual-pipeline-stage", ours="pipeline.vpp")
    if a_chunk:
        if layers % (pp * a_chunk):
            flag = "--num-layers-per-virtual-pipeline-stage"
            raise flags.script.mistake(flag, f"{pp} stages of chunks of {a_chunk} layers do not make {layers} layers")
        chunks = layers // pp // a_chunk
    stages, drawn = _stages(flags, layers, pp, chunks or 1)
    chunks = chunks or max(1, len(drawn) // pp)
    method = flags.text("--schedules-method", ours="pipeline.schedule")
    if method not in (None, "dualpipev"):
        flags.leave("--schedules-method", "priced as 1f1b")
    schedule = "dualpipe" if method == "dualpipev" else "interleaved" if chunks > 1 and pp > 1 else "1f1b"
    pipeline = {"schedule": schedule, "vpp": chunks if schedule == "interleaved" else 1}
    if len(drawn) > pp and schedule == "interleaved":
        return pipeline | ({"chunks": drawn} if drawn != even_stages(layers, len(drawn)) else {})
    return pipeline | ({"stages": stages} if stages != even_stages(layers, pp) else {})


def _stages(flags: Flags, layers: int, pp: int, vpp: int) -> tuple[list[int], list[int]]:
    """Return the layers of each stage, and of each chunk of a drawing."""
    ours = "pipeline.stages"
    drawing = flags.text("--pipeline-model-parallel-layout", ours=ours)
    listed = flags.text("--num-layer-list", ours=ours)
    first, last = (
        flags.number(f"--decoder-{end}-pipeline-num-layers", f"--num-layers-in-{end}-pipeline-stage", ours=ours)
        for end in ("first", "last")
    )
    counted = _counted_ends(flags)
    if drawing is not None:
        parts = _drawn(drawing).split("|")
        if len(parts) % pp or sum(part.count("t") for part in parts) != layers or set("".join(parts)) - set("EtmL"):
            flag = "--pipeline-model-parallel-layout"
            raise flags.script.mistake(flag, f"{shown(drawing)} does not draw {layers} layers on {pp} stages")
        chunks = [part.count("t") for part in parts]
        return [sum(chunks[stage::pp]) for stage in range(pp)], chunks
    if listed is not None:
        stages = [int(word) for word in listed.split(",") if word.isdigit()]
        if sum(stages) != layers or len(stages) != pp:
            raise flags.script.mistake("--num-layer-list", f"{shown(listed)} is not {layers} layers on {pp} stages")
        return stages, []
    if any(counted):  # embedding and loss count as a layer each, and all chunks have as many
        each, over = divmod(layers + sum(counted), pp * vpp)
        if over or first or last:
            flag = next(flag for flag, is_given in zip(COUNTED, counted, strict=True) if is_given)
            raise flags.script.mistake(
                flag, f"{layers} layers and {sum(counted)} more do not make {pp * vpp} equal chunks"
            )
        sizes = [each] * (pp * vpp)
        sizes[0], sizes[-1] = sizes[0] - counted[0], sizes[-1] - counted[1]
        return [sum(sizes[stage::pp]) for stage in range(pp)], sizes
    ends = [end for end in (first, last) if end is not None]
    middle, left = pp - len(ends), layers - sum(ends)
    if ends and (middle < 0 or left < 0 or (left % middle if middle else left)):
        flag = "--decoder-first-pipeline-num-layers"
        flag = flag if flag in flags.given else "--decoder-last-pipeline-num-layers"
        raise flags.script.mistake(flag, f"leaves {left} layers for {middle} stages, which is not even")
    if not ends:
        return even_stages(layers, pp), []
    head, tail = [first] if first is not None else [], [last] if last is not None else []
    return [*head, *[left // middle if middle else 0] * middle, *tail], []


def _counted_ends(flags: Flags) -> tuple[bool, ...]:
    """Return whether the embedding, and the loss, count as a layer where layers are shared out."""
    return tuple(flags.has(flag, "pipeline.stages") for flag in COUNTED)


def _drawn(text: str) -> str:
    """Return a drawing of stages without repetitions: `Et*3|(tt|)*2,mL` is Ettt|tt|tt|mL."""
    text = text.replace(",", "")
    for pattern in (r"\(([^()]*)\)\*(\d{1,4})", r"([EtmL|])\*(\d{1,4})"):
        text = re.sub(pattern, lambda found: found[1] * int(found[2]), text)
    return text


def _zero(flags: Flags, copies: int, dtype: str) -> dict[str, Any]:
    kind = flags.text("--data-parallel-sharding-strategy", ours="zero.level")
    fsdp = flags.has("--use-megatron-fsdp", "zero.level") or flags.has("--use-custom-fsdp", "zero.level")
    levels = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
    sharded = flags.has("--use-distributed-optimizer", "zero.optimizer_shard")
    level = levels.get(kind or "no_shard", 1) if fsdp else 1 if sharded else 0
    if flags.has("--use-torch-fsdp2", "zero.level"):
        level = 3
    zero: dict[str, Any] = {"optimizer_shard": level > 0, "level": max(1, level), "threshold_kb": 0}
    groups = flags.number("--num-distributed-optimizer-instances", default=1, ours="zero.weight_shard_size") or 1
    if level and groups > 1:
        if copies % groups:
            flag = "--num-distributed-optimizer-instances"
            raise flags.script.mistake(flag, f"{groups} does not divide the {copies} data-parallel ranks")
        zero["weight_shard_size"] = copies // groups
    bucket = flags.number("--ddp-bucket-size", ours="zero.bucket_mb")
    if bucket:
        zero["bucket_mb"] = bucket * (2 if dtype == "fp16" else 4) / 2**20
    return zero


def _recompute(flags: Flags, layers: int, pp: int, pipeline: dict[str, Any]) -> dict[str, Any]:
    kind = flags.text("--recompute-granularity", ours="recompute.mode")
    if flags.has("--recompute-activations", "recompute.mode"):
        kind = "selective"
    method = flags.text("--recompute-method", ours="recompute.per_stage")
    count = flags.number("--recompute-num-layers", default=1, ours="recompute.per_stage") or 1
    modules = flags.text("--recompute-modules", ours="recompute.mode")
    if modules not in (None, "core_attn"):
        flags.leave("--recompute-modules", "selective recomputation is that of the attention core")
    if kind not in (None, "full", "selective"):
        raise flags.script.mistake("--recompute-granularity", f"{shown(kind)} is neither full nor selective")
    recompute: dict[str, Any] = {"mode": kind or "none"}
    recompute["slice_activation"] = flags.has("--distribute-saved-activations", "recompute.slice_activation")
    if kind == "full" and method == "block":
        chunks = 2 if pipeline["schedule"] == "dualpipe" else pipeline["vpp"]
        sizes = pipeline.get("chunks") or even_stages(layers, pp * chunks)
        stages = pipeline.get("stages") or [sum(sizes[stage::pp]) for stage in range(pp)]
        recompute["per_stage"] = [min(count * chunks, stage) for stage in stages]
    elif kind == "full" and count > 1:
        flags.leave("--recompute-num-layers", "every layer's input is kept")
    return recompute
