"""`python -m data_pipeline dedup-check`, and the generated text that it falls back on."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.cli import main
from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.dedup_check.planted_duplicates import FORM, KINDS, plant
from data_pipeline.kernels.normal_form import normal_form


def figures(capsys, *arguments: str) -> dict:
    assert main(["dedup-check", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_generated_documents_are_seeded_and_unlike_each_other():
    first = list(chinese_grammar.documents(20, seed=1))
    assert first == list(chinese_grammar.documents(20, seed=1))
    assert first != list(chinese_grammar.documents(20, seed=2))
    assert len(set(first)) == 20


def test_planted_documents_are_what_they_are_called():
    texts = list(chinese_grammar.documents(30, seed=1))
    planted = plant(texts, 3, seed=2)
    assert planted == plant(texts, 3, seed=2)
    assert {item.kind for item in planted} == {*KINDS, FORM}
    for item in planted:
        if item.origin is None:
            assert item.kind == FORM
        elif item.kind == "exact":
            assert item.text == texts[item.origin]
        elif item.kind == "typography":
            assert item.text != texts[item.origin]
            assert normal_form(item.text) == normal_form(texts[item.origin])
        elif item.kind == "header+footer":
            assert texts[item.origin] in item.text
        elif item.kind == "cut":
            assert texts[item.origin].startswith(item.text)
    assert plant(["短"], 3, seed=2) == []


def test_figures_on_generated_text(capsys):
    result = figures(capsys, "--documents", "300", "--planted", "20")
    assert result["documents"] == 300 + 20 * (len(KINDS) + 1)
    assert result["settings"]["bands"] == 20
    recall = {row["name"]: row["recall"] for row in result["kinds"]}
    assert recall["exact"] == recall["typography"] == 1
    assert sum(row["planted"] for row in result["bins"]) == 20 * len(KINDS)
    assert result["edge_precision"] >= 0.99


def test_own_files_of_each_kind(capsys, tmp_path):
    texts = list(chinese_grammar.documents(60, seed=4))
    lines = "".join(json.dumps({"content": text}, ensure_ascii=False) + "\n" for text in texts)
    compressed, plain, parquet = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl", tmp_path / "c.parquet"
    compressed.write_bytes(gzip.compress(lines.encode()))
    plain.write_text('not json\n{"content": 3}\n' + lines, encoding="utf-8")
    pq.write_table(pa.table({"content": texts}), parquet)
    for path in (compressed, plain, parquet):
        result = figures(capsys, str(path), "--text-field", "content", "--planted", "2", "--documents", "50")
        assert result["documents"] == 50 + 2 * (len(KINDS) + 1)


def test_the_table_names_kinds_and_precision(capsys):
    assert main(["dedup-check", "--documents", "100", "--planted", "5", "--bands", "14", "--rows", "8"]) == 0
    output = capsys.readouterr().out
    assert "14 bands x 8 rows" in output
    assert all(kind in output for kind in KINDS)
    assert "have a similarity of 0.5 or more" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["--bands", "0"], "--bands: Input should be greater than or equal to 1, got 0"),
        (["--bands", "200", "--rows", "60"], "--bands, --rows: bands x rows = 12000"),
        (["--similarity", "1.5"], "--similarity: "),
        (["{folder}/short.jsonl"], "none of the 1 documents is long enough"),
        (["{folder}/short.jsonl", "--text-field", "body"], "no document with a field 'body'"),
        (["{folder}/cut.jsonl.gz"], "cut.jsonl.gz: "),
        (["{folder}/bad.parquet"], "bad.parquet: "),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, message):
    (tmp_path / "short.jsonl").write_text('{"text": "太短"}\n', encoding="utf-8")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "' + bytes(range(65, 90)) * 50 + b'"}\n')[:40])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    assert main(["dedup-check", *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
