"""How PanGu-α's checkpoints store the program's weights: released names, and which matrices lie the other way round."""

LINEAR = {
    "attention.query": "attention.dense1",
    "attention.key": "attention.dense2",
    "attention.value": "attention.dense3",
    "attention.output": "attention.projection",
    "feed_forward.up": "output.mapping",
    "feed_forward.down": "output.projection",
}
NORMS = {"attention.norm": "layernorm1", "feed_forward.norm": "layernorm2"}
TABLES = {
    "embedding.word.weight": "word_embedding",
    "head.logits.weight": "word_embedding",
    "embedding.position.weight": "position_embedding",
    "query_embedding.weight": "top_query_embedding",
}
WORD_TABLES = ("embedding.word.weight", "head.logits.weight")  # two copies of one table, where it is tied across stages


def released_name(layer: int, name: str, query_layer: int | None) -> str:
    """The released name of the weight `name` of a layer; `query_layer` is the number of the query layer, if any.

    Weights that PanGu-α does not have keep their own name.
    """
    if name in TABLES:
        return f"backbone.{TABLES[name]}.embedding_table"
    part, _, kind = name.rpartition(".")
    scale = "gamma" if kind == "weight" else "beta"
    if part in ("final.norm", "head.norm"):
        return f"backbone.layernorm.{scale}"
    where = "backbone.top_query_layer" if layer == query_layer else f"backbone.blocks.{layer}"
    if part in NORMS:
        return f"{where}.{NORMS[part]}.{scale}"
    return f"{where}.{LINEAR[part]}.{kind}" if part in LINEAR else f"{layer}.{name}"


def is_turned(name: str) -> bool:
    """Whether the checkpoint has [out, in] where the program has [in, out]."""
    return name in ("attention.query.weight", "attention.key.weight", "attention.value.weight")


def is_table(name: str) -> bool:
    return name in TABLES
