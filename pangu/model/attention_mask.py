"""Which token sees which, as the bias that attention adds to its scores: 0 where it sees, -10000 where it does not.

Training packs several documents into a row. A token sees the tokens of its own document up to itself, and positions
start again at 0 with each document; the token that ends a document still belongs to it.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.config import AttentionConfig
from pangu.model.attention import MASKED_SCORE
from pangu.model.attention_pattern import arguments_of, seen_places


class CausalMask(nn.Cell):
    """ids int32 [B, S] -> positions int32 [B, S] and the attention bias fp32 [B, 1, S, S].

    end_of_document: id after which a new document begins; None: a row is one document.
    pad: id that neither sees nor is seen, as the original's evaluation network has it; None: padding is a token like
    others, as in training, where the loss leaves it out instead.
    attention: the pattern that leaves out some of the places before a token's own; None: it sees all of them.
    """

    def __init__(
        self, end_of_document: int | None = None, pad: int | None = None, attention: AttentionConfig | None = None
    ) -> None:
        super().__init__()
        self.end_of_document, self.pad = end_of_document, pad
        self.pattern, self.span, self.summary = arguments_of(attention or AttentionConfig())
        self.ends, self.real = ops.Equal(), ops.NotEqual()
        self.cumsum, self.before = ops.CumSum(), ops.Sub()
        self.same_document, self.causal = ops.Equal(), ops.Mul()
        self.see_real, self.seen_real = ops.Mul(), ops.Mul()
        self.count, self.from_zero = ops.ReduceSum(), ops.Sub()
        self.hidden, self.penalise = ops.Sub(), ops.Mul()
        self.repeat_positions, self.repeat_causal = ops.Add(), ops.Add()
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        batch, length = ids.shape
        of_queries, of_keys = (batch, length, 1), (batch, 1, length)
        causal = Tensor(np.tril(np.ones((1, length, length), np.float32)))
        if self.end_of_document is not None:
            ends = self.cast(self.ends(ids, self.end_of_document), ms.float32)
            document = self.before(self.cumsum(ends, 1), ends)  # how many documents ended before this token
            same = self.same_document(self.reshape(document, of_queries), self.reshape(document, of_keys))
            visible = self.causal(self.cast(same, ms.float32), causal)
            # the tokens of one's own document before it
            positions = self.cast(self.from_zero(self.count(visible, -1), 1.0), ms.int32)
        else:
            nothing = ops.zeros_like(ids)
            positions = self.repeat_positions(nothing, Tensor(np.arange(length, dtype=np.int32).reshape((1, -1))))
            visible = self.repeat_causal(self.cast(self.reshape(nothing, of_queries), ms.float32), causal)
        if self.pattern != "full":
            asking, places = self.reshape(positions, of_queries), self.reshape(positions, of_keys)
            seen = seen_places(asking, places, self.pattern, self.span, self.summary)
            visible = visible * self.cast(seen, ms.float32)
        if self.pad is not None:
            real = self.cast(self.real(ids, self.pad), ms.float32)
            visible = self.see_real(visible, self.reshape(real, of_queries))
            visible = self.seen_real(visible, self.reshape(real, of_keys))
        bias = self.penalise(self.hidden(1.0, visible), MASKED_SCORE)
        return positions, self.reshape(bias, (batch, 1, length, length))


class IntervalMask(nn.Cell):
    """first and last seen step int32 [B, S] -> the attention bias fp32 [B, 1, S, S].

    Step t of a row sees the steps first[t] .. last[t]. With documents that lie side by side this says causal, prefix
    and bidirectional masks, and those of any order whose steps stand in that order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = ops.Less(), ops.Greater()
        self.either, self.penalise = ops.LogicalOr(), ops.Mul()
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def construct(self, first: Tensor, last: Tensor) -> Tensor:
        batch, length = first.shape
        steps = Tensor(np.arange(length, dtype=np.int32).reshape((1, 1, -1)))
        of_queries = (batch, length, 1)
        before = self.before(steps, self.reshape(first, of_queries))
        after = self.after(steps, self.reshape(last, of_queries))
        bias = self.penalise(self.cast(self.either(before, after), ms.float32), MASKED_SCORE)
        return self.reshape(bias, (batch, 1, length, length))
