"""What small numbers cost: validation perplexity and greedy text of a small trained model.

    python -m tests.benchmarks.quantization --corpus ../shared/data/corpus/poetry.jsonl.gz

Trains 4 layers of 128 on poems by character (PyTorch, a few minutes), keeps the weights in `--weights`, and quantises
them in every way. Perplexity is of rows that training never saw, computed by the compiled engine. Greedy text: the
share of the first 20 tokens after prompts of 12 that are those of fp32.
"""

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pangu import parameters
from pangu.config import ModelConfig
from pangu.generation import GenerationOptions, Generator
from pangu.generation.compiled.compiled_network import CompiledNetwork
from pangu.generation.decoding_batch import RowTokens
from pangu.quantization.layers import quantize_in_memory
from pangu.quantization.quantized_file import Quantization

CONFIG = ModelConfig(
    num_layers=4,
    hidden_size=128,
    num_heads=4,
    ffn_hidden_size=512,
    seq_length=64,
    vocab_size=2000,
    compute_dtype="fp32",
    dropout_rate=0.0,
)
KINDS = [(scheme, method) for scheme in ("int8", "int4-g32") for method in ("rtn", "smooth", "gptq")]


def rows_of(path: Path) -> np.ndarray:
    """Rows [rows, seq_length + 1] of ids: the most frequent characters, 0 for every other."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = "\n".join(json.loads(line)["text"] for line in file)
    known = [character for character, _ in Counter(text).most_common(CONFIG.vocab_size - 1)]
    codes = {character: number for number, character in enumerate(known, 1)}
    ids = np.fromiter((codes.get(character, 0) for character in text), np.int32, len(text))
    width = CONFIG.seq_length + 1
    return ids[: len(ids) // width * width].reshape(-1, width)


def forward(torch: Any, weights: dict[str, Any], ids: Any) -> Any:
    """Logits [B, S, V] of the network, with gradients."""
    functional, (batch, tokens) = torch.nn.functional, ids.shape

    def norm(x: Any, prefix: str) -> Any:
        return functional.layer_norm(x, x.shape[-1:], weights[f"{prefix}gamma"], weights[f"{prefix}beta"], 1e-5)

    def linear(x: Any, prefix: str, name: str) -> Any:
        weight = weights[f"{prefix}{name}.weight"]
        out_in = weight if parameters.LINEAR_LAYERS[name] else weight.t()
        return functional.linear(x, out_in, weights[f"{prefix}{name}.bias"])

    def heads(x: Any) -> Any:
        return x.reshape(batch, tokens, CONFIG.num_heads, -1).transpose(1, 2)

    hidden = weights[parameters.WORD_TABLE][ids] + weights[parameters.POSITION_TABLE][:tokens]
    for prefix in parameters.layer_prefixes(CONFIG.num_blocks, CONFIG.query_layer):
        asked = None
        if prefix == parameters.QUERY_LAYER:
            hidden = norm(hidden, parameters.FINAL_NORM)
            asked = weights[parameters.QUERY_TABLE][:tokens].expand(batch, -1, -1)
        normed = norm(hidden, f"{prefix}layernorm1.")
        query = heads(linear(normed if asked is None else asked, prefix, "attention.dense1"))
        key, value = (heads(linear(normed, prefix, f"attention.dense{number}")) for number in (2, 3))
        context = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        context = context.transpose(1, 2).reshape(batch, tokens, -1)
        hidden = hidden + linear(context, prefix, "attention.projection")
        inner = linear(norm(hidden, f"{prefix}layernorm2."), prefix, "output.mapping")
        hidden = hidden + linear(functional.gelu(inner, approximate="tanh"), prefix, "output.projection")
    return hidden @ weights[parameters.WORD_TABLE].t()


def train(rows: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """Weights after so many steps of AdamW on batches of 32."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    weights = {}
    for name, shape in parameters.shapes(CONFIG).items():
        start = torch.ones(shape) if name.endswith("gamma") else torch.zeros(shape)
        weights[name] = (torch.randn(shape) * 0.02 if len(shape) == 2 else start).requires_grad_()
    optimizer = torch.optim.AdamW(weights.values(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    random = np.random.default_rng(1)
    for step in range(steps):
        batch = torch.from_numpy(rows[random.integers(0, len(rows), 32)]).long()
        logits = forward(torch, weights, batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, CONFIG.vocab_size), batch[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return {name: value.detach().numpy().copy() for name, value in weights.items()}


def nats(weights: dict[str, np.ndarray], rows: np.ndarray) -> float:
    """Mean -log p of every token but the first of each row."""
    batch = CompiledNetwork(CONFIG, weights, threads=1).open(1, 128)
    total = 0.0
    for row in rows:
        batch.release(0)
        [logits] = batch.read([RowTokens(0, row[:-1].tolist(), wanted=len(row) - 1)])
        top = logits.max(axis=1)
        logs = np.log(np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)) + top
        total += float((logs - logits[np.arange(len(logits)), row[1:]]).sum())
    return total / rows[:, 1:].size


def greedy(weights: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The first 20 tokens after each prompt of 12."""
    options = GenerationOptions(20, temperature=0)
    results = Generator(CONFIG, weights, threads=1).generate([row[:12].tolist() for row in rows], options)
    return np.array([result.ids for result in results])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("quantization-weights.npz"))
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    rows = rows_of(arguments.corpus)
    training, validation = rows[:-400], rows[-400:]
    if not arguments.weights.is_file():
        np.savez(arguments.weights, **train(training, arguments.steps))
    weights = dict(np.load(arguments.weights))
    exact, texts = nats(weights, validation), greedy(weights, validation)
    print(f"fp32: perplexity {np.exp(exact):.2f}")
    for scheme, method in KINDS:
        small = quantize_in_memory(CONFIG, weights, Quantization.of(scheme, method), training[:128, :-1])
        change = 100 * (np.exp(nats(small, validation) - exact) - 1)
        same = 100 * (greedy(small, validation) == texts).mean()
        print(f"{scheme:8} {method:6} perplexity {change:+.3f} %  greedy tokens equal {same:.1f} %", flush=True)


if __name__ == "__main__":
    main()
