"""The network of PanGu-α, serial: no sharding, stage or recompute call in here; a strategy applies those from outside.

Read in this order: `decoder` (the whole network), `block`, `query_layer`, `attention`, `feed_forward`, `embedding`,
`attention_mask` (which token sees which), and the parts `flash_attention`, `linear`, `layer_norm`, `activation`,
`dropout`, `initializers`.

Shapes: B batch, S tokens, d hidden size, H heads, V vocabulary. Parameter names are those of the released checkpoints.
"""

from pangu.model.decoder import PanguAlpha

__all__ = ["PanguAlpha"]
