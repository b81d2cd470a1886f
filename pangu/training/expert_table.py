"""The fixed ways of tokens to experts, made once at the beginning of a run and kept in its checkpoints.

hash: the next most frequent token goes to the expert that has the fewest so far (Roller et al. 2021, balanced
assignment). random_routed: a domain's group of experts shares out the ids at random, evenly (PanGu-Σ).
"""

import heapq

import numpy as np

from pangu.config import ModelConfig
from pangu.training.data import Split, token_counts


def expert_table(model: ModelConfig, seed: int, split: Split | None = None) -> np.ndarray:
    """Return whole numbers, fp32 [1, V] or [domains, V]. split: whose tokens are counted; None: all are as frequent."""
    experts = model.experts
    assert experts is not None and experts.table_rows
    if experts.routing == "hash":
        counts = np.zeros(model.vocab_size) if split is None else token_counts(split, model.vocab_size)
        return balanced(counts, experts.count)[None].astype(np.float32)
    group = experts.count // experts.table_rows
    rows = []
    for domain in range(experts.table_rows):
        random = np.random.Generator(np.random.Philox(key=[seed, domain]))
        rows.append(random.permutation(np.arange(model.vocab_size) % group) + group * domain)
    return np.array(rows, np.float32)


def balanced(counts: np.ndarray, experts: int) -> np.ndarray:
    """Return the expert of each token, int [V]: loads by count are even, and so are those of tokens never seen."""
    table = np.zeros(len(counts), np.int64)
    loads = [(0.0, expert) for expert in range(experts)]
    for token in np.argsort(-counts, kind="stable"):
        load, expert = heapq.heappop(loads)
        table[token] = expert
        heapq.heappush(loads, (load + float(counts[token]) + 1e-3, expert))
    return table
