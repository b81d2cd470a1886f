"""The tokenizer of the released PanGu-alpha weights, for transformers: jieba cuts the words, SentencePiece spells them.

    AutoTokenizer.from_pretrained(DIRECTORY, trust_remote_code=True)

It needs the packages jieba and sentencepiece. A space becomes the piece of U+2582 and a line break that of U+2583, as
the original has it. Control pieces such as `<eot>` in a text are control ids, as is usual in transformers.
"""

import shutil
from pathlib import Path
from typing import ClassVar

import jieba
import sentencepiece
from transformers import PreTrainedTokenizer

SPACE, NEWLINE, SPACE_MARK = "\u2582", "\u2583", "\u2581"
WHITE_SPACE = {ord(" "): SPACE, ord("\n"): NEWLINE}
UNKNOWN = "\u2047"


class PanguAlphaTokenizer(PreTrainedTokenizer):
    """vocab_file: SentencePiece's model."""

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer/vocab.model"}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **settings: object) -> None:
        self.vocab_file = vocab_file
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocab_file))
        super().__init__(**settings)

    @property
    def vocab_size(self) -> int:
        return self.pieces.get_piece_size()

    def get_vocab(self) -> dict[str, int]:
        return {self.pieces.id_to_piece(place): place for place in range(self.vocab_size)} | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: object) -> list[str]:
        words = " ".join(word.translate(WHITE_SPACE) for word in jieba.cut(text))
        return [self.pieces.id_to_piece(token) for token in self.pieces.encode(words)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.pieces.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.pieces.id_to_piece(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        ids = [self.pieces.piece_to_id(token) for token in tokens]
        return "".join(self.text_of(token, place) for token, place in zip(tokens, ids, strict=True))

    def text_of(self, token: str, place: int) -> str:
        """Return what a piece stands for; the spaces that SentencePiece puts between words stand for nothing."""
        if self.pieces.is_control(place):
            return ""
        if self.pieces.is_unknown(place):
            return UNKNOWN
        return token.replace(SPACE_MARK, "").replace(SPACE, " ").replace(NEWLINE, "\n")

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write SentencePiece's model below a folder."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)
