"""Objectives mixed by shares: each row is given one, causal where it is none of the others.

What a row is given, and everything drawn for it, is a function of the run's seed and of the row's number in the run: a
run that is interrupted and goes on draws the same.
"""

import numpy as np
from mindspore import nn

from pangu.config import ObjectivesConfig
from pangu.training.objectives import kinds
from pangu.training.objectives.kinds import ObjectiveIds
from pangu.training.objectives.row_steps import FIELDS, StepsBatch, causal_steps, documents_of

# Apart from the order of samples, whose Philox stream has the key (seed, epoch).
STREAM = 0x6F626A6563746976


class Mixture:
    """The objective of a run whose rows are not all causal."""

    def __init__(
        self,
        config: ObjectivesConfig,
        vocabulary: ObjectiveIds,
        end_of_document: int | None,
        pad: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self.config, self.vocabulary, self.end_of_document, self.pad = config, vocabulary, end_of_document, pad
        self.seed, self.batch_size = seed, batch_size

    def prepare(self, rows: np.ndarray, first_row: int) -> np.ndarray:
        """Return int32 [B, 7, S] for rows int32 [B, S+1]."""
        return np.stack([self.steps(row, first_row + index) for index, row in enumerate(rows)])

    def steps(self, row: np.ndarray, number: int) -> np.ndarray:
        """Return the `FIELDS` of one row, int32 [7, S]. number: of the row in the run."""
        random = np.random.Generator(np.random.Philox(key=[self.seed ^ STREAM, number]))
        documents = documents_of(row[:-1], self.end_of_document, self.pad)
        steps = causal_steps(row, documents, self.pad)
        kind = self.kind(float(random.random()), number // self.batch_size)
        drawn = float(random.random())
        corruption = self.corruption(drawn)
        for document in documents if kind != "causal" else ():
            if document.length < 1:
                continue
            if kind == "permuted":
                kinds.permuted(steps, row, document, random, gaps=drawn < self.config.permuted.gaps)
            elif kind == "bidirectional":
                kinds.bidirectional(steps, row, document, random, self.vocabulary)
            elif corruption is None:
                kinds.prefix(steps, row, document, random)
            else:
                kinds.restored(steps, row, document, random, self.vocabulary, corruption)
        return np.stack([steps[name] for name in FIELDS])

    def kind(self, drawn: float, step: int) -> str:
        """Return the objective of a row, by a number drawn from 0..1; shares rise until their ramp is over."""
        for name in ("permuted", "prefix", "bidirectional"):
            one = getattr(self.config, name)
            drawn -= one.share * min(1.0, (step + 1) / max(1, one.ramp_steps))
            if drawn < 0:
                return name
        return "causal"

    def corruption(self, drawn: float) -> kinds.Corruption | None:
        """Return what is done to the prefix of a row, by a number drawn from 0..1."""
        if drawn < self.config.prefix.infilling:
            return kinds.infilled
        if drawn < self.config.prefix.infilling + self.config.prefix.sentence_shuffle:
            return kinds.shuffled
        return None

    def predictions(self, prepared: np.ndarray) -> float:
        """Return the loss weights' sum, plus the original's 1e-5."""
        return float(prepared[..., FIELDS.index("weights"), :].sum()) + 1e-5

    def in_graph(self) -> nn.Cell:
        return StepsBatch()
