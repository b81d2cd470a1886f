"""Learned input vectors in front of the tokens, which are frozen.

* prompt (Lester et al. 2021, arXiv 2104.08691): the vectors are trained.
* p-tuning (Liu et al. 2021, arXiv 2103.10385): a small network makes them of trained vectors; only what it makes is
  kept. Here it is added to the vectors, and its last layer is 0 at the start.

The vectors begin as embeddings of words of the records.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu import parameters
from pangu.config import ModelConfig
from pangu.model import PanguAlpha
from pangu.model.attention_mask import MASKED_SCORE
from pangu.model.embedding import Embedding
from pangu.training.objectives.batch import Batch
from pangu.tuning.methods.insertion import freeze, stand_in, weight
from pangu.tuning.methods.method import Method, start_matrix
from pangu.tuning.soft_prompt import write_prompt
from pangu.tuning.tuning_settings import Settings


class PromptEmbedding(nn.Cell):
    """Stands in the place of the word table: the first n of a row's ids stand for the vectors.

    layers: matrices [d, d] and biases [d] of P-tuning's network, first to last; none: the vectors are used as they are.
    """

    def __init__(self, base: Embedding, vectors: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__(auto_prefix=False)
        self.base, self.count = base, len(vectors)
        self.embedding_table = base.embedding_table
        self.vectors = weight(vectors)
        self.matrices = ms.ParameterTuple([weight(matrix) for matrix, _ in layers])
        self.biases = ms.ParameterTuple([weight(bias) for _, bias in layers])
        encoder = [
            (f"encoder.{number}.{kind}", one)
            for kind, many in (("weight", self.matrices), ("bias", self.biases))
            for number, one in enumerate(many)
        ]
        for name, one in encoder:
            one.name = name  # MindSpore wants names that differ
        self.added = (("prompt.vectors", self.vectors), *((f"prompt.{name}", one) for name, one in encoder))
        self.product, self.relu = ops.MatMul(transpose_b=True), ops.ReLU()

    def made(self) -> Tensor:
        """Return the input vectors [n, d]."""
        if not len(self.matrices):
            return self.vectors
        rows = self.vectors
        for number in range(len(self.matrices)):
            rows = self.product(rows, self.matrices[number]) + self.biases[number]
            if number < len(self.matrices) - 1:
                rows = self.relu(rows)
        return self.vectors + rows

    def construct(self, ids: Tensor) -> Tensor:
        made = ops.tile(self.made().reshape((1, self.count, -1)), (ids.shape[0], 1, 1))
        return ops.concat((made, self.base(ids[:, self.count :])), 1)


class PromptPositions(nn.Cell):
    """Stands in the place of the position table: the vectors have none, or rows of their own (`shifted`)."""

    def __init__(self, base: Embedding, count: int, shifted: bool) -> None:
        super().__init__(auto_prefix=False)
        self.base, self.count, self.factor, self.added = base, count, float(shifted), ()

    def construct(self, positions: Tensor) -> Tensor:
        rows = self.base(positions)
        return ops.concat((rows[:, : self.count] * self.factor, rows[:, self.count :]), 1)


class WithVectors(nn.Cell):
    """A batch with n steps in front of every row, which all its documents see and which predict nothing."""

    def __init__(self, objective: nn.Cell, count: int, offset: int) -> None:
        super().__init__(auto_prefix=False)
        self.objective, self.count, self.offset = objective, count, offset
        self.among = Tensor((1 - np.tril(np.ones((1, 1, count, count), np.float32))) * MASKED_SCORE)
        self.own = Tensor(np.arange(count, dtype=np.int32).reshape(1, -1))

    def construct(self, prepared: Tensor) -> Batch:
        ids, labels, weights, positions, query_positions, bias = self.objective(prepared)
        batch, length = ids.shape
        none, own = ops.zeros((batch, self.count), ms.int32), ops.tile(self.own, (batch, 1))
        above = ops.concat(
            (
                ops.tile(self.among, (batch, 1, 1, 1)),
                ops.ones((batch, 1, self.count, length), ms.float32) * MASKED_SCORE,
            ),
            -1,
        )
        below = ops.concat((ops.zeros((batch, 1, length, self.count), ms.float32), bias), -1)
        return (
            ops.concat((none, ids), 1),
            ops.concat((none, labels), 1),
            ops.concat((ops.zeros((batch, self.count), ms.float32), weights), 1),
            ops.concat((own, positions + self.offset), 1),
            ops.concat((own, query_positions + self.offset), 1),
            ops.concat((above, below), 2),
        )


class Prompt(Method):
    """The method. start: input vectors, fp32 [n, d]."""

    peft_type = "PROMPT_TUNING"

    def encoder(self, hidden: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return []

    def insert(self, network: PanguAlpha, config: ModelConfig, settings: Settings) -> None:
        assert self.start is not None
        vectors, layers = self.start, self.encoder(config.hidden_size, settings.seed)
        self.words = stand_in(
            network, table(parameters.WORD_TABLE), lambda base: PromptEmbedding(base, vectors, layers)
        )
        shifted = settings.position_offset > 0
        stand_in(
            network,
            table(parameters.POSITION_TABLE),
            lambda base: PromptPositions(base, len(vectors), shifted),
        )
        freeze(network, lambda name: ".prompt." in name)

    def batch(self, objective: nn.Cell) -> nn.Cell:
        assert self.start is not None
        return WithVectors(objective, len(self.start), self.settings.position_offset)

    def write(self, folder: Path, base: str) -> None:
        write_prompt(folder, self.config, self.words.made().asnumpy(), base, self.peft_type)


class PTuning(Prompt):
    peft_type = "P_TUNING"

    def encoder(self, hidden: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        matrices = [start_matrix(hidden, hidden, seed, number) for number in range(2)]
        matrices.append(np.zeros((hidden, hidden), np.float32))
        return [(matrix, np.zeros(hidden, np.float32)) for matrix in matrices]


def table(weight_name: str) -> str:
    """Return the name of the cell that holds a table."""
    return weight_name.removesuffix(".embedding_table")
