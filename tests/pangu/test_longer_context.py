"""A longer context: tables of positions are stretched, and the rest is as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import pangu
from pangu import parameters
from pangu.cli import main
from pangu.formats.longer_context import stretched
from tests.pangu import small_model

TABLES = {parameters.POSITION_TABLE: 0, parameters.QUERY_TABLE: 1, parameters.TARGET_TABLE: 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.write(tmp_path_factory.mktemp("short"), seq_length=16, target_in_trunk=True)


def test_a_row_of_the_new_table_lies_on_the_line_between_two_old_ones() -> None:
    table = np.array([[0.0, 10.0], [1.0, 20.0], [2.0, 30.0], [3.0, 40.0]], np.float32)
    assert stretched(table, 8, 0)[:, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    # Row r asks for place r + 1: row 1 of the old table, which asks for place 2, is where the new place 4 is asked for.
    assert stretched(table, 8, 1)[:, 0].tolist() == [0, 0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert stretched(table, 6, 0)[2].tolist() == pytest.approx([4 / 3, 10 + 40 / 3])


@pytest.mark.parametrize("form", ["safetensors", "mindspore", "pytorch"])
def test_a_converted_model_has_the_longer_context(
    weights: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "pytorch":  # the port has no name for the third table
        weights = small_model.write(tmp_path / "plain", seq_length=16)
    out = tmp_path / f"long.{'ckpt' if form == 'mindspore' else 'safetensors'}"
    assert main(["convert", str(weights), "--to", form, "--out", str(out), "--context", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["seq_length"] == 40
    model = pangu.load(out, tokenizer=weights.parent / "tokenizer")
    assert model.config.seq_length == 40
    if form == "safetensors":
        old, new = load_file(weights), load_file(out)
        for name, value in old.items():
            expected = stretched(value, 40, TABLES[name]) if name in TABLES else value
            assert np.array_equal(new[name], expected), name
    assert len(model.complete([[5, 6, 7]], max_new_tokens=36, temperature=0)[0].ids) > 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--context", "16"], "is 16 already; give a longer one"),
        (["--context", "8"], "is 16 already; give a longer one"),
        (["--context", "0"], "is 16 already; give a longer one"),
        (["--context", "99999999999"], "to 512 at most"),
        (["--context", "40", "--keep-optimizer"], "moments are of the shorter tables"),
    ],
)
def test_a_context_that_means_nothing_is_one_line(
    weights: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.safetensors"
    assert main(["convert", str(weights), "--to", "safetensors", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_positions_are_told_apart_and_sum_to_the_whole(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pangu.load(weights, tokenizer=weights.parent / "tokenizer")
    texts = ["北京是中国的首都。" * 4, "天气很好", "我"]
    sums, counts = model.nats_by_position(texts)
    assert sums.sum() == pytest.approx(-sum(model.rolling_log_likelihood(texts)))
    assert counts.sum() == sum(len(model.ids(text)) for text in texts) and (np.diff(counts) <= 0).all()
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    words = ["score", str(weights), str(file), "--tokenizer", str(weights.parent / "tokenizer"), "--by-position"]
    assert main([*words, "3"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["first"], row["last"]) for row in rows] == [(0, 4), (5, 9), (10, 15)]
    assert sum(row["tokens"] for row in rows) == counts.sum()
    assert main([*words, "0"]) == 2 and "at least 1 part" in capsys.readouterr().err
    file.write_text('{"context": "a", "continuation": "b"}\n', encoding="utf-8")
    assert main([*words, "3"]) == 2 and "object 1: --by-position takes whole texts" in capsys.readouterr().err
