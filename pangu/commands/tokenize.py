"""Token ids of the lines of a text file: one JSON list a line.

    python -m pangu tokenize --model tokenizer/ corpus.txt --out ids.jsonl --workers 4

A line ends at a newline (\\n) and at nothing else; a \\r before it belongs to the line. The newline itself is not
encoded, and no end-of-document id is added.
"""

import argparse

from pangu.foundation.errors import UserError
from pangu.tokenizer import Tokenizer
from pangu.tokenizer.line_blocks import LineBlock, line_blocks, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="UTF-8 text; - is standard input")
    parser.add_argument("--model", required=True, help="tokenizer directory, or a SentencePiece .model file")
    parser.add_argument("--out", default="-", help="the file to write; - is standard output (default)")
    parser.add_argument("--workers", "--processes", type=int, default=1, help="worker processes (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    from pangu.tokenizer.parallel_map import map_in_order

    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: 1 or more would be right")
    tokenizer = Tokenizer.load(arguments.model)
    with output(arguments.out) as out:
        for ids in map_in_order(encode_lines, tokenizer, line_blocks(arguments.file), arguments.workers):
            out.write(ids)
    return 0


def encode_lines(tokenizer: Tokenizer, block: LineBlock) -> bytes:
    """Return the lines of ids for a block of lines of text."""
    import orjson

    texts = []
    for number, line in enumerate(block.lines, block.first_line):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(
                f"{block.source}: line {number}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; "
                "convert the file to UTF-8 first"
            ) from None
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return b"".join(orjson.dumps(ids, option=option) for ids in tokenizer.encode_batch(texts))
