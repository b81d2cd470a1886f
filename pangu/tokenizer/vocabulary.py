"""What a SentencePiece `.model` file says, as arrays."""

import hashlib
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pangu.foundation.errors import UserError
from pangu.foundation.small_file import read_small
from pangu.tokenizer.array_cache import cached, pack, unpack
from pangu.tokenizer.double_array import build_double_array
from pangu.tokenizer.unigram import SPACE, UNKNOWN

LAYOUT = 4  # to be raised when the arrays change their meaning, so that older cache files are left alone

# The pieces 0-9 of the released model, and of every model trained here.
RELEASED_LAYOUT = ("<unk>", "<s>", "</s>", "▃", "▂", "<sep>", "<pad>", "<mask>", "<eod>", "<eot>")
# SentencePiece's own mark of a space, and the two pieces of the layout that stand for white space.
SPACE_MARK, SPACE_PIECE, NEWLINE_PIECE = "▁", "▂", "▃"

NODE = np.dtype([("base", np.int32), ("check", np.int32), ("piece", np.int32), ("score", np.float32)])
RULES_STOP = 0x30000  # no rule of normalisation has a character from here on
UNKNOWN_PENALTY = np.float32(10)  # below the lowest score of a piece: SentencePiece's kUnkPenalty

# ModelProto.SentencePiece.Type
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6

# A copy of the released model is about that lost one byte of a path in the trainer's notes and so cannot be parsed.
RELEASED_SHA256 = "18857e86783e50cfcaa0bc3c043fb4e9b5f240b885d2870ea593ee69b44f7a3a"
LOST_BYTE = (b"/home/yandstmp/vocab10", b"/home/yands/tmp/vocab10")


class Vocabulary(NamedTuple):
    """The pieces of a model in the released layout."""

    text: np.ndarray  # uint8, the pieces in UTF-8, one after the other
    stops: np.ndarray  # int64[pieces], where each stops
    types: np.ndarray  # uint8[pieces]
    scores: np.ndarray  # float32[pieces]
    lossless: np.ndarray  # bool[1]: byte fallback and no normalisation; else NFKC, to be fed with words
    unigram: np.ndarray  # bool[1]: else BPE
    charsmap: np.ndarray  # uint8, SentencePiece's precompiled normalisation

    def pieces(self) -> list[bytes]:
        """Return the pieces in UTF-8."""
        text, stops = self.text.tobytes(), self.stops.tolist()
        return [text[begin:stop] for begin, stop in zip([0, *stops[:-1]], stops, strict=True)]


def read_model(path: Path) -> bytes:
    """Return the content of a `.model` file; the one known damage of the released file is repaired."""
    try:
        model = read_small(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a SentencePiece .model file is needed") from None
    repaired = model.replace(*LOST_BYTE)
    return repaired if hashlib.sha256(repaired).hexdigest() == RELEASED_SHA256 else model


def load_vocabulary(model: bytes, source: str) -> Vocabulary:
    """Return the vocabulary in the content of a `.model` file; `source` names it in errors."""
    name = f"pieces-{LAYOUT}-{hashlib.sha256(model).hexdigest()[:16]}"
    packed = cached(name, lambda: pack(_parse(model, source)))
    return Vocabulary(*unpack(packed, np.uint8, np.int64, np.uint8, np.float32, np.bool_, np.bool_, np.uint8))


def _parse(model: bytes, source: str) -> Vocabulary:
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    try:
        proto = ModelProto.FromString(model)
    except DecodeError:
        raise UserError(f"{source}: not a SentencePiece model, or a damaged one") from None
    pieces = [piece.piece for piece in proto.pieces]
    if tuple(pieces[: len(RELEASED_LAYOUT)]) != RELEASED_LAYOUT:
        raise UserError(f"{source}: pieces 0-9 are not {' '.join(RELEASED_LAYOUT)}; no other layout is known here")
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    lossless = trainer.byte_fallback and not (
        normalizer.precompiled_charsmap or normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces
    )
    released = not trainer.byte_fallback and (
        normalizer.name == "nmt_nfkc" and normalizer.add_dummy_prefix and normalizer.remove_extra_whitespaces
    )
    known_type = trainer.model_type in (trainer.UNIGRAM, trainer.BPE)
    if not (lossless or released) or not known_type or not normalizer.escape_whitespaces:
        raise UserError(
            f"{source}: a Unigram or BPE model is needed, either with nmt_nfkc normalisation and no byte fallback (as "
            "released) or with byte fallback and no normalisation"
        )
    # of white space, what text is turned into must be found in it
    white_space = {NEWLINE_PIECE} if lossless else {NEWLINE_PIECE, SPACE_PIECE}
    found = {piece.piece for piece in proto.pieces if piece.type == USER_DEFINED}
    bytes_needed = {f"<0x{byte:02X}>" for byte in range(256)} if lossless else set()
    if missing := (white_space - found) | ({SPACE_MARK} | bytes_needed) - set(pieces):
        raise UserError(f"{source}: lacks the piece {min(missing)}, or has it as one of another kind")
    encoded = [piece.encode() for piece in pieces]
    return Vocabulary(
        text=np.frombuffer(b"".join(encoded), np.uint8),
        stops=np.cumsum([len(piece) for piece in encoded]),
        types=np.array([piece.type for piece in proto.pieces], np.uint8),
        scores=np.array([piece.score for piece in proto.pieces], np.float32),
        lossless=np.array([lossless]),
        unigram=np.array([trainer.model_type == trainer.UNIGRAM]),
        charsmap=np.frombuffer(normalizer.precompiled_charsmap, np.uint8),
    )


def read_charsmap(charsmap: bytes) -> dict[str, str]:
    """Return what single characters become under a precompiled normalisation; the others stay as they are.

    The layout is SentencePiece's: the size of a trie in bytes, the trie as a Darts double array of uint32 units, the
    results ended by NUL. A unit holds a label (bits 0-7 and 31), whether a leaf hangs on it (8), and the offset of its
    children (9-31); a leaf holds the place of the result. Rules for several characters are left out: nmt_nfkc has them
    for combining marks alone, and jieba cuts before each of those.
    """
    (size,) = struct.unpack_from("<I", charsmap)
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).tolist()
    results = charsmap[4 + size :]
    rules: dict[str, str] = {}
    for character in map(chr, (*range(0xD800), *range(0xE000, RULES_STOP))):
        place = 0
        for byte in character.encode():
            child = _first_child(units, place) ^ byte
            place = child if child < len(units) and units[child] & 0x800000FF == byte else -1
            if place < 0:
                break
        if place > 0 and units[place] & 0x100:
            result = units[_first_child(units, place)] & 0x7FFFFFFF
            rules[character] = results[result : results.index(b"\0", result)].decode()
    return rules


def _first_child(units: list[int], place: int) -> int:
    return place ^ (units[place] >> 10) << ((units[place] & 0x200) >> 6)


def load_unigram(model: bytes, vocabulary: Vocabulary) -> np.ndarray:
    """Return the fields of `unigram.Unigram`, packed: with these a Unigram model encodes."""
    name = f"unigram-{LAYOUT}-{hashlib.sha256(model).hexdigest()[:16]}"
    return cached(name, lambda: _build_unigram(vocabulary))


def _build_unigram(vocabulary: Vocabulary) -> np.ndarray:
    pieces = [piece.decode() for piece in vocabulary.pieces()]
    lossless, types = bool(vocabulary.lossless[0]), vocabulary.types
    searched = np.flatnonzero((types == NORMAL) | (types == USER_DEFINED)).tolist()
    code_of = {character: 1 + i for i, character in enumerate(sorted(set("".join(pieces[i] for i in searched))))}
    base, check, nodes = build_double_array([pieces[i] for i in searched], code_of)
    trie = np.zeros(len(base), NODE)
    trie["base"], trie["check"], trie["piece"] = base, check, -1
    trie["piece"][nodes] = searched
    trie["score"][nodes] = [
        # SentencePiece's bonus of a user-defined piece
        vocabulary.scores[i] if types[i] == NORMAL else np.float32(0.1 * (len(pieces[i].encode()) - 1))
        for i in searched
    ]

    becomes = np.full(max(RULES_STOP, 1 + max(map(ord, code_of))), UNKNOWN, np.int32)
    for character, code in code_of.items():
        becomes[ord(character)] = code
    sequences: list[list[int]] = []
    if not lossless:
        for character, result in read_charsmap(vocabulary.charsmap.tobytes()).items():
            if len(result) == 1 and result != " ":
                becomes[ord(character)] = code_of.get(result, UNKNOWN)
            else:
                sequences.append([SPACE if c == " " else code_of.get(c, UNKNOWN) for c in result])
                becomes[ord(character)] = -len(sequences)
    else:
        # to be spelt in bytes, as these stand for other characters
        becomes[[ord(SPACE_MARK), ord(SPACE_PIECE), ord(NEWLINE_PIECE)]] = UNKNOWN
    becomes[ord(" ")] = code_of[SPACE_MARK if lossless else SPACE_PIECE]
    becomes[ord("\n")] = code_of[NEWLINE_PIECE]
    byte_ids = {int(pieces[i][1:-1], 16): i for i in np.flatnonzero(types == BYTE)}
    return pack(
        [
            becomes,
            np.array([symbol for sequence in sequences for symbol in sequence], np.int32),
            np.cumsum([0, *map(len, sequences)], dtype=np.int32),
            trie,
            np.array([vocabulary.scores[types == NORMAL].min() - UNKNOWN_PENALTY], np.float32),
            np.array([code_of[SPACE_MARK]], np.int32),
            np.array([RELEASED_LAYOUT.index("<unk>")], np.int32),
            np.array([byte_ids[byte] for byte in sorted(byte_ids)], np.int32),
        ]
    )
