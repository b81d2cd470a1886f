"""The command line, as a person types it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.cli import VERBS, main
from data_pipeline.commands import show
from data_pipeline.report.tokens import packed_tokens
from tests.data_pipeline.conftest import make_text, run_recipe, write_jsonl

LIGHT_VERBS = [[], *([verb] for verb in ("demo", "init", "run", "plan", "explain", "stats", "inspect", "why", "show"))]


@pytest.mark.parametrize("verb", LIGHT_VERBS)
def test_help_imports_nothing_heavy(verb: list[str]) -> None:
    code = (
        "import sys\nfrom data_pipeline.cli import main\n"
        f"try: main({[*verb, '--help']!r})\nexcept SystemExit: pass\n"
        "heavy = {'pyarrow', 'numpy', 'duckdb', 'mindspore', 'pydantic', 'rich', 'yaml', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("--help" in done.stdout) and all(name in done.stdout for name in ([] if verb else VERBS))


def test_run_imports_mindspore_in_workers_only() -> None:
    code = (
        "import sys\nimport data_pipeline.engine.run_recipe, data_pipeline.recipe\n"
        "from data_pipeline.stages import STAGES, load_stage\n"
        "[load_stage(kind) for kind in ('read', 'clean', 'dedup_exact', 'tokenizer', 'pack')]\n"
        "heavy = {'mindspore', 'duckdb', 'numba', 'opencc', 'sentencepiece', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_story(tmp_path: Path, tokenizer_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """init, plan, run, stats, inspect, why, show, explain."""

    def call(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    rows = [{"id": f"d{number}", "text": make_text(number, 8)} for number in range(30)]
    rows += [{"id": "twin", "text": make_text(3, 8)}, {"id": "short", "text": "😀太短😀"}]
    write_jsonl(tmp_path / "in" / "news.jsonl", rows)
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    call(
        "init", "--corpus", tmp_path / "in", "--out", recipe, "--set", "clean.minimum_characters", 50,
        "--set", "tokenizer.use", tokenizer_directory, "--set", "pack.seq_length", 32,
        "--set", "pack.outputs", "[parquet]", "--set", "pack.heldout_fraction", "0.1",
    )  # fmt: skip
    assert main(["init", "--out", str(recipe)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert "1 of 1 tasks to run" in call("plan", recipe, "--out", out) and not out.exists()
    summary = json.loads(call("run", recipe, "--out", out, "--json", "--workers", 2))
    assert {stage["name"]: stage["documents"] for stage in summary["stages"]} == {
        "read": 32, "clean": 31, "dedup_exact": 30, "tokenizer": 0, "pack": 0,
    }  # fmt: skip
    assert "up to date" in call("run", recipe, "--out", out)
    assert "duplicate_of" in call("stats", out)
    assert json.loads(call("stats", out, "--json"))[1]["dropped"] == {"too_short": 1}
    assert "太短" in call("inspect", out, "--stage", "clean", "--dropped")
    assert len(call("inspect", out, "-n", 4, "--json").splitlines()) == 4
    assert main(["inspect", str(out), "--stage", "clean", "--reason", "to_short"]) == 2
    assert "did you mean 'too_short'?" in capsys.readouterr().err
    told = call("run", recipe, "--out", out, "--set", "clean.minimum_characters", "1", "--json", "--until", "clean")
    assert json.loads(told)["stages"][1]["dropped"] == {}
    call("run", recipe, "--out", out)
    (counted,) = json.loads(call("stats", out, "--tokenizer", tokenizer_directory, "--json"))["tokens"]
    (packed_row,) = packed_tokens(out)
    assert packed_row.documents == counted["documents"] and packed_row.bytes == counted["bytes"]
    assert packed_row.tokens == counted["tokens"] + counted["documents"]  # an end of document each
    assert f"{packed_row.tokens:,}" in call("stats", out)
    call("report", out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "A sample has 32 tokens" in page and f"{packed_row.tokens:,}" in page
    assert main(["stats", str(out), "--tokenizer", str(tmp_path / "none")]) == 2
    assert "none: No such file" in capsys.readouterr().err
    assert "id d0" in call("inspect", next((out / "documents").iterdir()), "-n", 1)
    told = call("why", out, "short")
    assert "-😀太短😀" in told and "+太短" in told and "dropped, too_short:2 characters" in told
    told = json.loads(call("why", out, "d7", "--json"))
    assert [stage["stage"] for stage in told["stages"]] == ["read", "clean", "dedup_exact"]
    place = told["packed"][0]
    packed = out / "packed" / f"{place['file']}.parquet"
    shown = json.loads(call("show", packed, "--sample", place["sample"], "--json"))
    (piece,) = [piece for piece in shown["documents"] if piece["id"] == "d7"]
    assert piece["doc_id"] == told["doc_id"] and piece["document_offset"] == 0
    assert make_text(7, 8).startswith(piece["text"].rstrip("�")) and piece["text"]
    assert "source in: ids" in call("show", packed, "--sample", place["sample"])
    assert "up to date" in call("explain", recipe, "--out", out, "--stage", "clean")
    recipe.write_text(recipe.read_text().replace("seq_length: 32", "seq_length: 40"))
    told = call("explain", recipe, "--out", out)
    assert "pack/tokens: up to date" in told and "setting seq_length: 32 → 40" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "missing.yaml", "--out", "o"], "missing.yaml: cannot be read: No such file"),
        (["stats", "nowhere"], "not the output directory of a run"),
        (["why", "nowhere", "1"], "not the output directory of a run"),
        (["inspect", "nowhere"], "not the output directory of a run"),
        (["show", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["init", "--corpus", "a", "--set", "pack.seq_length", "0", "--out", "r.yaml"], "nearest: 1"),
        (["init", "--set", "pack.seq_lenght", "9", "--out", "r.yaml"], "did you mean 'pack.seq_length'"),
        (["show", "."], "a directory; name a file in it"),
        (["inspect", ".", "-n", "-1"], "nearest: 0"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert expected in error and len(error.splitlines()) == 1
    assert not (tmp_path / "r.yaml").exists()


@pytest.mark.parametrize("verb", ["stats", "inspect", "why", "report"])
def test_a_damaged_run_is_one_line(
    tmp_path: Path, recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": make_text(1)}])
    run_recipe(recipe_at([{"name": "s", "paths": "a.jsonl"}], ["read"]), tmp_path / "out")
    words = [verb, str(tmp_path / "out"), *(["a"] if verb == "why" else [])]
    for path in (tmp_path / "out/stages").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-9])
    assert main(words) == (0 if verb == "stats" else 2)
    assert len(capsys.readouterr().err.splitlines()) == (0 if verb == "stats" else 1)
    (tmp_path / "out/manifest.sqlite").write_bytes(b"")
    assert main(words) == 2
    assert "run again" in capsys.readouterr().err


def test_an_empty_output_name_is_not_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "recipe.yaml", "--out", ""]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("paths", ["in", "in/*", "in/**/*.jsonl"])
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_output_inside_a_source_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], paths: str, verb: str
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"text": make_text(1)}])
    write_jsonl(tmp_path / "in" / "out" / "b.jsonl", [{"text": make_text(2)}])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"sources": [{"name": "s", "paths": [paths]}], "stages": ["read"]}))
    assert main([verb, str(recipe), "--out", str(tmp_path / "in" / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/in/out: lies in source 's' ({paths})")
    assert [path.name for path in (tmp_path / "in" / "out").iterdir()] == ["b.jsonl"]
    recipe.write_text(json.dumps({"sources": [{"name": "s", "paths": ["in/*.jsonl"]}], "stages": ["read"]}))
    assert main([verb, str(recipe), "--out", str(tmp_path / "in" / "other")]) == 0


def test_show_says_how_many_samples_there_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pangu.foundation.errors import UserError

    pq.write_table(pa.table({"input_ids": [[1, 2], [3, 4]]}), tmp_path / "a.parquet")
    assert show.read_sample(tmp_path / "a.parquet", 1).tolist() == [3, 4]
    with pytest.raises(UserError, match="the file has 2, numbered from 0"):
        show.read_sample(tmp_path / "a.parquet", 2)
