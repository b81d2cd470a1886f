"""A tokenizer that transformers loads by itself: `tokenizer.json` as the `tokenizers` library defines it.

A lossless Unigram tokenizer becomes one without code of ours. Its pieces are written as the text that they stand for,
a space and a line break, so that nothing has to be replaced before: a ▁ or ▃ of a text is then in no piece and is spelt
in bytes, as here. What the pieces alone do not say is said before they are looked for: a line break is a token of its
own, and `<0x41>` in a text is not the byte. Two things differ from here: `<eot>` in a text is the control id, as it is
usual there; and of two cuts with the same probability (a run of dashes of odd length) another may be taken. The other
kind cuts words by jieba, which no part of `tokenizers` does: it has a class of its own (`tokenization_pangu_alpha`).
"""

import json
import re

from pangu.tokenizer import Tokenizer
from pangu.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    NEWLINE_PIECE,
    NORMAL,
    SPACE_MARK,
    USER_DEFINED,
    Vocabulary,
    load_vocabulary,
)

# What no text means: the name of a piece that is never to be found in one.
NOT_IN_TEXT = "\0"


def files_of(tokenizer: Tokenizer) -> dict[str, str] | None:
    """Return {file: content} for the top of the directory; None for a tokenizer that `tokenizers` cannot be."""
    vocabulary = load_vocabulary(tokenizer.model, "the tokenizer")
    is_known = set(vocabulary.types[1:].tolist()) <= {NORMAL, CONTROL, USER_DEFINED, BYTE}
    if tokenizer.segmenter != "none" or not vocabulary.unigram[0] or not is_known:
        return None
    pieces = [piece.decode() for piece in vocabulary.pieces()]
    document = document_of(vocabulary, pieces, sorted({pieces.index(piece) for piece in parts_of(tokenizer).values()}))
    return {"tokenizer.json": json.dumps(document, ensure_ascii=False) + "\n", **settings_of(tokenizer)}


def settings_of(tokenizer: Tokenizer, module: str | None = None) -> dict[str, str]:
    """Return {"tokenizer_config.json": its content}. module: the file that holds the class; None: a fast one."""
    settings: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if module is not None:
        name = "PanguAlphaTokenizer"
        settings |= {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [f"{module}.{name}", None]}}
    settings |= {f"{name}_token": piece for name, piece in parts_of(tokenizer).items()}
    return {"tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2) + "\n"}


def parts_of(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the pieces that play a part, by transformers' names of the parts."""
    ids = tokenizer.special
    end = tokenizer.piece(ids.end_of_document)
    parts = {"unk": tokenizer.piece(0), "bos": end, "eos": end, "pad": tokenizer.piece(ids.pad)}
    return parts | {"mask": tokenizer.piece(ids.mask), "sep": tokenizer.piece(ids.separator)}


def document_of(vocabulary: Vocabulary, pieces: list[str], special: list[int]) -> dict[str, object]:
    """Return `tokenizer.json`. special: the ids of the control pieces that play a part."""
    types = vocabulary.types.tolist()
    alone = [in_text(piece) for piece, kind in zip(pieces, types) if kind == USER_DEFINED]
    words = [re.escape(piece) for piece in sorted(alone, key=len, reverse=True)]
    no_byte = "<(?=0x[0-9A-F]{2}>)"
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    entries = entries_of(pieces, types, vocabulary.scores.tolist(), special)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": place, "content": pieces[place], **flags} for place in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "|".join([*words, no_byte])},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": entries, "byte_fallback": True},
    }


def entries_of(pieces: list[str], types: list[int], scores: list[float], special: list[int]) -> list[tuple[str, float]]:
    """Return (text, score) of each piece.

    A piece that is not normal has no score of its own. It must not become the lowest: by that one, unknown characters
    are rated, and SentencePiece looks for it among the normal pieces.
    """
    lowest = min(score for score, kind in zip(scores, types) if kind == NORMAL)
    entries = []
    for place, (piece, kind, score) in enumerate(zip(pieces, types, scores)):
        is_hidden = kind == CONTROL and place not in special
        text = NOT_IN_TEXT + piece if is_hidden else in_text(piece)
        entries.append((text, score if kind == NORMAL else max(score, lowest)))
    return entries


def in_text(piece: str) -> str:
    """Return what a piece stands for in a text."""
    return piece.replace(SPACE_MARK, " ").replace(NEWLINE_PIECE, "\n")
