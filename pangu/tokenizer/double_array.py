"""Tries as double arrays: a step from a node to a child is two array reads.

The node of a one-character prefix is that character's code; the child of `node` by `code` is `base[node] + code` if
`check[base[node] + code] == node`; `base` is 0 for a leaf. A code may be added to any base without looking at bounds.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pangu.tokenizer.lazily_compiled import Compiled


def build_double_array(
    words: Sequence[str], code_of_character: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the trie of these words: base, check (int32[m]), and the node of each word (int32[words]). Codes begin
    at 1."""
    prefixes = sorted({word[:length] for word in words for length in range(1, len(word) + 1)}, key=len)
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    parents = np.array([number.get(prefix[:-1], -1) for prefix in prefixes])
    labels = np.array([code_of_character[prefix[-1]] for prefix in prefixes], np.int32)
    codes = max(code_of_character.values()) + 1

    inner = parents >= 0
    children = np.flatnonzero(inner)[np.lexsort((labels[inner], parents[inner]))]
    families, first, sizes = np.unique(parents[children], return_index=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    base_of_node = np.zeros(len(prefixes), np.int32)
    base_of_node[families[order]] = _place_families(labels[children], first[order], sizes[order], codes)
    slots = labels.copy()
    slots[children] += base_of_node[parents[children]]

    base = np.zeros(max(codes, int(slots.max(initial=0)) + 1, int(base_of_node.max(initial=0)) + codes), np.int32)
    check = np.full(len(base), -1, np.int32)
    base[slots] = base_of_node
    check[slots[children]] = slots[parents[children]]
    return base, check, slots[[number[word] for word in words]]


@Compiled
def _place_families(labels: np.ndarray, first: np.ndarray, sizes: np.ndarray, codes: int) -> np.ndarray:
    """Return the base of each family of siblings, such that no two nodes share a slot. Slots below `codes` are taken.

    Family f has the labels `labels[first[f] : first[f] + sizes[f]]`, ascending. Families should come largest first: the
    small ones fill the gaps. Returns int32[families].
    """
    bases = np.empty(len(first), np.int32)
    used = np.zeros(2 * (len(labels) + codes), np.bool_)
    used[:codes] = True
    lowest_free = codes
    slot, size_at_restart = 0, 0  # slot: of the first sibling
    for family in range(len(first)):
        siblings = labels[first[family] : first[family] + sizes[family]]
        while used[lowest_free]:
            lowest_free += 1
        # what did not fit one family hardly fits another of about its size, so the search goes on where the last one
        # ended, and goes back to the gaps when the families are much smaller
        if family == 0 or 10 * sizes[family] < 9 * size_at_restart:
            slot, size_at_restart = lowest_free, sizes[family]
        slot = max(slot, siblings[0] + 1)
        while True:
            base = slot - siblings[0]
            if base + codes > len(used):
                used = np.concatenate((used, np.zeros(len(used) + codes, np.bool_)))
            fits = True
            for label in siblings:
                if used[base + label]:
                    fits = False
                    break
            if fits:
                break
            slot += 1
        bases[family] = base
        for label in siblings:
            used[base + label] = True
    return bases
