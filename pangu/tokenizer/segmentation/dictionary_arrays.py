"""jieba's dictionary and hidden Markov model as the arrays that the kernels read."""

import hashlib
import importlib.util
import math
import string
from functools import cache
from pathlib import Path

import numpy as np

from pangu.foundation.errors import UserError
from pangu.tokenizer.array_cache import cached, pack
from pangu.tokenizer.double_array import build_double_array
from pangu.tokenizer.segmentation.kernels import FIRST_DIGIT, FIRST_HAN, OUTSIDE

JIEBA_VERSION = "0.42.1"
LAYOUT = 4  # to be raised when the arrays change their meaning, so that older cache files are left alone

ASCII_IN_BLOCK = string.digits + string.ascii_letters + ".%+#&_-"
FIRST_HAN_CHARACTER, LAST_HAN_CHARACTER = "\u4e00", "\u9fd5"

NODE = np.dtype([("base", np.int32), ("check", np.int32), ("weight", np.float64)])
STATES = "BMES"
IMPOSSIBLE = -3.14e100  # jieba's MIN_FLOAT: the log-probability of what its tables do not hold


@cache
def load_tables() -> np.ndarray:
    """Return the tables, packed, from the cache if it holds them whole, else built from the installed jieba."""
    specification = importlib.util.find_spec("jieba")
    if specification is None or specification.origin is None:
        raise UserError(f"the segmenter needs jieba's dictionary: pip install jieba=={JIEBA_VERSION}")
    folder = Path(specification.origin).parent
    digest = hashlib.sha256()
    for name in ("dict.txt", "finalseg/prob_start.py", "finalseg/prob_trans.py", "finalseg/prob_emit.py"):
        digest.update((folder / name).read_bytes())
    name = f"jieba-{JIEBA_VERSION}-{LAYOUT}-{digest.hexdigest()[:16]}"
    return cached(name, lambda: build_tables(folder / "dict.txt"))


def build_tables(dictionary: Path) -> np.ndarray:
    """Return the fields of `kernels.Tables`, packed: compile jieba's `dict.txt` and its hidden Markov model."""
    import importlib.metadata  # slow, and needed once

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

    # a word with a character that is in no block (γ射线) is never met
    words = [word for word in frequency if code_of_character.keys() >= set(word)]
    base, check, nodes = build_double_array(words, code_of_character)
    trie = np.zeros(len(base), NODE)
    trie["base"], trie["check"], trie["weight"] = base, check, -np.inf
    trie["weight"][OUTSIDE] = math.log(1) - math.log(total)
    trie["weight"][nodes] = [math.log(frequency[word]) - math.log(total) for word in words]

    emission = np.full((FIRST_HAN + 1 + len(han), len(STATES)), IMPOSSIBLE)
    for column, state in enumerate(STATES):
        for character, probability in emit_P[state].items():
            if character in han:
                emission[code_of_character[character], column] = probability
    start = np.array([start_P[state] for state in STATES])
    transition = np.array([[trans_P[a].get(b, IMPOSSIBLE) for b in STATES] for a in STATES])
    return pack([code_of, trie, start, transition, emission])


def read_dictionary(path: Path) -> tuple[dict[str, int], int]:
    """Return the words of a jieba dictionary with their frequencies (those of frequency 0 left out), and the sum of
    all."""
    frequency: dict[str, int] = {}
    total = 0
    for line in path.read_bytes().splitlines():
        word, count = line.decode().split(" ")[:2]
        frequency[word] = int(count)
        total += int(count)
    return {word: count for word, count in frequency.items() if count}, total
