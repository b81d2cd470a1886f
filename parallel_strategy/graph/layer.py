"""One transformer layer as one rank runs it: attention and feed-forward with exact shapes, bytes and collectives.

Tensor parallelism splits heads and the inner feed-forward width (Shoeybi et al. 2019); sequence parallelism also
splits what lies between (Korthikanti et al. 2022), whose activation counts `keep` calls reproduce term by term.
"""

from dataclasses import dataclass

from parallel_strategy.graph.builder import BlockBuilder
from parallel_strategy.graph.operator import Block
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Shard:
    """What of the strategy changes the shapes that one rank sees."""

    micro: int
    tp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int | None = None  # ranks that split each expert, where they are not those of tp
    sequence_parallel: bool = False
    vocab_split: bool = True

    def tokens(self, model: ModelSpec) -> float:
        """Return the tokens of one micro-batch on one context-parallel rank."""
        return self.micro * model.seq_length / self.cp

    def boundary_tokens(self, model: ModelSpec) -> float:
        """Return the tokens of the residual stream that one rank keeps."""
        return self.tokens(model) / (self.tp if self.tokens_split else 1)

    @property
    def tokens_split(self) -> bool:
        """Return whether between matrix products each rank of the tensor group has other tokens: whole weights that are
        used there get a part of their gradient only."""
        return self.sequence_parallel and self.tp > 1

    @property
    def expert_tensor(self) -> int:
        """Return the ranks that split each expert."""
        return self.etp or self.tp

    @property
    def experts_gather(self) -> bool:
        """Return whether ranks that split an expert together have other tokens each, which they gather for it."""
        return self.expert_tensor > 1 and (self.sequence_parallel or self.expert_tensor != self.tp)

    def biases_sum(self, framework: FrameworkSpec) -> bool:
        """Return whether the second bias of experts is added to what the tensor group has summed, as MindSpore does.

        Else it is added to one of the parts. Where other ranks split an expert, or tokens are gathered, each rank that
        has the bias sees all tokens of its gradient."""
        return framework.partial_gradients and self.expert_tensor == self.tp and not self.experts_gather


def build_layer(
    model: ModelSpec, framework: FrameworkSpec, shard: Shard, *, experts: bool, query: bool = False
) -> Block:
    """Return a transformer layer. `query`: PanGu-alpha's query layer, whose queries come from a table of positions."""
    kind = "query" if query else "expert_layer" if experts else "layer"
    block = Block(kind, input_bytes=shard.boundary_tokens(model) * model.hidden_size * model.element_bytes)
    builder = builder_of(block, model, framework)
    if query and model.final_norm == "before_query":  # the last norm of the model stands before its last layer
        norm(builder, model, framework, shard, "final.norm")
    _attention(builder, model, framework, shard, query)
    if experts:
        _experts(builder, model, framework, shard)
    else:
        _feed_forward(builder, model, framework, shard, model.ffn_hidden_size, model.hidden_size, "feed_forward")
    return block


def builder_of(block: Block, model: ModelSpec, framework: FrameworkSpec) -> BlockBuilder:
    fused = framework.fused_gradient_accumulation
    dtype, partial = model.activation_dtype, framework.partial_gradients
    return BlockBuilder(block, model.element_bytes, dtype, framework.gradient_bytes, fused, partial, framework.composed)


def norm(builder: BlockBuilder, model: ModelSpec, framework: FrameworkSpec, shard: Shard, name: str) -> None:
    """Add LayerNorm or RMSNorm over the residual stream; keeps its input."""
    size = shard.boundary_tokens(model) * model.hidden_size * builder.element
    launches = 1 if framework.fused_norm else 6
    passes = 2 if framework.fused_norm else 8
    builder.vector(
        name, passes * size, 1.5 * passes * size, launches=launches, backward_launches=2 * launches, size=size
    )
    builder.keep(f"{name}.input", size)
    builder.weight(f"{name}.weight", (model.hidden_size,), partial_over_tp=shard.tokens_split)
    if model.norm == "layer_norm":
        builder.weight(f"{name}.bias", (model.hidden_size,), partial_over_tp=shard.tokens_split)


def gather_input(builder: BlockBuilder, model: ModelSpec, shard: Shard, name: str) -> None:
    """Add what a column-split matmul needs before it (Megatron's f, or g-bar with sequence parallelism)."""
    if shard.tp == 1:
        return
    size = shard.tokens(model) * model.hidden_size * builder.element
    if shard.sequence_parallel:
        builder.communicate(name, "all_gather", "tp", size)
    elif not builder.partial:
        builder.communicate_backward(name, "all_reduce", "tp", size)


def gather_again(builder: BlockBuilder, model: ModelSpec, shard: Shard, name: str) -> None:
    """Gather the input again in backward, for the weight gradient, because it is not kept: called after the matmuls
    that need it, since backward runs the calls from the last one back. MindSpore's compiler keeps it."""
    if shard.tokens_split and not builder.partial:
        size = shard.tokens(model) * model.hidden_size * builder.element
        builder.communicate_backward(f"{name}.again", "all_gather", "tp", size)


def keep_input(builder: BlockBuilder, model: ModelSpec, shard: Shard, name: str) -> None:
    """Keep what stays of a matmul's input: this rank's tokens, or all that were gathered where they are not again."""
    tokens = shard.tokens(model) if builder.partial else shard.boundary_tokens(model)
    builder.keep(name, tokens * model.hidden_size * builder.element)


def reduce_output(builder: BlockBuilder, model: ModelSpec, shard: Shard, name: str) -> None:
    """Add what a row-split matmul needs after it (Megatron's g, or f-bar with sequence parallelism)."""
    if shard.tp == 1:
        return
    size = shard.tokens(model) * model.hidden_size * builder.element
    if shard.sequence_parallel:
        builder.communicate(name, "reduce_scatter", "tp", size)
    else:
        builder.communicate(name, "all_reduce", "tp", size, backward="all_reduce" if builder.partial else None)


def residual(builder: BlockBuilder, model: ModelSpec, framework: FrameworkSpec, shard: Shard, name: str) -> None:
    """Add bias, dropout and the addition to the residual stream; keeps the dropout mask."""
    elements = shard.boundary_tokens(model) * model.hidden_size
    size = elements * builder.element
    dropout = model.dropout_rate > 0
    mask = elements if dropout else 0
    if framework.fused_dropout_add or not (dropout or model.bias):
        builder.vector(name, 3 * size + mask, 2 * size + mask, launches=1, backward_launches=1 + model.bias, size=size)
    else:
        passes = 3 + 2 * dropout + 2 * model.bias
        builder.vector(
            name,
            passes * size + mask,
            (1 + 2 * dropout + model.bias) * size,
            launches=3,
            backward_launches=3,
            size=size,
        )
    if dropout:
        builder.vector(f"{name}.dropout", 0, 0, launches=0, backward_launches=0, size=size)
    builder.keep(f"{name}.mask", mask)


def _attention(builder: BlockBuilder, model: ModelSpec, framework: FrameworkSpec, shard: Shard, query: bool) -> None:
    tokens, hidden, element = shard.tokens(model), model.hidden_size, builder.element
    heads = model.num_heads / shard.tp
    kv_heads = max(1.0, model.key_value_heads / shard.tp)  # fewer than tp groups: each rank holds a copy of one
    width, value_width = model.head_width, model.value_head_width
    query_out, key_out, value_out = int(heads * width), int(kv_heads * width), int(kv_heads * value_width)
    rows = int(tokens)

    norm(builder, model, framework, shard, "attention.norm")
    gather_input(builder, model, shard, "attention.input")
    keep_input(builder, model, shard, "attention.input")
    if query:
        # each rank's heads give a part of the gradient of the queries' table, which is summed at the end of the step
        builder.weight("query_embedding.weight", (model.seq_length, hidden), partial_over_tp=shard.tp > 1)
        moved = 2 * tokens * hidden * element
        builder.vector("query_embedding", moved, moved, size=moved / 2)
        for name, out in (("query", query_out), ("key", key_out), ("value", value_out)):
            builder.matmul(f"attention.{name}", rows, out, hidden, bias=model.bias, split="columns")
    elif model.latent_attention is not None:
        _latent_projections(builder, model, shard, rows, heads)
    elif framework.fused_qkv:
        width_out = query_out + key_out + value_out
        builder.matmul("attention.query_key_value", rows, width_out, hidden, bias=model.bias, split="columns")
    else:
        for name, out in (("query", query_out), ("key", key_out), ("value", value_out)):
            builder.matmul(f"attention.{name}", rows, out, hidden, bias=model.bias, split="columns")
    query_size = tokens * query_out * element
    key_size, value_size = tokens * key_out * element, tokens * value_out * element
    if model.latent_attention is not None:
        key_size, value_size = tokens * heads * width * element, tokens * heads * value_width * element
    if model.position == "rotary":
        builder.vector(
            "attention.rotary",
            2 * (query_size + key_size),
            2 * (query_size + key_size),
            launches=2,
            backward_launches=2,
        )
    ring = (key_size + value_size) * shard.cp
    if shard.cp > 1 and builder.partial:  # MindSpore gathers keys and values one by one, and keeps them
        builder.communicate("attention.all_keys", "all_gather", "cp", key_size * shard.cp)
        builder.communicate("attention.all_values", "all_gather", "cp", value_size * shard.cp)
    elif shard.cp > 1:  # ring attention: keys and values of every other rank pass by; backward their gradients too
        builder.communicate("attention.ring", "all_gather", "cp", ring)
        if framework.ring_steps_kept:  # the result of each step, and their sum in fp32
            results = tokens * heads * value_width * element
            builder.block.ring_bytes = ring + shard.cp * results + results / element * 4
    builder.vector("attention.heads", 0, 0, launches=0, backward_launches=0, size=query_size)
    _core_attention(builder, model, framework, shard, heads, query_size, key_size, value_size)
    if shard.cp > 1 and not builder.partial:
        if framework.ring_merge_bytes:
            inputs = query_size + key_size + value_size
            _merge_ring(builder, framework, shard.cp - 1, tokens * heads * value_width, inputs)
        builder.communicate_backward("attention.ring.again", "all_gather", "cp", ring)
    context = tokens * heads * value_width * element
    builder.keep("attention.context", context)
    builder.matmul("attention.output", rows, hidden, int(heads * value_width), bias=False, split="rows")
    if model.bias:
        builder.weight("attention.output.bias", (hidden,), partial_over_tp=shard.tokens_split)
    gather_again(builder, model, shard, "attention.input")
    reduce_output(builder, model, shard, "attention.output")
    residual(builder, model, framework, shard, "attention.residual")


def _merge_ring(builder: BlockBuilder, framework: FrameworkSpec, merges: int, results: float, inputs: float) -> None:
    """Add what joins the steps of ring attention: results by the statistics of their softmax, and backward the sums of
    the gradients of queries, keys and values. `results`: elements; `inputs`: bytes of queries, keys and values."""
    builder.vector(
        "attention.ring.merge",
        merges * framework.ring_merge_bytes * results,
        merges * 3 * inputs,
        launches=16 * merges,
        backward_launches=3 * merges,
    )


def _latent_projections(builder: BlockBuilder, model: ModelSpec, shard: Shard, rows: int, heads: float) -> None:
    """Add queries, and keys with values, through low ranks (DeepSeek-V2, section 2.1). The down projections are not
    split."""
    latent = model.latent_attention
    assert latent is not None
    hidden, element = model.hidden_size, builder.element
    if latent.query_rank:
        builder.matmul("attention.query_down", rows, latent.query_rank, hidden)
        builder.keep("attention.query_latent", 2 * rows * latent.query_rank * element)
    source = latent.query_rank or hidden
    builder.matmul("attention.query_up", rows, int(heads * model.head_width), source, split="columns")
    down = latent.key_value_rank + latent.rotary_head_size
    builder.matmul("attention.key_value_down", rows, down, hidden)
    builder.keep("attention.key_value_latent", 2 * rows * down * element)
    up = int(heads * (latent.head_size + latent.value_head_size))
    builder.matmul("attention.key_value_up", rows, up, latent.key_value_rank, split="columns")


def _core_attention(
    builder: BlockBuilder,
    model: ModelSpec,
    framework: FrameworkSpec,
    shard: Shard,
    heads: float,
    query_size: float,
    key_size: float,
    value_size: float,
) -> None:
    """Add scores, softmax, dropout and the weighted sum of values. Everything here is what selective recompute runs
    again."""
    seq, rows = model.seq_length, model.seq_length // shard.cp
    batch = int(shard.micro * heads)
    builder.keep("attention.query", query_size)
    builder.keep("attention.key", key_size)
    builder.keep("attention.value", value_size)
    if framework.attention == "flash":
        half = 0.5 if framework.causal_flash else 1.0
        flops = 2.0 * batch * rows * seq * (model.head_width + model.value_head_width) * half
        moved = query_size + key_size + value_size + query_size
        head = (model.head_width + model.value_head_width) / 2
        builder.flash("attention.core", flops, moved, ring=shard.cp > 1 and not builder.partial, head=head)
        builder.keep("attention.log_sum", 4.0 * batch * rows)
        return
    scores = float(batch) * rows * seq
    element = builder.element
    dropout = model.dropout_rate > 0
    if batch:
        builder.matmul("attention.core.scores", rows, seq, model.head_width, batch=batch, weights=False, tokens="mn")
    if framework.attention == "fused_softmax":
        builder.vector("attention.core.softmax", 2 * scores * element, 3 * scores * element, size=scores * element)
    else:  # scale, mask and a softmax in fp32, each its own kernel
        wide = 4 if model.softmax_dtype == "fp32" else element
        builder.vector(
            "attention.core.softmax",
            scores * (4 * element + 2 * wide + 2 * element),
            scores * (3 * wide + 4 * element),
            launches=5,
            backward_launches=4,
            size=scores * element,
        )
    if dropout:
        moved = scores * (2 * element + 1)
        builder.vector("attention.core.dropout", moved, moved, size=scores * element)
    builder.matmul("attention.core.context", rows, model.value_head_width, seq, batch=batch, weights=False, tokens="mk")
    builder.keep("attention.core.probabilities", scores * element, attention=True)
    if dropout:
        builder.keep("attention.core.dropout.mask", scores, attention=True)
        builder.keep("attention.core.dropped", scores * element, attention=True)


def _feed_forward(
    builder: BlockBuilder, model: ModelSpec, framework: FrameworkSpec, shard: Shard, inner: int, hidden: int, name: str
) -> None:
    rows, width = int(shard.tokens(model)), inner // shard.tp
    norm(builder, model, framework, shard, f"{name}.norm")
    gather_input(builder, model, shard, f"{name}.input")
    keep_input(builder, model, shard, f"{name}.input")
    _gated_or_plain(builder, model, framework, name, rows, width, hidden)
    if model.bias:
        builder.weight(f"{name}.down.bias", (hidden,), partial_over_tp=shard.tokens_split)
    gather_again(builder, model, shard, f"{name}.input")
    reduce_output(builder, model, shard, f"{name}.output")
    residual(builder, model, framework, shard, f"{name}.residual")


def _gated_or_plain(
    builder: BlockBuilder,
    model: ModelSpec,
    framework: FrameworkSpec,
    name: str,
    rows: int,
    width: int,
    hidden: int,
    *,
    batch: int = 1,
    expert: bool = False,
    biased: bool = False,
) -> None:
    """Add up projection, activation, down projection; `batch` experts of `rows` tokens each.

    biased: the second product adds its bias. A dense layer adds it with the residual stream.
    """
    element = builder.element
    ups = 2 if model.gated_ffn else 1
    size = float(batch) * rows * width * element
    builder.matmul(
        f"{name}.up", rows, ups * width, hidden, batch=batch, bias=model.bias, expert=expert, split="columns"
    )
    builder.keep(f"{name}.up.output", ups * size)
    steps = 1 if framework.fused_bias_activation else 2 + model.bias
    builder.vector(
        f"{name}.activation",
        (ups + 1) * size * steps,
        (2 * ups + 1) * size * (1 + steps) / 2,
        launches=steps,
        backward_launches=steps,
        size=size,
    )
    builder.keep(f"{name}.activation.output", size)
    builder.matmul(f"{name}.down", rows, hidden, width, batch=batch, bias=biased, expert=expert, split="rows")


def _experts(builder: BlockBuilder, model: ModelSpec, framework: FrameworkSpec, shard: Shard) -> None:
    """Add router, dispatch over ep, grouped matmuls, combine; balanced load times the capacity factor."""
    experts = model.experts
    assert experts is not None
    hidden, element = model.hidden_size, builder.element
    tokens = shard.boundary_tokens(model)
    name = "experts"
    norm(builder, model, framework, shard, f"{name}.norm")
    builder.keep(f"{name}.input", tokens * hidden * element)
    builder.matmul(f"{name}.router", int(tokens), experts.count, hidden, partial_over_tp=shard.tokens_split)
    builder.vector(
        f"{name}.route", 8.0 * tokens * experts.count, 8.0 * tokens * experts.count, launches=8, backward_launches=4
    )
    routed = tokens * experts.top_k * experts.capacity_factor
    size = routed * hidden * element
    builder.vector(f"{name}.permute", 2 * size, 2 * size, launches=3, backward_launches=2)
    if shard.ep > 1:
        builder.communicate(f"{name}.dispatch", "all_to_all", "ep", size)
    split = shard.expert_tensor
    axis = "tp" if split == shard.tp else "etp"
    if shard.experts_gather:
        builder.communicate(f"{name}.gather", "all_gather", axis, size * split)
    elif split > 1 and not builder.partial:
        builder.communicate_backward(f"{name}.gather", "all_reduce", axis, size)
    # every expert's weights are split over etp; its tokens are those of that whole group
    here = experts.count // shard.ep
    per_expert = max(1, int(routed * (split if shard.experts_gather else 1) / here))
    width = experts.ffn_hidden_size // split
    builder.keep(f"{name}.dispatched", per_expert * here * hidden * element)
    biased = model.bias and not shard.biases_sum(framework)
    _gated_or_plain(builder, model, framework, name, per_expert, width, hidden, batch=here, expert=True, biased=biased)
    if shard.experts_gather:
        builder.communicate(f"{name}.scatter", "reduce_scatter", axis, size * split)
    elif split > 1:
        back = "all_reduce" if builder.partial else None
        builder.communicate(f"{name}.reduce", "all_reduce", axis, size, backward=back)
    if model.bias and shard.biases_sum(framework):
        builder.vector(f"{name}.bias", 2 * size, size, size=size)
        builder.weight(f"{name}.down.bias", (here, hidden), expert=True)
    if shard.ep > 1:
        builder.communicate(f"{name}.combine", "all_to_all", "ep", size)
    builder.vector(f"{name}.unpermute", 2 * size, 2 * size, launches=2, backward_launches=3)
    builder.keep(f"{name}.combined", size)
    if experts.shared:
        gather_input(builder, model, shard, f"{name}.shared.input")
        shared_width = experts.shared * experts.ffn_hidden_size // shard.tp
        _gated_or_plain(builder, model, framework, f"{name}.shared", int(shard.tokens(model)), shared_width, hidden)
        gather_again(builder, model, shard, f"{name}.shared.input")
        reduce_output(builder, model, shard, f"{name}.shared.output")
    residual(builder, model, framework, shard, f"{name}.residual")
