"""Score answers: the metrics of the paper's tasks, each with the program that it equals.

* `exact_match`, `f1`: the official script of CMRC2018 (cmrc2018_evaluate.py): the longest run of characters that both
  have, Chinese by character and the rest by word, punctuation left out; the best over the answers.
* `rouge_1`, `rouge_l`: F of the package `rouge` 1.0.1 over characters, which counts each character once.
* choices: lm-evaluation-harness's acc, acc_norm, acc_bytes and acc_mutual_info, and the paper's rule `ppl`: the lowest
  mean -log p for each token of the scored part. Ties go to the first candidate.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

# What the official script takes out. Its `……` is two characters, which no single one equals: `…` stays.
_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_HAN = re.compile("[\u4e00-\u9fa5]")


def _apart(found: "re.Match[str]") -> str:
    """Return the two parts of a match as two words."""
    return " ".join(["", *(part for part in found.groups() if part), ""])


# English words as the Treebank tokenizer cuts them, which the official script calls (NLTK's `word_tokenize`) for what
# is not Chinese. That first cuts a text into sentences, by a trained model; here a text is one, so that a full stop in
# the middle stays with its word. In order: opening quotes, marks, closing quotes, words that are two.
_TREEBANK = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[«“‘„]|`+", r" \g<0> "),
        (r"^\"", "``"),
        (r"``", " `` "),
        (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
        (r"'(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"' \1"),
        (r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 "),
        (r"([:,])(?=\D|$)", r" \1 "),
        (r"\.{2,}", r" \g<0> "),
        (r"[;@#$%&?!]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[\[\](){}<>]", r" \g<0> "),
        (r"[»”’]", r" \g<0> "),
        (r"''", " '' "),
        (r"\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('[smd]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
        (r"\b(can)(not)\b|\b(gim)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(lem)(me)\b|\b(wan)(na)(?=\s)", _apart),
        (r"\b(d)('ye)\b|\b(more)('n)\b| ('t)(is|was)\b", _apart),
    )
)


CLOSING = 11  # the first rule that wants white space at both ends


def without_punctuation(text: str) -> str:
    """Return the text in lower case, without the marks of the official script."""
    return "".join(character for character in text.lower().strip() if character not in _MARKS)


def words(text: str) -> list[str]:
    """Cut text that is not Chinese, in lower case, into words and marks."""
    for number, (pattern, replacement) in enumerate(_TREEBANK):
        if number == CLOSING:
            text = f" {text} "
        text = pattern.sub(replacement, text)
    return text.split()


def mixed_segments(text: str) -> list[str]:
    """Return Chinese characters one by one and other words whole, as `mixed_segmentation(rm_punc=True)` does."""
    segments: list[str] = []
    other = ""
    for character in without_punctuation(text):
        if _HAN.match(character):
            segments += words(other)
            other = ""
            segments.append(character)
        else:
            other += character
    return segments + words(other)


def longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest contiguous run that both have."""
    best, before = 0, [0] * (len(second) + 1)
    for one in first:
        row = [0] * (len(second) + 1)
        for index, other in enumerate(second):
            if one == other:
                row[index + 1] = before[index] + 1
                best = max(best, row[index + 1])
        before = row
    return best


def f1(answers: Sequence[str], prediction: str) -> float:
    """Return the best F1 of a prediction over the answers; 0 where nothing is left of it or of them."""
    best = 0.0
    predicted = mixed_segments(prediction)
    for answer in answers:
        wanted = mixed_segments(answer)
        run = longest_common_run(wanted, predicted)
        if run:
            precision, recall = run / len(predicted), run / len(wanted)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def exact_match(answers: Sequence[str], prediction: str) -> float:
    """Return 1 where the prediction equals an answer but for case and punctuation, else 0."""
    return float(any(without_punctuation(answer) == without_punctuation(prediction) for answer in answers))


def equal(answers: Sequence[str], prediction: str) -> float:
    """Return 1 where the prediction, without white space and punctuation, begins with an answer of that length."""
    found = without_punctuation("".join(prediction.split()))
    wanted = [without_punctuation("".join(answer.split())) for answer in answers]
    return float(any(answer and found[: len(answer)] == answer for answer in wanted))


def rouge_1(answers: Sequence[str], prediction: str) -> float:
    """Return the best F of single characters, each counted once."""
    found = set("".join(prediction.split()))
    return max(
        (_f(len(found & set("".join(one.split()))), found, set("".join(one.split()))) for one in answers), default=0.0
    )


def rouge_l(answers: Sequence[str], prediction: str) -> float:
    """Return the best F of the characters of a longest common subsequence, each counted once."""
    found = "".join(prediction.split())
    wanted = ["".join(answer.split()) for answer in answers]
    return max((_f(len(common_subsequence(one, found)), set(found), set(one)) for one in wanted), default=0.0)


def common_subsequence(first: str, second: str) -> set[str]:
    """Return the characters of the longest common subsequence that the package `rouge` finds."""
    table = np.zeros((len(first) + 1, len(second) + 1), np.int32)
    for i, one in enumerate(first, 1):
        for j, other in enumerate(second, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if one == other else max(table[i - 1, j], table[i, j - 1])
    found, i, j = set(), len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.add(first[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1, j] > table[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def _f(same: int, found: set[str], wanted: set[str]) -> float:
    return 2 * same / (len(found) + len(wanted)) if same else 0.0


GENERATED = {"exact_match": exact_match, "f1": f1, "equal": equal, "rouge_1": rouge_1, "rouge_l": rouge_l}


# Of a choice: rules by which a candidate is chosen, sentences assigned to blanks (CMRC2019), and the gold text's own.
CHOSEN = ("ppl", "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "qac", "perplexity")


def choose(
    totals: Sequence[float],
    tokens: Sequence[int],
    texts: Sequence[str],
    unconditional: Sequence[float] | None = None,
) -> dict[str, int]:
    """Return the candidate that each rule chooses. totals: Σ log p of the scored parts; texts: those parts."""
    logs = np.asarray(totals)
    rules = {
        "ppl": logs / np.asarray(tokens),
        "acc": logs,
        "acc_norm": logs / np.asarray([max(1, len(text)) for text in texts]),
        "acc_bytes": logs / np.asarray([max(1, len(text.encode())) for text in texts]),
    }
    if unconditional is not None:
        rules["acc_mutual_info"] = logs - np.asarray(unconditional)
    return {rule: int(np.argmax(values)) for rule, values in rules.items()}


def assign(scores: np.ndarray) -> list[int]:
    """Return a candidate for each blank, each used once, with the largest sum. scores: [blanks, candidates]."""
    from scipy.optimize import linear_sum_assignment

    blanks, candidates = linear_sum_assignment(-scores)
    chosen = [-1] * len(scores)
    for blank, candidate in zip(blanks, candidates, strict=True):
        chosen[int(blank)] = int(candidate)
    return chosen


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean, √(variance / N) with N - 1; 0 for fewer than two values."""
    count = len(values)
    if count < 2:
        return 0.0
    mean = sum(values) / count
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
