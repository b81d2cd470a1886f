"""The text of lists of token ids: one JSON list a line in, one text a line out.

    python -m pangu detokenize --model tokenizer/ ids.jsonl --out corpus.txt

A newline within a text is written as it is, so that such a text becomes several lines. With --json each text is written
as a JSON string instead: one a line, whatever it holds.
"""

import argparse

from pangu.foundation.errors import UserError
from pangu.tokenizer import Tokenizer
from pangu.tokenizer.line_blocks import LineBlock, line_blocks, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a JSON list of ids on each line; - is standard input")
    parser.add_argument("--model", required=True, help="tokenizer directory, or a SentencePiece .model file")
    parser.add_argument("--out", default="-", help="the file to write; - is standard output (default)")
    parser.add_argument("--json", action="store_true", help="write each text as a JSON string")
    parser.add_argument("--workers", "--processes", type=int, default=1, help="worker processes (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    from pangu.tokenizer.parallel_map import map_in_order

    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: 1 or more would be right")
    tokenizer = Tokenizer.load(arguments.model)
    decode = decode_to_json if arguments.json else decode_to_text
    with output(arguments.out) as out:
        for texts in map_in_order(decode, tokenizer, line_blocks(arguments.file), arguments.workers):
            out.write(texts)
    return 0


def decode_to_text(tokenizer: Tokenizer, block: LineBlock) -> bytes:
    """Return the texts for a block of lines of ids, as lines."""
    return b"".join(text.encode() + b"\n" for text in decode_lines(tokenizer, block))


def decode_to_json(tokenizer: Tokenizer, block: LineBlock) -> bytes:
    """Return the texts for a block of lines of ids, as lines of JSON."""
    import orjson

    return b"".join(orjson.dumps(text) + b"\n" for text in decode_lines(tokenizer, block))


def decode_lines(tokenizer: Tokenizer, block: LineBlock) -> list[str]:
    """Return the texts for a block of lines of ids."""
    import orjson

    texts = []
    for number, line in enumerate(block.lines, block.first_line):
        try:
            ids = orjson.loads(line)
            if not (isinstance(ids, list) and all(type(token_id) is int for token_id in ids)):
                raise ValueError("a list of whole numbers would be right")
            texts.append(tokenizer.decode(ids))
        except (ValueError, UserError) as error:
            raise UserError(f"{block.source}: line {number}: {error}") from None
    return texts
