"""What experts cost and what domains gain: a training step on this CPU, and two domains against one dense network.

    python -m tests.benchmarks.experts step              # 6 x 512, 8 experts of one choice against dense, in turns
    python -m tests.benchmarks.experts domains           # poems and a Java guide, an expert each, against dense

`step`: processor seconds of a training step, the least of several, each network in turn. `domains`: both networks do
the same FLOPs a token, begin from the same seed and see the same rows, half of them of each corpus, read character by
character; nats a character over 1,024 unseen rows of each, and the same with the other corpus's expert. Needs the
corpora beside the repository (`../shared`).
"""

import argparse
import gzip
import json
import time
from collections import Counter

import mindspore as ms
import numpy as np
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.device import use_device
from pangu.model.network import build
from pangu.training.loss import Loss, training_loss
from pangu.training.objectives.causal import CausalBatch, DomainBatch
from pangu.training.optimizer import AdamW
from pangu.training.step import TrainStep
from tests.conftest import REPOSITORY

END, PAD = 1, 0
LARGE = {"num_layers": 6, "hidden_size": 512, "num_heads": 8, "ffn_hidden_size": 2048, "seq_length": 256}
SMALL = {"num_layers": 4, "hidden_size": 128, "num_heads": 4, "ffn_hidden_size": 512, "seq_length": 64}
CHARACTERS, ROWS, VALIDATED = 4000, 32, 1024
CORPORA = REPOSITORY.parent / "shared/data/corpus"


def config_of(sizes: dict, vocabulary: int, experts: dict | None) -> ModelConfig:
    fields = {**sizes, "vocab_size": vocabulary, "compute_dtype": "fp32", "dropout_rate": 0.0, "experts": experts}
    return ModelConfig.from_fields(fields, "benchmark")


class Trained:
    """A network with its step."""

    def __init__(self, config: ModelConfig, rate: float = 3e-3, seed: int = 1) -> None:
        self.by_domain = bool(config.experts and config.experts.by_domain)
        batch = (DomainBatch if self.by_domain else CausalBatch)(END, PAD)
        self.network = build(config, seed=seed).set_train()
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


def rows_of_characters(names: tuple[str, str]) -> list[np.ndarray]:
    """Return for each of two corpora rows int32 [N, S+1] in a random order, as many tokens of each. Ids 0 and 1 are
    padding and the end, 2 is every rarer character; the others are the commonest of both."""
    texts = []
    for name in names:
        with gzip.open(CORPORA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            texts.append("\n".join(json.loads(line)["text"] for line in file))
    length = min(len(text) for text in texts)
    texts = [text[:length] for text in texts]
    counted = Counter(texts[0]) + Counter(texts[1])
    ids = {one: number for number, (one, _) in enumerate(counted.most_common(CHARACTERS - 3), 3)}
    width = SMALL["seq_length"] + 1
    coded = [np.array([ids.get(character, 2) for character in text], np.int32) for text in texts]
    random = np.random.default_rng(0)
    return [random.permutation(one[: len(one) // width * width].reshape(-1, width)) for one in coded]


def domain_gain(names: tuple[str, str], steps: int, seed: int) -> dict:
    """Return validation nats a character of a dense network and of one with an expert for each of two domains."""
    rows, held = zip(*((one[VALIDATED:], one[:VALIDATED]) for one in rows_of_characters(names)), strict=True)
    kinds = {"dense": None, "experts": {"count": 2, "routing": "domain", "domains": list(names)}}
    runs = {name: Trained(config_of(SMALL, CHARACTERS, experts), seed=seed) for name, experts in kinds.items()}
    random, told = np.random.default_rng(seed), np.repeat(np.arange(2, dtype=np.int32), ROWS // 2)
    for step in range(steps):
        batch = np.concatenate([one[random.integers(0, len(one), ROWS // 2)] for one in rows])
        for run in runs.values():
            run.rate = 1e-3 * min(1.0, (step + 1) / 100) * (1 - 0.9 * step / steps)
            run.step(batch, told)

    def nats(name: str, domain: int, expert: int) -> float:
        parts = np.split(held[domain], len(held[domain]) // 64)
        found = [runs[name].nats(part, np.full(len(part), expert, np.int32)) for part in parts]
        return round(float(np.mean(found)), 4)

    answer: dict = {"steps": steps, "seed": seed}
    for domain, name in enumerate(names):
        dense, own, other = (
            nats(kind, domain, e) for kind, e in (("dense", 0), ("experts", domain), ("experts", 1 - domain))
        )
        gain = round(100 * (1 - own / dense), 2)
        answer[name] = {"dense": dense, "experts": own, "gain in percent": gain, "with the other's expert": other}
    means = [np.mean([answer[name][kind] for name in names]) for kind in ("dense", "experts")]
    return answer | {"gain of the mean in percent": round(100 * float(1 - means[1] / means[0]), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "domains"])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--corpora", nargs=2, default=["poetry", "javaguide"])
    arguments = parser.parse_args()
    use_device()
    if arguments.what == "step":
        print(json.dumps(step_times(arguments.turns), indent=1))
        return
    for seed in arguments.seeds:
        print(json.dumps(domain_gain(tuple(arguments.corpora), arguments.steps, seed), indent=1), flush=True)


if __name__ == "__main__":
    main()
