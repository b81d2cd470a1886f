"""Generation with a KV cache: tokens a second here and in PyTorch, and the share of the memory-bandwidth limit.

    python -m tests.benchmarks.generation                        # every case, fp32 and int8 weights
    python -m tests.benchmarks.generation --case small --batch 8 --engine mindspore
    python -m tests.benchmarks.generation --threads 1 --clock cpu         # on a busy machine

Both engines hold the same weights, in a process each, and take turns (A B A B ...); the other one waits meanwhile. A
turn decodes greedily at the end of a full context, so that every token reads the cache of all before it. The figure is
the median over turns; the ratio is the median of the ratios of neighbouring turns; the quiet ratio compares the fastest
tenths of all calls. The last logits of both are compared.

The peer is what one would write in PyTorch with care: weights [in, out], one matrix for Q, K and V, the query layer's
queries projected beforehand as ours are, a cache allocated once and written in place, `scaled_dot_product_attention`
over exactly the tokens so far, `inference_mode`.

Bytes that one token must read: every weight of the layers and the output matrix once a call, and the keys and values
of the context of each row. The limit is those bytes over the bandwidth of reading a large array (measured beforehand).
"""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pangu.config import ModelConfig, load_size

CONTEXT = 512
SMALL = ModelConfig(
    num_layers=6,
    hidden_size=512,
    num_heads=8,
    ffn_hidden_size=2048,
    seq_length=CONTEXT,
    vocab_size=16000,
    compute_dtype="fp32",
)
# Processor time leaves out what other programs take; with one thread it is the figure for a busy machine.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CASES = {"small": SMALL} | {size: load_size(size) for size in ("tiny", "350M", "1.3B")}


@dataclass(frozen=True)
class Turn:
    """What a turn measured: seconds for the prompt, seconds of each decoding call, and the last logits [B, V]."""

    prompt_seconds: float
    token_seconds: list[float]
    logits: np.ndarray


def random_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Weights of a trained model's size, without MindSpore in the process."""
    from pangu import parameters

    random = np.random.default_rng(7)
    weights = {}
    for name, shape in parameters.shapes(config).items():
        values = random.standard_normal(shape, np.float32) * np.float32(0.02)
        weights[name] = values + 1 if name.endswith("gamma") else values
    return weights


def prompt_ids(config: ModelConfig, batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, config.vocab_size, (batch, length)).astype(np.int32)


class MindSporeEngine:
    def __init__(self, config: ModelConfig, threads: int, clock: str) -> None:
        from pangu.device import use_device
        from pangu.generation import Generator

        use_device()
        from mindspore import device_context

        device_context.cpu.op_tuning.threads_num(threads)
        self.generator = Generator(config, random_weights(config))
        self.config, self.clock = config, clock

    def turn(self, batch: int, new_tokens: int) -> Turn:
        prompts = prompt_ids(self.config, batch, self.config.seq_length - new_tokens)
        rows = self.generator.open(batch, self.config.seq_length)
        began = CLOCKS[self.clock]()
        logits = rows.prefill([list(map(int, row)) for row in prompts])
        filled = CLOCKS[self.clock]()
        times = [filled]
        for _ in range(new_tokens):
            logits = rows.step(logits.argmax(axis=-1).astype(np.int32))
            times.append(CLOCKS[self.clock]())
        return Turn(filled - began, list(np.diff(times)), logits)


class CompiledEngine:
    """stored: how the matrices are kept."""

    stored = "fp32"

    def __init__(self, config: ModelConfig, threads: int, clock: str) -> None:
        from pangu.generation.compiled.compiled_network import CompiledNetwork, stored_as
        from pangu.quantization.layers import quantize_in_memory
        from pangu.quantization.quantized_file import Quantization

        weights = random_weights(config)
        if self.stored in ("int8", "int4-g32"):
            weights = quantize_in_memory(config, weights, Quantization.of(self.stored, "rtn"))
        else:
            weights = stored_as(weights, self.stored)
        self.network = CompiledNetwork(config, weights, threads=threads)
        self.config, self.clock = config, clock

    def turn(self, batch: int, new_tokens: int) -> Turn:
        from pangu.generation.compiled.compiled_network import RowTokens

        prompts = prompt_ids(self.config, batch, self.config.seq_length - new_tokens)
        rows = self.network.open(batch, self.config.seq_length)
        rows.read([RowTokens(0, [0])])
        rows.release(0)
        began = CLOCKS[self.clock]()
        logits = np.concatenate(rows.read([RowTokens(row, ids.tolist()) for row, ids in enumerate(prompts)]))
        filled = CLOCKS[self.clock]()
        times = [filled]
        for _ in range(new_tokens):
            newest = logits.argmax(axis=-1).tolist()
            logits = np.concatenate(rows.read([RowTokens(row, [token]) for row, token in enumerate(newest)]))
            times.append(CLOCKS[self.clock]())
        return Turn(filled - began, list(np.diff(times)), logits)


class Fp16Engine(CompiledEngine):
    stored = "fp16"


class Int8Engine(CompiledEngine):
    stored = "int8"


class Int4Engine(CompiledEngine):
    stored = "int4-g32"


# A process is started with a class that it can import by name.
ENGINES: dict[str, type[CompiledEngine] | type[MindSporeEngine]] = {
    "fp32": CompiledEngine,
    "fp16": Fp16Engine,
    "int8": Int8Engine,
    "int4-g32": Int4Engine,
    "mindspore": MindSporeEngine,
}


class Torch:
    def __init__(self, config: ModelConfig, threads: int, clock: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.config, self.clock = torch, config, clock
        self.weights = {name: torch.from_numpy(value) for name, value in random_weights(config).items()}
        prefixes = [f"backbone.blocks.{i}." for i in range(config.num_blocks)]
        self.layers = [self.layer(prefix) for prefix in [*prefixes, "backbone.top_query_layer."]]
        self.words = self.weights["backbone.word_embedding.embedding_table"]
        self.positions = self.weights["backbone.position_embedding.embedding_table"]
        rows = self.weights["backbone.top_query_embedding.embedding_table"]
        self.queries = self.linear(rows, self.layers[-1]["query"])
        self.final_norm = (self.weights["backbone.layernorm.gamma"], self.weights["backbone.layernorm.beta"])
        self.head = self.words.t().contiguous()

    def layer(self, prefix: str) -> dict[str, tuple]:
        """Part -> (bias, weight [in, out]) or (gamma, beta)."""
        weights, torch = self.weights, self.torch
        dense = [weights[f"{prefix}attention.dense{i}.weight"].t() for i in (1, 2, 3)]
        bias = [weights[f"{prefix}attention.dense{i}.bias"] for i in (1, 2, 3)]
        together = slice(1, 3) if "top_query" in prefix else slice(0, 3)
        parts = {
            "in": (torch.cat(bias[together]), torch.cat(dense[together], 1).contiguous()),
            "query": (bias[0], dense[0].contiguous()),
        }
        for part in ("attention.projection", "output.mapping", "output.projection"):
            parts[part] = (weights[f"{prefix}{part}.bias"], weights[f"{prefix}{part}.weight"])
        for part in ("layernorm1", "layernorm2"):
            parts[part] = (weights[f"{prefix}{part}.gamma"], weights[f"{prefix}{part}.beta"])
        return parts

    def norm(self, x: Any, gamma_beta: tuple) -> Any:
        gamma, beta = gamma_beta
        return self.torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, 1e-5)

    def linear(self, x: Any, bias_weight: tuple) -> Any:
        bias, weight = bias_weight
        return self.torch.addmm(bias, x, weight)

    def step(self, ids: Any, start: int) -> Any:
        """ids [B, T] at positions start..; keeps keys and values; logits [B, V] of the last token."""
        config, functional = self.config, self.torch.nn.functional
        batch, tokens = ids.shape
        end = start + tokens

        def heads(x: Any) -> Any:
            return x.reshape(batch, -1, config.num_heads, config.head_size).transpose(1, 2)

        hidden = (self.words[ids] + self.positions[start:end]).reshape(batch * tokens, -1)
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            if is_last:
                hidden = self.norm(hidden, self.final_norm)
            parts = self.linear(self.norm(hidden, layer["layernorm1"]), layer["in"]).split(config.hidden_size, 1)
            query = parts[0]
            self.keys[index][:, :, start:end] = heads(parts[-2])
            self.values[index][:, :, start:end] = heads(parts[-1])
            if is_last:
                hidden = hidden.reshape(batch, tokens, -1)[:, -1]
                query = self.queries[end - 1].expand(batch, -1)
            attended = functional.scaled_dot_product_attention(
                heads(query),
                self.keys[index][:, :, :end],
                self.values[index][:, :, :end],
                is_causal=tokens > 1 and not is_last,
            )
            hidden = hidden + self.linear(attended.transpose(1, 2).reshape(hidden.shape), layer["attention.projection"])
            inner = self.linear(self.norm(hidden, layer["layernorm2"]), layer["output.mapping"])
            hidden = hidden + self.linear(functional.gelu(inner, approximate="tanh"), layer["output.projection"])
        return hidden @ self.head

    def turn(self, batch: int, new_tokens: int) -> Turn:
        torch, config = self.torch, self.config
        length = config.seq_length - new_tokens
        prompts = torch.from_numpy(prompt_ids(config, batch, length)).long()
        shape = (batch, config.num_heads, config.seq_length, config.head_size)
        with torch.inference_mode():
            self.keys = [torch.zeros(shape) for _ in self.layers]
            self.values = [torch.zeros(shape) for _ in self.layers]
            began = CLOCKS[self.clock]()
            logits = self.step(prompts, 0)
            filled = CLOCKS[self.clock]()
            times = [filled]
            for position in range(length, length + new_tokens):
                logits = self.step(logits.argmax(-1, keepdim=True), position)
                times.append(CLOCKS[self.clock]())
        return Turn(filled - began, list(np.diff(times)), logits.numpy())


def serve(
    pipe: multiprocessing.connection.Connection,
    engine: type[CompiledEngine] | type[MindSporeEngine] | type[Torch],
    config: ModelConfig,
    threads: int,
    clock: str,
) -> None:
    """A process with one engine, which takes a turn whenever it is told to."""
    runner = engine(config, threads, clock)
    while True:
        message = pipe.recv()
        if message is None:
            return
        pipe.send(runner.turn(*message))


def read_bandwidth() -> float:
    """Bytes a second when summing an array of 256 MB with every core, the best of five (NumPy in threads)."""
    from concurrent.futures import ThreadPoolExecutor

    threads = len(os.sched_getaffinity(0))
    array = np.ones(1 << 26, np.float32)
    parts = np.array_split(array, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - began)
    return array.nbytes / best


# Bytes a weight; int4 has a scale of two bytes for 32.
BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int4-g32": 0.5625, "mindspore": 4.0}


def bytes_per_call(config: ModelConfig, batch: int, width: float) -> float:
    """Weights of the layers and the output matrix, and the keys and values of a full context in fp32."""
    tables = 2 * config.seq_length * config.hidden_size  # positions and queries: a row each
    weights = config.num_parameters - tables - config.hidden_size**2
    cache = 2 * config.num_layers * batch * config.seq_length * config.hidden_size
    return width * weights + 4 * cache


def mean_token(turn: Turn) -> float:
    return statistics.mean(turn.token_seconds)


def quiet_token(turns: list[Turn]) -> float:
    """The fastest tenth of all calls: what remains where other programs take the processor in between."""
    return float(np.quantile([seconds for turn in turns for seconds in turn.token_seconds], 0.1))


def measure(
    config: ModelConfig, engine: str, batch: int, new_tokens: int, turns: int, threads: int, clock: str
) -> dict[str, list[Turn]]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, kind in (("ours", ENGINES[engine]), ("torch", Torch)):
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, kind, config, threads, clock), daemon=True)
        process.start()
        processes.append(process)
    results: dict[str, list[Turn]] = {name: [] for name in pipes}
    for turn in range(turns + 1):
        for name, pipe in pipes.items():
            pipe.send((batch, new_tokens))
            result = pipe.recv()
            if turn:  # the first compiles and warms up
                results[name].append(result)
    for pipe in pipes.values():
        pipe.send(None)
    for process in processes:
        process.join()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="how ours stores its weights, or mindspore")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both engines")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    from importlib.metadata import version

    bandwidth = read_bandwidth()
    print(f"mindspore {version('mindspore')}, torch {version('torch')}, reading {bandwidth / 1e9:.1f} GB/s")
    print(
        "case   engine    batch  ours tok/s  torch tok/s  ratio  quiet ratio  of the limit"
        "  prompt ms ours/torch  max |Δ logits|"
    )
    for case in arguments.case or ("small", "tiny"):
        config = CASES[case]
        for batch in arguments.batch or (1, 8):
            for engine in arguments.engine or ("fp32", "int8"):
                settings = (arguments.new_tokens, arguments.turns, arguments.threads, arguments.clock)
                results = measure(config, engine, batch, *settings)
                ours, peer = results["ours"], results["torch"]
                typical = {name: statistics.median(map(mean_token, turns)) for name, turns in results.items()}
                quiet = {name: quiet_token(turns) for name, turns in results.items()}
                prompt = {name: min(turn.prompt_seconds for turn in turns) for name, turns in results.items()}
                ratio = statistics.median(mean_token(b) / mean_token(a) for a, b in zip(ours, peer, strict=True))
                share = bytes_per_call(config, batch, BYTES[engine]) / bandwidth / quiet["ours"]
                difference = float(np.abs(ours[-1].logits - peer[-1].logits).max())
                print(
                    f"{case:6} {engine:9} {batch:5} {batch / typical['ours']:11.0f} {batch / typical['torch']:12.0f}"
                    f" {ratio:6.2f} {quiet['torch'] / quiet['ours']:12.2f} {share:13.0%}"
                    f" {prompt['ours'] * 1e3:14.0f} / {prompt['torch'] * 1e3:<5.0f} {difference:13.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
