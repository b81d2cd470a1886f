"""Exact deduplication: what counts as the same, and which of them stays."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.stages.dedup.exact import normalised
from tests.data_pipeline.conftest import make_text, run_recipe, write_jsonl


def test_normalised() -> None:
    assert normalised("Ａ b\n中　文，") == normalised("ab中文,") == "ab中文,"
    assert normalised("中文。") != normalised("中文")


@given(st.text() | st.text("，：！？（）…～％　＝\u0338\u0301aＡ中ﾞカ가\u11a8ﬁ½"))
def test_normalised_is_plainly(text: str) -> None:
    assert normalised(text) == "".join(unicodedata.normalize("NFKC", text).casefold().split())


def documents(out: Path, folder: str) -> dict[str, dict]:
    tables = [pq.read_table(path) for path in sorted((out / folder).glob("*.parquet"))]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


@pytest.mark.parametrize("prefer", [None, ["second"]])
def test_representative(tmp_path: Path, recipe_at: Callable[..., Path], prefer: list[str] | None) -> None:
    write_jsonl(tmp_path / "1.jsonl", [{"id": f"1-{number}", "text": make_text(number)} for number in (1, 2, 3, 1)])
    write_jsonl(tmp_path / "2.jsonl", [{"id": f"2-{number}", "text": make_text(number) + " \n"} for number in (3, 4)])
    sources = [{"name": "first", "paths": "1.jsonl"}, {"name": "second", "paths": "2.jsonl"}]
    outcomes = []
    for shard_bytes in (1, 10**6):
        stages = [{"read": {"shard_bytes": shard_bytes}}, {"dedup_exact": {"prefer": prefer}}]
        run_recipe(recipe_at(sources, stages), tmp_path / f"out-{shard_bytes}")
        kept, dropped = (documents(tmp_path / f"out-{shard_bytes}", folder) for folder in ("documents", "rejects"))
        outcomes.append(
            (sorted(row["doc_id"] for row in kept.values()), {key: row["drop_reason"] for key, row in dropped.items()})
        )
    assert outcomes[0] == outcomes[1]
    assert len(kept) == 4 and len(dropped) == 2
    loser, winner = ("1-3", "2-3") if prefer else ("2-3", "1-3")
    assert dropped[loser]["drop_reason"] == f"duplicate_of:{kept[winner]['doc_id']}"
    # the two documents 1-1 have the same text: the smaller number stays
    assert dropped["1-1"]["doc_id"] > kept["1-1"]["doc_id"]
