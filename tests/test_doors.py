"""The doors from Python of the pipeline and of the planner: what their command lines say, as objects."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import data_pipeline
import parallel_strategy
from data_pipeline.dedup_check.chinese_grammar import documents
from parallel_strategy.cli import main
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def strategy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doors") / "strategy.yaml"
    words = ["init", str(path), "--model", "pangu-alpha-350m", "--set", "mesh.dp", "4", "--set", "mesh.tp", "2"]
    assert main([*words, "--set", "batch.global", "16"]) == 0
    return path


@pytest.mark.parametrize("package", ["data_pipeline", "parallel_strategy"])
def test_importing_a_package_imports_nothing_heavy(package: str) -> None:
    program = (
        f"import sys, {package}; dir({package}); "
        "print(sorted({'mindspore', 'numpy', 'numba', 'scipy', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_prediction_is_what_the_verb_prints(strategy: Path, capsys) -> None:
    capsys.readouterr()
    predicted = parallel_strategy.predict(strategy)
    assert main(["predict", str(strategy), "--json"]) in (0, 3)
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(json.dumps(predicted.to_dict())) == printed
    assert predicted.seconds > 0 and predicted.fits == (predicted.gib <= predicted.prediction.usable_gib)


def test_a_search_finds_what_a_prediction_confirms(strategy: Path, tmp_path: Path) -> None:
    found = parallel_strategy.search(strategy, keep=3, tp=[2])
    assert callable(parallel_strategy.search)  # its folder was imported by now
    best = found.best[0]
    assert found.to_dict()["candidates"] > 1 and best.seconds <= parallel_strategy.predict(strategy).seconds
    found.save(tmp_path / "best.yaml")
    again = parallel_strategy.predict(tmp_path / "best.yaml")
    assert again.seconds == pytest.approx(best.seconds, rel=1e-9) and again.gib == pytest.approx(best.gib, rel=1e-9)


def test_a_recipe_runs_and_its_documents_are_read(tmp_path: Path) -> None:
    corpus = tmp_path / "texts.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for text in [*documents(seed=3, count=40), "短"]:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"sources: [{{name: texts, paths: [{corpus}]}}]\nstages: [read, clean, dedup_exact]\n")
    summaries = data_pipeline.run(recipe, tmp_path / "out", workers=1, changes=[("clean.minimum_characters", "5")])
    kept, dropped = (
        list(data_pipeline.documents(tmp_path / "out")),
        list(data_pipeline.documents(tmp_path / "out", rejects=True)),
    )
    assert len(kept) == summaries[-1].documents and len(kept) + len(dropped) == 41
    assert all(row["text"] for row in kept)


def test_a_page_gives_its_text_in_two_forms() -> None:
    sentences = "".join(f"第{number}句说的是今天的天气，大家都觉得很好。" for number in range(12))
    page = f"<html><meta charset=gbk><body><article><h1>标题在这里</h1><p>{sentences}</p></article></body></html>"
    plain, markdown = data_pipeline.extract(page), data_pipeline.extract(page, format="markdown")
    assert sentences in plain.text and sentences in markdown.text


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: data_pipeline.run("no.yaml", "out"), "no.yaml"),
        (lambda: list(data_pipeline.documents("no-such-run")), "no-such-run: not the output directory of a run"),
        (lambda: data_pipeline.extract("", format="html"), "must be text or markdown"),
        (lambda: parallel_strategy.predict("no.yaml"), "no.yaml"),
        (lambda: parallel_strategy.search("no.yaml"), "no.yaml"),
    ],
)
def test_a_mistake_is_one_line(use, message: str) -> None:
    with pytest.raises(data_pipeline.UserError) as caught:
        use()
    assert message in str(caught.value) and "\n" not in str(caught.value)
