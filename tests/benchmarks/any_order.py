"""Continued training from the causal to a random order: what it costs the causal skill, and what both sides tell.

    python -m tests.benchmarks.any_order                    # 420 causal steps, then 420 more of each kind
    python -m tests.benchmarks.any_order --steps 1000 --kinds told
    python -m tests.benchmarks.any_order --scratch --kinds gaps --steps 3000 --rate 2e-3   # no causal steps before

A network of 4 layers of 128 reads poems character by character, 32 to a row, 32 rows a step. It is trained causally,
and goes on from there in several ways: causal rows only; half of the rows in a random order (`objectives: {permuted:
{share: 0.5}}`, rising over the first half); the same with `target_in_trunk` (`told`); and that with orders that leave
some places for last (`gaps`). --scratch: each from random weights, with its share from the first step. Validation,
nats a character over 512 rows:

    causal     the next character
    random     the next character of a random order
    left       the character at place 16, given those before it
    both       the same, given all the others

Needs the poems beside the repository (`../shared`).
"""

import argparse
import gzip
import json
import time
from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from pangu.config import ModelConfig, ObjectivesConfig
from pangu.device import use_device
from pangu.model.network import build, read_weights
from pangu.training.loss import Loss
from pangu.training.objectives.kinds import ObjectiveIds
from pangu.training.objectives.mixture import Mixture
from pangu.training.objectives.row_steps import FIELDS, StepsBatch, causal_steps, documents_of, read_in_order
from pangu.training.optimizer import AdamW, adam_scalars
from pangu.training.step import TrainStep
from tests.conftest import REPOSITORY

LENGTH, CHARACTERS, BATCH, PLACE, VALIDATED = 32, 2000, 32, 16, 512
KINDS = {
    "causal": ({}, False),
    "permuted": ({"permuted": {"share": 0.5}}, False),
    "told": ({"permuted": {"share": 0.5}}, True),
    "gaps": ({"permuted": {"share": 0.5, "gaps": 1.0}}, True),
}
POEMS = REPOSITORY.parent / "shared/data/corpus/poetry.jsonl.gz"


def rows_of_poems(path: Path) -> np.ndarray:
    """Return int32 [rows, S+1] in a random order; id 0 is every rarer character."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = "\n".join(json.loads(line)["text"] for line in file)
    ids = {one: number for number, (one, _) in enumerate(Counter(text).most_common(CHARACTERS - 1), 1)}
    coded = np.array([ids.get(character, 0) for character in text], np.int32)
    rows = coded[: len(coded) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    return np.random.default_rng(0).permutation(rows)


def in_orders(rows: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return the steps of rows that are read in the given orders."""
    result = []
    for row, order in zip(rows, orders, strict=True):
        (document,) = documents_of(row[:-1], None, -1)
        steps = causal_steps(row, [document], -1)
        read_in_order(steps, row, document, order)
        result.append(np.stack([steps[name] for name in FIELDS]))
    return np.array(result, np.int32)


def validation_orders() -> dict[str, np.ndarray]:
    """Return {what: orders [rows, S+1]}."""
    natural, random = np.arange(LENGTH + 1), np.random.default_rng(1)
    both = np.concatenate([natural[:PLACE], natural[PLACE + 1 : -1], [PLACE, LENGTH]])
    shuffled = [np.concatenate([[0], random.permutation(natural[1:-1]), [LENGTH]]) for _ in range(VALIDATED)]
    return {
        "causal": np.tile(natural, (VALIDATED, 1)),
        "random": np.array(shuffled),
        "both": np.tile(both, (VALIDATED, 1)),
    }


class Training:
    """A network that is trained step by step and asked now and then."""

    def __init__(
        self, train: np.ndarray, validation: np.ndarray, told: bool, weights: dict | None, rate: float, steps: int
    ) -> None:
        """steps: over which the rate falls to a tenth, after a warm-up; 0: it stays."""
        config = ModelConfig(
            num_layers=4, hidden_size=128, num_heads=4, ffn_hidden_size=512, seq_length=LENGTH,
            vocab_size=CHARACTERS, compute_dtype="fp32", dropout_rate=0.0, target_in_trunk=told,
        )  # fmt: skip
        self.train, self.taken, self.rate, self.steps = train, 0, rate, steps
        self.network = build(config, weights, seed=5)
        self.optimizer = AdamW(self.network.trainable_params(), 0.9, 0.95)
        self.step = TrainStep(Loss(self.network, StepsBatch()), self.optimizer, 1.0, 1)
        self.asked = {name: in_orders(validation, orders) for name, orders in validation_orders().items()}
        self.batch = StepsBatch()

    def go_on(self, steps: int, objectives: dict) -> None:
        """Take steps."""
        vocabulary = ObjectiveIds(CHARACTERS, 0)
        mixture = Mixture(ObjectivesConfig.model_validate(objectives), vocabulary, None, -1, seed=1, batch_size=BATCH)
        self.network.set_train(True)
        random = np.random.default_rng(self.taken)
        for _ in range(steps):
            rows = self.train[random.integers(0, len(self.train), BATCH)]
            prepared = mixture.prepare(rows, self.taken * BATCH)
            rate = self.rate
            if self.steps:
                rate *= min(1.0, (self.taken + 1) / 200) * (1 - 0.9 * self.taken / self.steps)
            scalars = adam_scalars(self.taken, rate, 0.9, 0.95, 1e-8, 0.0, bias_correction=True)
            numbers = (mixture.predictions(prepared), 1.0)
            update = (scalars.learning_rate, scalars.epsilon, scalars.decay)
            self.step(
                Tensor(prepared),
                *(Tensor(value, ms.float32) for value in numbers),
                Tensor(0, ms.int32),
                *(Tensor(value, ms.float32) for value in update),
            )
            self.taken += 1

    def nats(self, steps: np.ndarray) -> np.ndarray:
        """Return the negative log-likelihood of every step, [rows, S]."""
        found = []
        for rows in np.split(steps, len(steps) // 64):
            ids, labels, _, positions, queries, bias = self.batch(Tensor(rows))
            logits = self.network(ids, positions, queries, bias, Tensor(0, ms.int32)).asnumpy()
            chosen = np.take_along_axis(logits, labels.asnumpy()[..., None], 2)[..., 0]
            largest = logits.max(-1)
            found.append(np.log(np.exp(logits - largest[..., None]).sum(-1)) + largest - chosen)
        return np.concatenate(found)

    def told(self) -> str:
        """Return the four figures."""
        self.network.set_train(False)
        causal, random, both = (self.nats(self.asked[name]) for name in ("causal", "random", "both"))
        error = (causal[:, PLACE - 1] - both[:, -2]).std() / np.sqrt(VALIDATED)
        return (
            f"{causal.mean():7.3f} {random.mean():7.3f} {causal[:, PLACE - 1].mean():7.3f} {both[:, -2].mean():7.3f}"
            f"   left - both {causal[:, PLACE - 1].mean() - both[:, -2].mean():6.3f} ± {error:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=420, help="causal steps, and as many again of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--points", type=int, default=3, help="of each curve")
    parser.add_argument("--scratch", action="store_true", help="no causal steps before; the rate falls")
    parser.add_argument("--rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    use_device("CPU")
    rows = rows_of_poems(POEMS)
    validation, train = rows[:VALIDATED], rows[VALIDATED:]
    began = time.perf_counter()
    print(f"{'steps':24}  causal  random    left    both")
    weights = None
    if not arguments.scratch:
        start = Training(train, validation, False, None, arguments.rate, 0)
        start.go_on(arguments.steps, {})
        print(f"{f'{arguments.steps} causal':24} {start.told()}", flush=True)
        weights = read_weights(start.network)
    for kind in arguments.kinds:
        objectives, told = KINDS[kind]
        falls = arguments.steps if arguments.scratch else 0
        training = Training(train, validation, told, weights, arguments.rate, falls)
        size = arguments.steps // arguments.points
        for point in range(1, arguments.points + 1):
            ramp = 0 if arguments.scratch else arguments.steps // 2
            ramped = {name: one | {"ramp_steps": ramp} for name, one in objectives.items()}
            training.go_on(size, ramped)
            print(f"{f'+ {point * size} {kind}':24} {training.told()}", flush=True)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
