"""Training: tokens a second of a whole step here and in PyTorch, fp32, on a CPU.

    python -m tests.benchmarks.training                        # every case
    python -m tests.benchmarks.training --case tiny --turns 9
    python -m tests.benchmarks.training --engine mindspore     # the graph instead of the compiled step

A step is forward, backward, global-norm clip and AdamW. Both engines begin with the same weights and see the same
batches, in a process each, and take turns (A B A B ...); the other one waits meanwhile. The figure is the median over
turns, `best` that of the fastest step; the ratios are the median of neighbouring turns' and that of the fastest steps.
`processor` is the ratio of the processor time that a step takes, of all threads; with `--threads 1` it is nearly free
of what other programs do. Losses are compared step by step, so the two must compute the same thing.

The peer is what one would write in PyTorch: Q, K and V as one matrix, `scaled_dot_product_attention(is_causal=True)`,
`AdamW(fused=True)`. On AMD processors its matrix products (MKL) use AVX2 only; on Intel's they use AVX-512, as
oneDNN's, which we use, do on both. So the ratio depends on the processor, which is printed.

Only a quiet machine gives a fair ratio: where other programs take the processor, PyTorch's OpenMP threads wait for each
other and lose several times more than ours. The load before the measurement is printed, with a warning.
"""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pangu.config import ModelConfig, load_size

BETAS, EPSILON, WEIGHT_DECAY, LEARNING_RATE, CLIP_NORM = (0.9, 0.95), 1e-8, 0.1, 1e-4, 1.0
SEQUENCE = 256
NO_PAD = -1  # every prediction counts, in both


@dataclass(frozen=True)
class Case:
    model: ModelConfig
    batch: int


def small(vocabulary: int) -> ModelConfig:
    return ModelConfig(
        num_layers=6,
        hidden_size=512,
        num_heads=8,
        ffn_hidden_size=2048,
        seq_length=SEQUENCE,
        vocab_size=vocabulary,
        compute_dtype="fp32",
        dropout_rate=0,
    )


CASES = {
    "small": Case(small(16000), 4),
    "small-vocabulary": Case(small(4000), 4),
    "tiny": Case(load_size("tiny"), 8),
    "350M": Case(
        load_size("350M").model_copy(update={"compute_dtype": "fp32", "dropout_rate": 0, "seq_length": 256}), 2
    ),
}


def batch_of(case: Case, step: int) -> np.ndarray:
    """int32 [B, S+1]."""
    random = np.random.default_rng(step)
    return random.integers(0, case.model.vocab_size, (case.batch, SEQUENCE + 1)).astype(np.int32)


def first_weights(case: Case) -> dict[str, np.ndarray]:
    from pangu.model.network import build, read_weights

    return read_weights(build(case.model, seed=7))


class Ours:
    compiled = True

    def __init__(self, case: Case) -> None:
        import mindspore as ms

        from pangu.device import use_device
        from pangu.model.network import build
        from pangu.training.compiled.compiled_step import CompiledStep, StepRules
        from pangu.training.loss import Loss
        from pangu.training.objectives.causal import Causal
        from pangu.training.optimizer import AdamW
        from pangu.training.step import TrainStep

        use_device()  # as many threads as this process may use processors
        self.ms, self.case, self.taken = ms, case, 0
        network = build(case.model, first_weights(case))
        network.set_train(True)
        optimizer = AdamW(network.trainable_params(), *BETAS)
        self.objective = Causal(None, NO_PAD)
        in_graph = self.objective.in_graph()
        if self.compiled:
            self.train_step = CompiledStep(network, in_graph, optimizer, StepRules(1, CLIP_NORM))
        else:
            self.train_step = TrainStep(Loss(network, in_graph), optimizer, CLIP_NORM, accumulate=1)

    def step(self) -> float:
        from pangu.training.optimizer import adam_scalars

        rows = batch_of(self.case, self.taken)
        scalars = adam_scalars(self.taken, LEARNING_RATE, *BETAS, EPSILON, WEIGHT_DECAY, bias_correction=True)
        numbers = (self.objective.predictions(rows), 1.0)
        update = (scalars.learning_rate, scalars.epsilon, scalars.decay)
        loss, _, _ = self.train_step(
            self.ms.Tensor(rows),
            *(self.ms.Tensor(value, self.ms.float32) for value in numbers),
            self.ms.Tensor(0, self.ms.int32),
            *(self.ms.Tensor(value, self.ms.float32) for value in update),
        )
        self.taken += 1
        return float(loss.asnumpy())


class OursAsGraph(Ours):
    """MindSpore's graph."""

    compiled = False


class Torch:
    def __init__(self, case: Case) -> None:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.torch, self.case, self.taken = torch, case, 0
        self.weights = {
            name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in self.join(first_weights(case)).items()
        }
        decayed = [weight for name, weight in self.weights.items() if weight.dim() > 1]
        others = [weight for name, weight in self.weights.items() if weight.dim() == 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=True)

    def join(self, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every matrix [out, in]; the matrices that have the same input (Q, K, V; of the query layer K, V) as one."""
        joined = {}
        for name, value in weights.items():
            joined[name] = value.T.copy() if name.endswith("projection.weight") or "mapping.weight" in name else value
        for prefix in self.prefixes():
            for part in ("weight", "bias"):
                dense = [joined.pop(f"{prefix}attention.dense{i}.{part}") for i in (1, 2, 3)]
                if "top_query" in prefix:
                    joined[f"{prefix}query.{part}"] = dense.pop(0)
                joined[f"{prefix}together.{part}"] = np.concatenate(dense)
        return joined

    def prefixes(self) -> list[str]:
        blocks = [f"backbone.blocks.{i}." for i in range(self.case.model.num_blocks)]
        return [*blocks, "backbone.top_query_layer."] if self.case.model.query_layer else blocks

    def linear(self, x, name: str):  # type: ignore[no-untyped-def]
        return self.torch.nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x, name: str):  # type: ignore[no-untyped-def]
        gamma, beta = self.weights[f"{name}.gamma"], self.weights[f"{name}.beta"]
        return self.torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, 1e-5)

    def table(self, name: str):  # type: ignore[no-untyped-def]
        return self.weights[f"backbone.{name}_embedding.embedding_table"]

    def loss(self, ids, labels):  # type: ignore[no-untyped-def]
        model, functional = self.case.model, self.torch.nn.functional

        def heads(x):  # type: ignore[no-untyped-def]
            return x.reshape(*x.shape[:-1], model.num_heads, model.head_size).transpose(1, 2)

        hidden = functional.embedding(ids, self.table("word")) + self.table("position")
        for prefix in self.prefixes():
            asked_by_table = "top_query" in prefix
            if asked_by_table:
                hidden = self.norm(hidden, "backbone.layernorm")
            *query, key, value = self.linear(self.norm(hidden, f"{prefix}layernorm1"), f"{prefix}together").split(
                model.hidden_size, -1
            )
            if asked_by_table:
                query = [self.linear(self.table("top_query"), f"{prefix}query").expand(len(ids), -1, -1)]
            attended = functional.scaled_dot_product_attention(
                heads(query[0]), heads(key), heads(value), is_causal=True
            )
            attended = attended.transpose(1, 2).reshape(hidden.shape)
            hidden = hidden + self.linear(attended, f"{prefix}attention.projection")
            inner = self.linear(self.norm(hidden, f"{prefix}layernorm2"), f"{prefix}output.mapping")
            hidden = hidden + self.linear(functional.gelu(inner, approximate="tanh"), f"{prefix}output.projection")
        if not model.query_layer:
            hidden = self.norm(hidden, "backbone.layernorm")
        logits = functional.linear(hidden, self.table("word"))
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def step(self) -> float:
        rows = self.torch.from_numpy(batch_of(self.case, self.taken)).long()
        loss = self.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.weights.values(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        return loss.item()


@dataclass(frozen=True)
class Turn:
    """Some steps of one engine: seconds, seconds of all processors together and loss of each, and the peak memory of
    the process so far in bytes."""

    seconds: list[float]
    processors: list[float]
    losses: list[float]
    memory: int


def serve(pipe: multiprocessing.connection.Connection, engine: type, case: Case, threads: int) -> None:
    """A process with one engine, which takes as many steps as it is told to."""
    import resource

    # MindSpore's matrix products take every processor that the process may use, whatever number of threads it is told.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    runner = engine(case)
    while steps := pipe.recv():
        seconds, processors, losses = [], [], []
        for _ in range(steps):
            began, used = time.perf_counter(), time.process_time()
            losses.append(runner.step())
            seconds.append(time.perf_counter() - began)
            processors.append(time.process_time() - used)
        pipe.send(Turn(seconds, processors, losses, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(case: Case, turns: int, steps: int, threads: int, ours: type[Ours]) -> dict[str, list[Turn]]:
    """All turns of both engines; the first turn is one step, which compiles."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name, engine in (("ours", ours), ("torch", Torch)):
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, engine, case, threads), daemon=True).start()
    results: dict[str, list[Turn]] = {name: [] for name in pipes}
    for turn in range(turns + 1):
        for name, pipe in pipes.items():
            pipe.send(steps if turn else 1)
            results[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(0)
    return results


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--engine", choices=("compiled", "mindspore"), default="compiled", help="ours")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both engines")
    arguments = parser.parse_args()
    print(
        f"mindspore {version('mindspore')}, torch {version('torch')}, {arguments.threads} threads, {processor()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    if os.getloadavg()[0] > 0.5:
        print("WARNING: the machine is busy, which favours ours: these ratios are too high")
    print(
        "case              ours tok/s  torch tok/s  ratio | best: ours  torch  ratio | processor | first step s "
        "| GiB ours/torch | max |Δ loss|"
    )
    ours = Ours if arguments.engine == "compiled" else OursAsGraph
    for name in arguments.case or CASES:
        case = CASES[name]
        results = measure(case, arguments.turns, arguments.steps, arguments.threads, ours)
        tokens = case.batch * SEQUENCE
        means = {key: [statistics.mean(turn.seconds) for turn in turns[1:]] for key, turns in results.items()}
        typical = {key: tokens / statistics.median(seconds) for key, seconds in means.items()}
        best = {key: tokens / min(min(turn.seconds) for turn in turns[1:]) for key, turns in results.items()}
        ratio = statistics.median(b / a for a, b in zip(means["ours"], means["torch"], strict=True))
        losses = [[loss for turn in results[key] for loss in turn.losses] for key in ("ours", "torch")]
        difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
        work = {key: [statistics.mean(turn.processors) for turn in turns[1:]] for key, turns in results.items()}
        of_work = statistics.median(b / a for a, b in zip(work["ours"], work["torch"], strict=True))
        gib = {key: turns[-1].memory / 2**30 for key, turns in results.items()}
        print(
            f"{name:16} {typical['ours']:11.0f} {typical['torch']:12.0f} {ratio:6.2f} | {best['ours']:10.0f}"
            f" {best['torch']:6.0f} {best['ours'] / best['torch']:6.2f} | {of_work:9.2f}"
            f" | {results['ours'][0].seconds[0]:12.1f} | {gib['ours']:7.2f}/{gib['torch']:.2f}   | {difference:8.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
