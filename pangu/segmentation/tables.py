"""jieba's dictionary and emission tables as arrays, compiled once and kept in the user's cache directory.

Character codes (uint16): 0 is any character outside a block; then the digits, the letters, `.`, `%`, the other five
ASCII characters of a block, and Han: first the code of every Han character that jieba has no entry for, then one code
for each that it has. So a comparison tells the class of a character.

The trie: the node of a one-character prefix is that character's code; the child of `node` by `code` is
`base[node] + code` if `check[base[node] + code] == node`; `base` is 0 for a leaf.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import math
import os
import string
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pangu.errors import UserError

JIEBA_VERSION = "0.42.1"
LAYOUT = 1  # to be raised when the arrays change their meaning, so that older cache files are left alone

OUTSIDE = 0
FIRST_DIGIT = 1
FIRST_LETTER = FIRST_DIGIT + 10
PAST_LETTERS = FIRST_LETTER + 52
DOT = PAST_LETTERS
PERCENT = DOT + 1
FIRST_HAN = PERCENT + 6
ASCII_IN_BLOCK = string.digits + string.ascii_letters + ".%+#&_-"
FIRST_HAN_CHARACTER, LAST_HAN_CHARACTER = "\u4e00", "\u9fd5"

STATES = "BMES"
IMPOSSIBLE = -3.14e100  # jieba's MIN_FLOAT: the log-probability of what its tables do not hold


class Tables(NamedTuple):
    """What the kernels read. `n` codes, `m` slots of the trie."""

    code_of: np.ndarray  # uint16[65536], by code point
    base: np.ndarray  # int32[m]
    check: np.ndarray  # int32[m]
    # float64[m], log(frequency) - log(total); -inf where the prefix is no word.
    # weight[OUTSIDE] is that of a character which begins no word: log(1) - log(total)
    weight: np.ndarray
    start: np.ndarray  # float64[4], by state
    transition: np.ndarray  # float64[4, 4], from, to
    emission: np.ndarray  # float64[n, 4]


@cache
def load_tables() -> Tables:
    """The tables, from the cache if it holds them whole, else built from the installed jieba."""
    specification = importlib.util.find_spec("jieba")
    if specification is None or specification.origin is None:
        raise UserError(f"the segmenter needs jieba's dictionary: pip install jieba=={JIEBA_VERSION}")
    folder = Path(specification.origin).parent
    digest = hashlib.sha256()
    for name in ("dict.txt", "finalseg/prob_start.py", "finalseg/prob_trans.py", "finalseg/prob_emit.py"):
        digest.update((folder / name).read_bytes())
    path = cache_directory() / f"jieba-{JIEBA_VERSION}-{digest.hexdigest()[:16]}-{LAYOUT}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as arrays:
        return Tables(**{name: arrays[name] for name in Tables._fields})
    tables = build_tables(folder / "dict.txt")
    with contextlib.suppress(OSError):
        _write(path, tables)
    return tables


def cache_directory() -> Path:
    """Where compiled tables are kept: `$XDG_CACHE_HOME/pangu-alpha`, else `~/.cache/pangu-alpha`."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "pangu-alpha"


def _write(path: Path, tables: Tables) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            np.savez(file, **tables._asdict())
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def build_tables(dictionary: Path) -> Tables:
    """Compile jieba's `dict.txt` and its hidden Markov model."""
    installed = importlib.metadata.version("jieba")
    if installed != JIEBA_VERSION:
        raise UserError(
            f"jieba {installed} is installed; the segmentation is that of {JIEBA_VERSION}: install that one"
        )
    from jieba.finalseg import emit_P, start_P, trans_P

    frequency, total = read_dictionary(dictionary)
    han = {
        character
        for text in (*frequency, *emit_P.values())
        for character in text
        if FIRST_HAN_CHARACTER <= character <= LAST_HAN_CHARACTER
    }
    code_of_character = {character: FIRST_DIGIT + i for i, character in enumerate(ASCII_IN_BLOCK)}
    code_of_character |= {character: FIRST_HAN + 1 + i for i, character in enumerate(sorted(han))}
    code_of = np.full(65536, OUTSIDE, np.uint16)
    code_of[ord(FIRST_HAN_CHARACTER) : ord(LAST_HAN_CHARACTER) + 1] = FIRST_HAN
    for character, code in code_of_character.items():
        code_of[ord(character)] = code
    codes = FIRST_HAN + 1 + len(han)

    log_total = math.log(total)
    prefixes = sorted((word for word in frequency if all(c in code_of_character for c in word)), key=len)
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    base, check, slots = build_double_array(
        parents=np.array([number.get(prefix[:-1], -1) for prefix in prefixes], np.int32),
        labels=np.array([code_of_character[prefix[-1]] for prefix in prefixes], np.int32),
        codes=codes,
    )
    weight = np.full(len(base), -np.inf)
    weight[OUTSIDE] = math.log(1) - log_total
    weight[slots] = [math.log(frequency[p]) - log_total if frequency[p] else -np.inf for p in prefixes]

    emission = np.full((codes, len(STATES)), IMPOSSIBLE)
    for column, state in enumerate(STATES):
        for character, probability in emit_P[state].items():
            if character in han:
                emission[code_of_character[character], column] = probability
    return Tables(
        code_of=code_of,
        base=base,
        check=check,
        weight=weight,
        start=np.array([start_P[state] for state in STATES]),
        transition=np.array([[trans_P[a].get(b, IMPOSSIBLE) for b in STATES] for a in STATES]),
        emission=emission,
    )


def read_dictionary(path: Path) -> tuple[dict[str, int], int]:
    """Every word of a jieba dictionary with its frequency, every proper prefix of a word with 0; and the sum."""
    frequency: dict[str, int] = {}
    total = 0
    for line in path.read_bytes().splitlines():
        word, count = line.decode().split(" ")[:2]
        frequency[word] = int(count)
        total += int(count)
        for length in range(1, len(word)):
            frequency.setdefault(word[:length], 0)
    return frequency, total


def build_double_array(
    parents: np.ndarray, labels: np.ndarray, codes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay a trie out as a double array.

    `parents` int32[k]: the number of each node's parent, -1 for the children of the root, which come first;
    `labels` int32[k]: the code on the edge to it. Returns base, check (int32[m]) and the slot of each node (int32[k]).
    """
    from pangu.segmentation.kernels import place_families

    inner = parents >= 0
    children = np.flatnonzero(inner)[np.lexsort((labels[inner], parents[inner]))]
    family_parents, first, sizes = np.unique(parents[children], return_index=True, return_counts=True)
    largest_first = np.argsort(-sizes, kind="stable")
    bases = place_families(labels[children], first[largest_first], sizes[largest_first], codes)

    base_of_node = np.zeros(len(parents), np.int32)
    base_of_node[family_parents[largest_first]] = bases
    slots = labels.copy()
    slots[children] += base_of_node[parents[children]]
    # a code may be added to any base without looking at the bounds
    base = np.zeros(int(max(slots.max(), bases.max())) + codes + 1, np.int32)
    check = np.full(len(base), -1, np.int32)
    base[slots] = base_of_node
    check[slots[children]] = slots[parents[children]]
    return base, check, slots
