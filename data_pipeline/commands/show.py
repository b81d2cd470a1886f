"""A packed sample as text, and the documents it was made of.

python -m data_pipeline show corpus/packed/train-00000.mindrecord --sample 7
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from pangu.foundation.translation import translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a packed .mindrecord or .parquet file")
    parser.add_argument("--sample", type=int, default=0, help="number of the sample in the file (0)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    import pyarrow.parquet as pq

    import pangu.foundation.errors
    from pangu.foundation.errors import UserError
    from pangu.tokenizer import Tokenizer

    path: Path = arguments.file
    index = read_index(path)
    documents_path = path.with_suffix(".documents.parquet")
    if not documents_path.exists():
        raise UserError(f"{documents_path}: missing; it says which documents the samples of {path.name} are made of")
    ids = read_sample(path, arguments.sample)
    try:
        tokenizer = Tokenizer.load(path.parent / index["tokenizer"])
        pieces = pq.read_table(documents_path, filters=[("sample", "=", arguments.sample)]).to_pylist()
    except (pangu.foundation.errors.UserError, OSError, ValueError) as error:
        raise UserError(f"{path.parent}: {error}") from error
    for piece in pieces:
        part = ids[piece["offset"] : piece["offset"] + piece["length"]]
        piece["ends"] = bool(len(part)) and int(part[-1]) == index["end_of_document_id"]
        piece["text"] = tokenizer.decode(part[: len(part) - piece["ends"]])
    padding = len(ids) - max((piece["offset"] + piece["length"] for piece in pieces), default=0)
    if arguments.json:
        print(
            json.dumps(
                {"sample": arguments.sample, "ids": ids.tolist(), "documents": pieces, "padding": padding},
                ensure_ascii=False,
            )
        )
    else:
        _print(path, arguments.sample, pieces, padding)
    return 0


def read_index(path: Path) -> dict[str, Any]:
    """Return `packed.json` beside a packed file."""
    from pangu.foundation.best_effort import reason_of
    from pangu.foundation.errors import UserError

    if not path.is_file():
        what = "a directory; name a file in it" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}, like packed/train-00000.mindrecord")
    try:
        return json.loads((path.parent / "packed.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path.parent}/packed.json: {reason_of(error)}; a packed file lies beside its packed.json"
        ) from error


def read_sample(path: Path, number: int) -> Any:
    """Return the ids of one sample, int32."""
    import numpy as np

    from pangu.foundation.errors import UserError

    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        count, before = file.metadata.num_rows, 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if 0 <= number - before < rows:
                return np.array(file.read_row_group(group).column("input_ids")[number - before].as_py(), np.int32)
            before += rows
    else:
        import os

        os.environ.setdefault("GLOG_v", "3")
        from mindspore.mindrecord import FileReader

        try:
            reader = FileReader(str(path), num_consumer=1)
            count = reader.len()
            if 0 <= number < count:
                return next(itertools.islice(reader.get_next(), number, None))["input_ids"]
        except RuntimeError as error:  # of MindSpore, over several lines
            raise UserError(f"{path}: cannot be read as MindRecord: {' '.join(str(error).split())[:200]}") from error
    raise UserError(f"{path}: sample {number}: the file has {count}, numbered from 0")


def _print(path: Path, number: int, pieces: list[dict[str, Any]], padding: int) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for piece in pieces:
        whole = "" if piece["ends"] else ", goes on in the next sample"
        begin = f" from its token {piece['document_offset']}" if piece["document_offset"] else ""
        own = f" id {piece['id']}" if piece["id"] is not None else ""
        last = piece["offset"] + piece["length"] - 1
        place = f"ids {piece['offset']}–{last}{begin}{whole}"
        console.rule(translated(f"doc {piece['doc_id']}{own}, source {piece['source']}: {place}"), align="left")
        console.print(piece["text"], markup=False, soft_wrap=True)  # lines are the document's own
    if padding:
        console.rule(translated(f"{padding} pad ids"), align="left")
    console.print(translated(f"{path.name}, sample {number}: {len(pieces)} documents"), markup=False)
