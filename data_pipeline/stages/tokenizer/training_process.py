"""Train a tokenizer on a sample of texts.

Two styles (see `pangu.tokenizer`): `lossless`, plain SentencePiece with byte fallback and no normalisation, and
`released`, jieba and NFKC as the published PanGu-α model has them. Both have the ten special pieces of the released
layout at ids 0-9. The same texts, settings and seed give the same bytes.
"""

import contextlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pangu.foundation.errors import UserError
from pangu.tokenizer import NEWLINE_PIECE, RELEASED_LAYOUT, SPACE_MARK, Tokenizer, joined_tokens

# Lines are cut to this length, so that one endless line is no different from many short ones.
LINE_CHARACTERS = 256
# Lines are also cut at what can be in no piece: SentencePiece keeps NUL, tab, ▁ and ▅ for itself, ▂ and ▃ belong to the
# layout, and a lone surrogate is no text.
NEVER_IN_A_PIECE = re.compile("[\0\t\n▁▂▃▅\ud800-\udfff]+")
# Characters that get a piece of their own: this share of the sample (SentencePiece's advice for Chinese), as far as
# they fit in this part of the room that the special pieces leave.
CHARACTER_COVERAGE = 0.9995
CHARACTER_ROOM = 0.6
BYTE_PIECES = 256


def train_tokenizer(
    texts: Iterable[str],
    out: Path,
    *,
    vocab_size: int,
    model_type: Literal["unigram", "bpe"] = "unigram",
    style: Literal["lossless", "released"] = "lossless",
    seed: int = 0,
    sample_lines: int = 300_000,
    threads: int = 4,
) -> Tokenizer:
    """Train on at most `sample_lines` lines, drawn evenly from `texts`, and write the tokenizer directory `out`.

    A corpus too small for `vocab_size` gives a smaller vocabulary: ask the returned tokenizer for its size. `threads`
    belongs to the settings, not to the machine: the sums of unigram training are taken per thread, so another number
    gives slightly other scores. Memory grows with `sample_lines` alone: about 1 GB at the default.
    """
    layout = len(RELEASED_LAYOUT) + (BYTE_PIECES if style == "lossless" else 0)
    least = layout + 32
    if vocab_size < least:
        raise UserError(f"vocab_size {vocab_size}: {layout} pieces are fixed; {least} or more would be right")
    lines = sample_evenly(_cut_lines(texts), sample_lines, random.Random(seed))
    if not lines:
        raise UserError("no tokenizer can be trained: the texts hold nothing but white space")
    kept = _frequent_characters(lines, at_most=int((vocab_size - layout) * CHARACTER_ROOM))
    try:
        model = _train(_split_at_other_characters(lines, kept), vocab_size, model_type, style, threads)
    except RuntimeError as error:
        raise UserError(f"no tokenizer of {vocab_size} pieces from {len(lines)} lines of text: {error}") from None
    tokenizer = Tokenizer(model)
    tokenizer.save(out)
    return tokenizer


def sample_evenly(lines: Iterable[str], size: int, generator: random.Random) -> list[str]:
    """Return at most `size` of the lines, each with the same chance (Vitter's algorithm R), in the order of their
    places."""
    sample: list[str] = []
    for seen, line in enumerate(lines):
        if seen < size:
            sample.append(line)
        else:
            place = int(generator.random() * (seen + 1))
            if place < size:
                sample[place] = line
    return sample


def _cut_lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the texts, none longer than LINE_CHARACTERS, none blank."""
    for text in texts:
        for line in NEVER_IN_A_PIECE.split(text):
            if not line.isspace():
                for begin in range(0, len(line), LINE_CHARACTERS):
                    yield line[begin : begin + LINE_CHARACTERS]


def _frequent_characters(lines: list[str], at_most: int) -> set[str]:
    """Return the most frequent characters that make up CHARACTER_COVERAGE of the lines, but no more than `at_most`."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    wanted = CHARACTER_COVERAGE * counts.total()
    kept: set[str] = set()
    covered = 0
    # equally frequent characters in code point order, so that the order of the texts plays no part
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:at_most]:
        if covered >= wanted:
            break
        kept.add(character)
        covered += count
    return kept


def _split_at_other_characters(lines: list[str], kept: set[str]) -> Iterator[str]:
    """Yield the parts of the lines that consist of `kept`. No piece can reach over another character anyway."""
    other = re.compile(f"[^{re.escape(''.join(sorted(kept)))}]+")
    for line in lines:
        yield from filter(None, other.split(line))


# Reads settings (JSON) and sentences, a line each; writes the model, or what is wrong and exits with 1.
_TRAINER = """
import io, json, sys
import sentencepiece
settings = json.loads(sys.stdin.buffer.readline())
model = io.BytesIO()
sentences = (line[:-1].decode() for line in sys.stdin.buffer)
try:
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=model, **settings)
except RuntimeError as error:
    sys.exit(str(error))
sys.stdout.buffer.write(model.getvalue())
"""


def _train(sentences: Iterator[str], vocab_size: int, model_type: str, style: str, threads: int) -> bytes:
    """Return the content of a `.model` file. Raises RuntimeError with SentencePiece's words.

    It is trained in a process of its own: once SentencePiece has trained with threads in a process, training hangs or
    crashes in whatever is forked from that.
    """
    settings: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": vocab_size,
        "hard_vocab_limit": False,
        "user_defined_symbols": list(RELEASED_LAYOUT[3:]),
        "character_coverage": 1.0,
        "num_threads": threads,
        "minloglevel": 2,  # errors only, on standard error
    }
    if style == "lossless":
        settings |= {
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
            # without a piece of its own a space would be spelt in the bytes of ▁
            "required_chars": SPACE_MARK,
        }
    else:
        sentences = map(joined_tokens, sentences)
        settings["normalization_rule_name"] = "nmt_nfkc"
    command = [sys.executable, "-c", _TRAINER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as trainer:
        assert trainer.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its exit says why
            trainer.stdin.write(json.dumps(settings).encode() + b"\n")
            trainer.stdin.writelines(line.encode() + b"\n" for line in sentences)
        model, errors = trainer.communicate()
    if trainer.returncode:
        raise RuntimeError(errors.decode("utf-8", "replace").strip() or f"it ended with {trainer.returncode}")
    return _make_control(model) if style == "lossless" else model


def _make_control(model: bytes) -> bytes:
    """Turn the special pieces into control pieces, which no text can spell; only ▃ goes on to stand for a newline."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    proto = ModelProto.FromString(model)
    for piece in proto.pieces[: len(RELEASED_LAYOUT)]:
        if piece.type == ModelProto.SentencePiece.USER_DEFINED and piece.piece != NEWLINE_PIECE:
            piece.type = ModelProto.SentencePiece.CONTROL
    return proto.SerializeToString(deterministic=True)
