"""Text to token ids and back.

Two kinds of tokenizer, told apart by their segmenter:

* `jieba`: the tokenizer of the released PanGu-α weights. jieba cuts the text, a space becomes ▂ and a newline ▃,
  SentencePiece (NFKC, no byte fallback) turns the words into ids. Ids and text equal the original's; not lossless.
* `none`: what `data_pipeline` trains by default. No segmentation, no normalisation, byte fallback:
  `decode(encode(text)) == text` for every text that UTF-8 can hold, and no text encodes to a control id.

A tokenizer is a directory with `vocab.model` (SentencePiece) and `tokenizer.json` (segmenter and special ids), or a
`.model` file alone, whose pieces then say the rest.
"""

import codecs
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pangu.foundation.atomic_file import atomic_file
from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.small_file import read_small
from pangu.foundation.yaml_document import shown
from pangu.tokenizer.parallel_map import map_in_order
from pangu.tokenizer.segmentation import segment, token_ends
from pangu.tokenizer.unigram import encode_lossless, encode_words
from pangu.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    NEWLINE_PIECE,
    SPACE_MARK,
    SPACE_PIECE,
    load_unigram,
    load_vocabulary,
    read_model,
)

MODEL_NAME, SETTINGS_NAME = "vocab.model", "tokenizer.json"

# Characters that stand for white space in the pieces of a lossless tokenizer; a text's own are spelt in bytes.
RESERVED = re.compile(f"([{SPACE_MARK}{SPACE_PIECE}{NEWLINE_PIECE}])")
# Texts are handed to the compiled loops in groups of about this many characters, to bound memory.
GROUP_CHARACTERS = 1 << 20

Segmenter = Literal["jieba", "none"]

# The one place that says which piece plays which part.
SPECIAL_PIECES = {
    "unknown": "<unk>",
    "newline": NEWLINE_PIECE,
    "space": SPACE_PIECE,
    "separator": "<sep>",
    "pad": "<pad>",
    "mask": "<mask>",
    "end_of_document": "<eot>",
}


@dataclass(frozen=True)
class SpecialIds:
    """The ids that play a part of their own."""

    unknown: int
    newline: int
    space: int
    separator: int
    pad: int
    mask: int
    end_of_document: int


class Tokenizer:
    """Load with `Tokenizer.load`. Encoding and decoding are thread-safe."""

    def __init__(self, model: bytes, special: SpecialIds | None = None, source: str = "the model") -> None:
        """`model` is the content of a SentencePiece `.model` file; `source` names it in error messages.

        Without `special` the pieces tell the special ids.
        """
        self.model = model
        self._vocabulary = load_vocabulary(model, source)
        self._pieces = self._vocabulary.pieces()
        self.vocab_size = len(self._pieces)
        self.segmenter: Segmenter = "none" if self._vocabulary.lossless[0] else "jieba"
        self.special = special or self._derive_special()
        for field, token_id in dataclasses.asdict(self.special).items():
            if not 0 <= token_id < self.vocab_size:
                raise UserError(f"{source}: special id {field} = {token_id} is outside the {self.vocab_size} pieces")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load a `.model` file, or a directory with `vocab.model`; `tokenizer.json` beside the model is read."""
        path = Path(path)
        if path.is_dir():
            path = path / MODEL_NAME
        tokenizer = cls(read_model(path), source=str(path))
        settings = path.with_name(SETTINGS_NAME)
        if not settings.exists():
            return tokenizer
        return cls(tokenizer.model, tokenizer._read_special(settings), str(settings))

    def save(self, directory: str | Path) -> None:
        """Write `vocab.model` and `tokenizer.json`, each whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in ((MODEL_NAME, self.model), (SETTINGS_NAME, self._settings().encode())):
            with atomic_file(directory / name) as file:
                file.write(content)

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 of the model and the settings: equal for tokenizers that give equal ids."""
        return hashlib.sha256(self.model + self._settings().encode()).hexdigest()

    def _settings(self) -> str:
        return json.dumps({"segmenter": self.segmenter, "special": dataclasses.asdict(self.special)}, indent=2) + "\n"

    def __reduce__(self) -> tuple:
        return Tokenizer, (self.model, self.special)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added before or after them."""
        if not self._vocabulary.unigram[0]:
            return self._encode_by_sentencepiece(text)
        points = _code_points(text)
        return self._encode_points(points, np.array([len(points)]))[0].tolist()

    def encode_batch(self, texts: Iterable[str], processes: int = 1) -> list[np.ndarray]:
        """Return the ids of each text, int32[n]. Other threads can run meanwhile.

        More processes pay from some tens of megabytes on: each takes about a second to start.
        """
        groups = map_in_order(Tokenizer._encode_group, self, _groups(texts), processes)
        return [ids for group in groups for ids in group]

    def _encode_group(self, texts: list[str]) -> list[np.ndarray]:
        if not self._vocabulary.unigram[0]:
            return [np.array(self._encode_by_sentencepiece(text), np.int32) for text in texts]
        text_stops = np.array(list(accumulate(map(len, texts))))
        ids, stops = self._encode_points(_code_points("".join(texts)), text_stops)
        return [ids[begin:stop] for begin, stop in pairwise([0, *stops.tolist()])]

    def _encode_points(self, points: np.ndarray, text_stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.segmenter == "jieba":
            return encode_words(points, token_ends(points, text_stops), text_stops, self._unigram)
        return encode_lossless(points, text_stops, self._unigram)

    def _encode_by_sentencepiece(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _lone_surrogate(error) from None
        if self.segmenter == "jieba":
            return self._processor.encode(joined_tokens(text))
        ids: list[int] = []
        for i, part in enumerate(RESERVED.split(text)):
            if i % 2:
                ids += (self._byte_ids[byte] for byte in part.encode())
            elif part:
                ids += self._processor.encode(part.replace("\n", NEWLINE_PIECE))
        return ids

    @cached_property
    def _unigram(self) -> np.ndarray:
        return load_unigram(self.model, self._vocabulary)

    @cached_property
    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @cached_property
    def _byte_ids(self) -> list[int]:
        return [self._pieces.index(b"<0x%02X>" % byte) for byte in range(256)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of these ids. Bytes that make no character become U+FFFD."""
        if isinstance(ids, np.ndarray):
            ids = ids.tolist()
        try:
            return b"".join(map(self._bytes_of_id.__getitem__, ids)).decode("utf-8", "replace")
        except KeyError as error:
            raise self._outside(error.args[0]) from None

    def piece(self, token_id: int) -> str:
        """Return the piece as it stands in the model."""
        if not 0 <= token_id < self.vocab_size:
            raise self._outside(token_id)
        return self._pieces[token_id].decode()

    def stream_decoder(self) -> "StreamDecoder":
        """Return a decoder that takes the ids one at a time."""
        return StreamDecoder(self)

    @property
    def byte_ids(self) -> list[int]:
        """Return the ids of the bytes 0 to 255; [] where the tokenizer has no byte fallback."""
        return self._byte_ids if self.segmenter == "none" else []

    def bytes_of(self, token_id: int) -> bytes:
        """Return what one id adds to the decoded text, in UTF-8; of a byte piece, a part of a character."""
        try:
            return self._bytes_of_id[token_id]
        except KeyError:
            raise self._outside(token_id) from None

    def _outside(self, token_id: int) -> UserError:
        return UserError(f"token id {token_id} is outside the vocabulary: 0 to {self.vocab_size - 1} would be right")

    @cached_property
    def _bytes_of_id(self) -> dict[int, bytes]:
        """Return the UTF-8 that each id decodes to. A dictionary, for which -1 is as unknown as any other id
        outside."""
        # the released decoding drops every space that SentencePiece puts, and ▂ gives those of the text back
        space = b"" if self.segmenter == "jieba" else b" "
        spelt = [piece.replace(SPACE_MARK.encode(), space) for piece in self._pieces]
        for i in np.flatnonzero(self._vocabulary.types == BYTE):
            spelt[i] = bytes([int(self._pieces[i][1:-1], 16)])
        for i in np.flatnonzero(self._vocabulary.types == CONTROL):
            spelt[i] = b""
        spelt[self._pieces.index(b"<unk>")] = "⁇".encode()
        spelt[self._pieces.index(SPACE_PIECE.encode())] = b" "
        spelt[self._pieces.index(NEWLINE_PIECE.encode())] = b"\n"
        return dict(enumerate(spelt))

    def _derive_special(self) -> SpecialIds:
        space = SPACE_PIECE if self.segmenter == "jieba" else SPACE_MARK
        names = dict(SPECIAL_PIECES, space=space)
        return SpecialIds(**{field: self._pieces.index(piece.encode()) for field, piece in names.items()})

    def _read_special(self, path: Path) -> SpecialIds:
        """Return the special ids in a `tokenizer.json`; what it leaves out is as the pieces tell."""
        try:
            settings = json.loads(read_small(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not JSON: {reason_of(error)}") from None
        if not isinstance(settings, dict) or not isinstance(settings.get("special", {}), dict):
            raise UserError(f'{path}: {{"segmenter": "jieba" or "none", "special": {{name: id}}}} would be right')
        for name in settings.keys() - {"segmenter", "special"}:
            raise UserError(f"{path}: unknown field {name!r}; the fields are segmenter and special")
        if settings.get("segmenter", self.segmenter) != self.segmenter:
            raise UserError(f"{path}: segmenter {settings['segmenter']!r}, but the model needs {self.segmenter!r}")
        for name, token_id in settings.get("special", {}).items():
            if name not in SPECIAL_PIECES or type(token_id) is not int:
                raise UserError(
                    f"{path}: special.{name} = {shown(token_id)}; ids of {', '.join(SPECIAL_PIECES)} are known"
                )
        return dataclasses.replace(self.special, **settings.get("special", {}))


class StreamDecoder:
    """Decodes ids one at a time and never gives out a part of a character.

    What `push` and `finish` return, joined, is `Tokenizer.decode` of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Return the text that this id completes; empty while a character is still in the making."""
        return self._decoder.decode(self._tokenizer.bytes_of(token_id))

    def finish(self) -> str:
        """Return what is left: nothing, or U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)


def joined_tokens(text: str) -> str:
    """Return what SentencePiece is given in the released tokenizer: jieba's tokens joined by spaces."""
    white_space = {ord(" "): SPACE_PIECE, ord("\n"): NEWLINE_PIECE}
    return " ".join(token.translate(white_space) for token in segment(text))


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in groups of about GROUP_CHARACTERS."""
    group: list[str] = []
    characters = 0
    for text in texts:
        group.append(text)
        characters += len(text)
        if characters >= GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _code_points(text: str) -> np.ndarray:
    """Return uint32[len(text)]."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        raise _lone_surrogate(error) from None


def _lone_surrogate(error: UnicodeEncodeError) -> UserError:
    before = ascii(error.object[max(0, error.start - 10) : error.end])
    return UserError(f"a text holds a lone surrogate, the last character of {before}: UTF-8 has no place for it")
