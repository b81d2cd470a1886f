"""The ends of the network as one rank runs them: the embedding tables, and the last norm, logits and loss."""

from parallel_strategy.graph.layer import Shard, builder_of, gather_again, gather_input, keep_input, norm
from parallel_strategy.graph.operator import Block
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec


def build_embedding(model: ModelSpec, framework: FrameworkSpec, shard: Shard) -> Block:
    """Add word (and position) embedding, their sum and dropout. A split vocabulary sums the partial rows over tp."""
    tokens, hidden = shard.tokens(model), model.hidden_size
    block = Block("embedding", input_bytes=0.0)
    builder = builder_of(block, model, framework)
    size = tokens * hidden * builder.element
    split = shard.tp if shard.vocab_split else 1
    rows = -(-model.vocab_size // split)
    launches = 4 if split > 1 else 1
    builder.vector("embedding.word", 2 * size, 3 * size, launches=launches, backward_launches=2, size=size)
    mask = float(shard.micro * (model.seq_length // shard.cp) * model.seq_length * builder.element)
    builder.vector("embedding.mask", 0, 0, launches=0, backward_launches=0, size=mask)
    builder.weight("embedding.word.weight", (rows, hidden), split=0 if split > 1 else None)
    if split > 1:
        if shard.sequence_parallel and not builder.partial:
            builder.communicate("embedding.word", "reduce_scatter", "tp", size)
        else:
            # where tokens are split too, each rank takes its own of the sum
            size, dtype = (4.0 * tokens * hidden, "fp32") if framework.fp32_tables else (size, builder.dtype)
            back = "all_reduce" if builder.partial else None
            builder.communicate("embedding.word", "all_reduce", "tp", size, backward=back, dtype=dtype)
    elif shard.tokens_split and not builder.partial:  # each rank keeps its tokens of what all of them looked up
        builder.communicate_backward("embedding.word", "all_gather", "tp", size)
    kept = shard.boundary_tokens(model) * hidden
    if model.position == "learned":
        size = kept * builder.element
        builder.vector("embedding.position", 3 * size, 2 * size, launches=2, size=size)
        shape = (model.seq_length, hidden)
        builder.weight("embedding.position.weight", shape, partial_over_tp=shard.tokens_split)
    if model.dropout_rate > 0:
        moved = kept * (2 * builder.element + 1)
        builder.vector("embedding.dropout", moved, moved, size=kept * builder.element)
        builder.keep("embedding.dropout.mask", kept)
    return block


def build_head(model: ModelSpec, framework: FrameworkSpec, shard: Shard, *, owns_table: bool) -> Block:
    """Add last norm, logits and cross entropy. With a split vocabulary the loss needs three small sums over tp.

    `owns_table`: the word table is a parameter here too (untied, or tied with a first stage on other ranks).
    """
    tokens, hidden, element = shard.tokens(model), model.hidden_size, model.element_bytes
    block = Block("head", input_bytes=shard.boundary_tokens(model) * hidden * element)
    builder = builder_of(block, model, framework)
    if not (model.query_layer and model.final_norm == "before_query"):
        norm(builder, model, framework, shard, "head.norm")
    split = shard.tp if shard.vocab_split else 1
    rows = -(-model.vocab_size // split)
    if split > 1:
        gather_input(builder, model, shard, "head.input")
    elif shard.tokens_split:  # every rank computes all logits, and each takes the gradient of its own tokens
        size = tokens * hidden * element
        back = "reduce_scatter" if builder.partial else None
        builder.communicate("head.input", "all_gather", "tp", size, backward=back)
    keep_input(builder, model, shard, "head.input")
    builder.matmul("head.logits", int(tokens), rows, hidden, split="columns" if split > 1 else None)
    block.parameters.pop()
    if owns_table:  # stored as the word table is: a row for each word
        builder.weight("head.logits.weight", (rows, hidden), split=0 if split > 1 else None)
    gather_again(builder, model, shard, "head.input")
    wide = 4 if framework.fp32_logits else element
    logits = tokens * rows
    passes = 3 if framework.fused_cross_entropy else 7
    builder.vector(
        "head.loss",
        logits * (element + passes * wide),
        logits * (element + (passes - 2) * wide),
        launches=12,
        backward_launches=5,
        size=logits * wide,
    )
    builder.keep("head.loss.probabilities", logits * wide)
    if framework.kept_logits:
        builder.keep("head.logits.output", logits * element)
        builder.keep("head.loss.input", logits * wide)
    if split > 1:
        for reduction in ("maximum", "target", "sum"):
            back = "all_reduce" if builder.partial and reduction != "maximum" else None
            builder.communicate(f"head.loss.{reduction}", "all_reduce", "tp", 4.0 * tokens, backward=back, dtype="fp32")
    if builder.partial:  # the loss itself is part of the differentiated network
        builder.communicate("head.loss.total", "all_reduce", "weights", 4.0, backward="all_reduce", dtype="fp32")
    return block
