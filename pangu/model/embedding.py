"""Lookup tables: words, positions, and the queries of the query layer."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Initializer, initializer


class Embedding(nn.Cell):
    """ids int32 [B, S] -> rows of an fp32 table [B, S, d]."""

    def __init__(self, rows: int, hidden_size: int, start: Initializer | str) -> None:
        super().__init__()
        self.embedding_table = Parameter(initializer(start, (rows, hidden_size), ms.float32))
        self.gather = ops.Gather()

    def construct(self, ids: Tensor) -> Tensor:
        return self.gather(self.embedding_table, ids, 0)
