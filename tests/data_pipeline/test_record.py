"""The record: numbers that never change, signals that grow."""

import pyarrow as pa

from data_pipeline import record


def test_document_id_is_fixed() -> None:
    # a change of these would give every corpus new numbers
    assert record.document_id("news", "a.jsonl", 0) == 8461745828555458092
    assert record.document_id("news", "a.jsonl", 1) != record.document_id("news", "a.jsonl", 0)
    assert record.document_id("ab", "c", 0) != record.document_id("a", "bc", 0)


def test_replace_adds_and_overwrites_signals() -> None:
    schema = record.schema(["bytes"])
    row = dict.fromkeys(schema.names) | {
        "doc_id": 1,
        "source": "s",
        "path": "p",
        "offset": 0,
        "signals": {"bytes": 3.0},
    }
    batch = pa.RecordBatch.from_pylist([row], schema=schema)
    changed = record.replace(
        batch,
        columns={"drop_reason": pa.array(["rule:1"])},
        signals={"share": pa.array([0.5]), "bytes": pa.array([4])},
    )
    assert changed.schema.equals(record.schema(["bytes", "share"]))
    assert changed.to_pylist()[0]["signals"] == {"bytes": 4.0, "share": 0.5}
    assert record.reason_class(changed.column("drop_reason")[0].as_py()) == "rule"
