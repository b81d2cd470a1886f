"""What experts cost and what domains gain: a training step on this CPU, and two domains against one dense network.

    python -m tests.benchmarks.experts step              # 6 x 512, 8 experts of one choice against dense, in turns
    python -m tests.benchmarks.experts domains           # two made-up languages, an expert each, against dense

`step`: processor seconds of a training step, the least of several, each network in turn. `domains`: both networks do
the same FLOPs a token and see the same rows; nats a token of validation rows, and what is lost without an expert.
"""

import argparse
import json
import time

import mindspore as ms
import numpy as np
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.model.network import build
from pangu.training.loss import Loss, training_loss
from pangu.training.objectives.causal import CausalBatch, DomainBatch
from pangu.training.optimizer import AdamW
from pangu.training.step import TrainStep

END, PAD = 1, 0
LARGE = {"num_layers": 6, "hidden_size": 512, "num_heads": 8, "ffn_hidden_size": 2048, "seq_length": 256}
SMALL = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "ffn_hidden_size": 128, "seq_length": 32}


def config_of(sizes: dict, vocabulary: int, experts: dict | None) -> ModelConfig:
    fields = {**sizes, "vocab_size": vocabulary, "compute_dtype": "fp32", "dropout_rate": 0.0, "experts": experts}
    return ModelConfig.from_fields(fields, "benchmark")


class Trained:
    """A network with its step."""

    def __init__(self, config: ModelConfig, rate: float = 3e-3) -> None:
        self.by_domain = bool(config.experts and config.experts.by_domain)
        batch = (DomainBatch if self.by_domain else CausalBatch)(END, PAD)
        self.network = build(config, seed=1).set_train()
        self.step_cell = TrainStep(
            training_loss(self.network, batch), AdamW(self.network.trainable_params(), 0.9, 0.95), 1.0, 1
        )
        self.evaluation, self.rate = Loss(self.network, batch), rate

    def rows(self, ids: np.ndarray, domains: np.ndarray) -> Tensor:
        told = np.repeat(domains[:, None], ids.shape[1], 1)
        return Tensor(np.concatenate([ids, told], 1) if self.by_domain else ids)

    def step(self, ids: np.ndarray, domains: np.ndarray) -> float:
        numbers = [Tensor(value, ms.float32) for value in (ids[:, :-1].size, 1.0)]
        rates = [Tensor(value, ms.float32) for value in (self.rate, 1e-8, 0.0)]
        loss, *_ = self.step_cell(self.rows(ids, domains), *numbers, Tensor(0, ms.int32), *rates)
        return float(loss.asnumpy())

    def nats(self, ids: np.ndarray, domains: np.ndarray) -> float:
        self.network.set_train(False)
        total = float(self.evaluation(self.rows(ids, domains), Tensor(0, ms.int32)).asnumpy())
        self.network.set_train(True)
        return total / ids[:, :-1].size


def step_times(turns: int) -> dict:
    """Return the least processor seconds of a step, dense and with experts."""
    ids = np.random.default_rng(0).integers(2, 16000, (8, LARGE["seq_length"] + 1)).astype(np.int32)
    domains = np.zeros(len(ids), np.int32)
    kinds = {"dense": None, "8 experts": {"count": 8, "routing": "switch", "capacity_factor": 1.0}}
    runs = {name: Trained(config_of(LARGE, 16000, experts)) for name, experts in kinds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(turns + 1):  # the first of each compiles
        for name, run in runs.items():
            begun = time.process_time()
            run.step(ids, domains)
            seconds[name].append(time.process_time() - begun)
    least = {name: round(min(times[1:]), 3) for name, times in seconds.items()}
    return least | {"ratio": round(least["8 experts"] / least["dense"], 3)}


def language(seed: int, count: int, length: int, random: np.random.Generator) -> np.ndarray:
    """Return rows of a made-up language: the next word depends on the two before it, by a table of its own."""
    table = np.random.default_rng(seed).integers(2, 66, (64, 64, 4))
    rows = random.integers(2, 66, (count, length)).astype(np.int32)
    for place in range(2, length):
        following = table[rows[:, place - 2] - 2, rows[:, place - 1] - 2]
        drawn = random.choice(4, count, p=(0.7, 0.15, 0.1, 0.05))
        rows[:, place] = following[np.arange(count), drawn]
    return rows


def domain_gain(steps: int) -> dict:
    """Return validation nats a token of a dense network and of one with an expert for each of two domains."""
    random = np.random.default_rng(5)
    length = SMALL["seq_length"] + 1

    def batch(count: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.concatenate([language(seed, count // 2, length, random) for seed in (1, 2)])
        return rows, np.repeat([0, 1], count // 2).astype(np.int32)

    kinds = {"dense": None, "domain": {"count": 2, "routing": "domain", "domains": ["a", "b"]}}
    runs = {name: Trained(config_of(SMALL, 66, experts)) for name, experts in kinds.items()}
    for _ in range(steps):
        rows = batch(32)
        for run in runs.values():
            run.step(*rows)
    test = batch(256)
    nats = {name: round(run.nats(*test), 4) for name, run in runs.items()}
    swapped = runs["domain"].nats(test[0], 1 - test[1])
    gain = round(100 * (1 - nats["domain"] / nats["dense"]), 2)
    return nats | {"gain in percent": gain, "with the other domain's expert": round(swapped, 4), "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "domains"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    found = step_times(arguments.turns) if arguments.what == "step" else domain_gain(arguments.steps)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
