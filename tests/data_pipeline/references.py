"""Plain references of the compiled kernels: the same functions of one text, written for reading."""

import math
import re
from collections import Counter

import numpy as np

from data_pipeline.kernels import minhash, paragraphs, text_signals
from data_pipeline.quality import classifier, reading

WORD = 2**64 - 1


def gram_set(normal: str, gram: int) -> set[str]:
    """Return the n-grams of one normal form; a text shorter than `gram` is one n-gram."""
    width = min(gram, len(normal))
    return {normal[i : i + width] for i in range(len(normal) - width + 1)} if width else set()


def signature_reference(normal: str, size: int, gram: int, seed: int) -> list[int]:
    """Return the signature of one normal form: Algorithm 1 of the paper."""
    grams = gram_set(normal, gram)
    if not grams:
        return [0] * size
    slots: list[tuple[int, int] | None] = [None] * size
    turn = 0
    while None in slots:
        salt = mixed((seed + turn * int(minhash._ROUND)) & WORD)
        for text in grams:
            word = 0
            for character in text:
                word = (word * int(minhash._BASE) + ord(character)) & WORD
            word = mixed((word * int(minhash._BASE) + salt) & WORD)
            slot = (word >> 32) * size >> 32 if turn < size else turn - size
            candidate = (turn, word & 0xFFFFFFFF)
            held = slots[slot]
            slots[slot] = candidate if held is None else min(held, candidate)
        turn += 1
    return [slot[1] for slot in slots if slot is not None]


def mixed(value: int) -> int:
    """Return the bijection of 64-bit words that is `minhash.mix`."""
    value ^= value >> 30
    value = value * int(minhash._MIX_1) & WORD
    value ^= value >> 27
    value = value * int(minhash._MIX_2) & WORD
    return value ^ (value >> 31)


def text_signals_reference(text: str) -> dict[str, float]:
    """Return the signals of one text, plainly."""
    solid = [c for c in text if not c.isspace()]
    size = len(solid)

    def within(blocks: tuple[tuple[int, int], ...], character: str) -> bool:
        return any(first <= ord(character) < end for first, end in blocks)

    def share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    han = [c for c in solid if within(text_signals._HAN_BLOCKS, c)]
    terms = re.findall(r"[^\W_]+", text)
    runs = sum(len(match[0]) for match in re.finditer(r"烫{3,}|屯{3,}", text))
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    line_characters = sum(map(len, lines))
    repeated_lines = [line for place, line in enumerate(lines) if line in lines[:place]]
    latin = "".join(rf"{chr(first)}-{chr(end - 1)}" for first, end in text_signals._LATIN_BLOCKS)
    units = re.findall(rf"[{latin}\d]+|[^\W_]", text)
    grams = {n: Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1)) for n in (4, 6, 8, 10, 13)}
    top = {n: max(grams[n].values(), default=0) for n in (4, 6, 8)}
    often = {n: sorted((count for count in grams[n].values() if count > 1), reverse=True) for n in (10, 13)}
    return {
        "characters": size,
        "han_share": share(len(han), size),
        "kana_share": share(sum(within(text_signals._KANA_BLOCKS, c) for c in solid), size),
        "hangul_share": share(sum(within(text_signals._HANGUL_BLOCKS, c) for c in solid), size),
        "latin_share": share(sum(within(text_signals._LATIN_BLOCKS, c) for c in solid), size),
        "digit_share": share(sum(c.isdecimal() for c in solid), size),
        "alphanumeric_share": share(sum(c.isalnum() for c in solid), size),
        "special_share": share(sum(not c.isalnum() and c not in text_signals.CHINESE_PUNCTUATION for c in solid), size),
        "invisible_share": share(sum(c in text_signals.INVISIBLE for c in solid), size),
        "mojibake_share": share(
            sum(c in text_signals.MOJIBAKE or within(text_signals._BROKEN_BLOCKS, c) for c in solid) + runs, size
        ),
        "function_word_share": share(sum(c in text_signals.FUNCTION_WORDS for c in solid), len(han)),
        "stop_word_kinds": sum(c in text for c in text_signals.STOP_WORDS),
        "short_term_share": share(
            sum(2 <= len(term) <= 4 and all(within(text_signals._HAN_BLOCKS, c) for c in term) for term in terms),
            len(terms),
        ),
        "lines": len(lines),
        "mean_line_length": share(line_characters, len(lines)),
        "punctuated_line_share": share(sum(line[-1] in text_signals.SENTENCE_ENDS for line in lines), len(lines)),
        "short_line_share": share(sum(len(line) <= text_signals._SHORT_LINE for line in lines), len(lines)),
        "bullet_line_share": share(sum(line[0] in text_signals.BULLETS for line in lines), len(lines)),
        "ellipsis_line_share": share(sum(line.endswith(("…", "...")) for line in lines), len(lines)),
        "duplicate_line_share": share(len(repeated_lines), len(lines)),
        "duplicate_line_character_share": share(sum(map(len, repeated_lines)), line_characters),
        **{
            f"top_{n}_gram_share": share(min(top[n] * n, len(units)) if top[n] > 1 else 0, len(units))
            for n in (4, 6, 8)
        },
        "duplicate_10_gram_share": share(grams[10].total() - len(grams[10]), grams[10].total()),
        "repetition_10": share(sum(often[10][: math.isqrt(len(grams[10]))]), grams[10].total()),
        "repeated_13_gram_share": share(sum(often[13]), grams[13].total()),
    }


def paragraph_hash_reference(normal: str) -> int:
    """Return the hash of a paragraph's normal form, plainly."""
    word = 0
    for character in normal:
        word = mixed((word * int(paragraphs._BASE) + ord(character)) & WORD)
    return word


def read_reference(text: str, most_characters: int | None = None) -> str:
    """Return the reading of one text, plainly."""
    characters = [
        reading._reading(character) if ord(character) < reading.TABLE_SIZE else reading.SPACE for character in text
    ]
    lines = "".join(map(chr, characters)).split("\n")
    whole = "\n".join(joined for line in lines if (joined := " ".join(line.split(" ")).strip(" ")))
    while "  " in whole:
        whole = whole.replace("  ", " ")
    return whole if most_characters is None else whole[:most_characters].rstrip(" \n")


def log_odds_reference(model: classifier.Classifier, text: str) -> float:
    """Return the calibrated log-odds of one text, plainly."""
    codes = [ord(character) for character in read_reference(text, model.settings.characters)]
    codes = [reading.NEWLINE, *codes, reading.NEWLINE] if codes else []
    grams = []
    for end in range(len(codes)):
        for n in range(1, min(model.settings.gram, end + 1) + 1):
            grams.append(codes[end - n + 1 : end + 1][::-1])
    total = 0.0
    for gram in grams:
        word = 0
        for code in gram:
            word = (word + code + 1) * int(classifier._BASE) & WORD
        total += float(model.weights[int(minhash.mix(np.uint64(word))) >> (64 - model.settings.bits)])
    z = model.bias + (total / math.sqrt(len(grams)) if grams else 0.0)
    return model.slope * z + model.intercept
