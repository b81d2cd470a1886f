"""The network of PanGu-α, serial: no sharding, stage or recompute call in here; a strategy applies those from outside.

Read in this order: `decoder` (the whole network), `block`, `query_layer`, `attention`, `feed_forward`, `embedding`,
`attention_mask` (which token sees which), and the parts `flash_attention`, `linear`, `layer_norm`, `activation`,
`dropout`, `initializers`. `inference` is the same parts with caches; `cpu` has operators for one device.

Shapes: B batch, S tokens, d hidden size, H heads, V vocabulary. Parameter names are those of the released checkpoints.
"""

# Every operator of a part is an attribute of its own, also where one object would do for two: a strategy says by path,
# `backbone.blocks.0.attention.scores`, how each of them is split, and MindSpore keeps the split on the object.

from pangu.model.decoder import PanguAlpha

__all__ = ["PanguAlpha"]
