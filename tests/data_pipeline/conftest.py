"""Small things that several tests of the pipeline need: a tokenizer, documents, a recipe, a run."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import yaml

from data_pipeline.engine.progress import Quiet
from data_pipeline.engine.run_recipe import StageSummary
from data_pipeline.engine.run_recipe import run as run_local
from data_pipeline.recipe import Recipe

# the machine may be busy: only pytest's own limit ends a test
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

SENTENCES = (
    "春天来了，花园里的花都开了，红的、黄的、白的，非常好看。",
    "人工智能正在改变我们的生活，也带来了许多新的问题。",
    "今天的天气很好，孩子们在公园里放风筝，老人们在树下下棋。",
    "这本书讲的是一个年轻人离开家乡，到大城市里寻找理想的故事。",
    "经济学家认为，明年的增长速度将会放慢，但就业仍然稳定。",
    "他每天早上六点起床，先跑五公里，然后吃早饭，再去上班。",
    "科学家在南极的冰层下面发现了一种从来没有见过的微生物。",
    "服务态度很好，房间干净，位置也方便，下次还会再来住。",
)


def make_text(seed: int, sentences: int = 6) -> str:
    """A text of its own for each seed, long enough for the default rules."""
    generator = random.Random(seed)
    chosen = [generator.choice(SENTENCES) for _ in range(sentences)]
    return f"第{seed}篇。" + "\n".join(f"{number}、{sentence}" for number, sentence in enumerate(chosen, 1))


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small lossless tokenizer."""
    from data_pipeline.stages.tokenizer.training_process import train_tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(SENTENCES * 20, directory, vocab_size=420, model_type="bpe", threads=1)
    return directory


@pytest.fixture
def recipe_at(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe, each under a name of its own: `recipe_at(sources, stages, **top-level fields)`."""

    def write(sources: list[dict], stages: list, **fields: object) -> Path:
        path = tmp_path / f"recipe-{len(list(tmp_path.glob('recipe-*')))}.yaml"
        path.write_text(yaml.safe_dump({"sources": sources, "stages": stages, **fields}, allow_unicode=True))
        return path

    return write


def run_recipe(path: Path, out: Path) -> dict[str, StageSummary]:
    """Run a recipe; the summary of each stage by name."""
    return {summary.name: summary for summary in run_local(Recipe.load(path), out, Quiet())}


def contents(out: Path, *folders: str) -> dict[str, bytes]:
    """Every published file's bytes, by its path."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for folder in (folders or ("documents", "rejects", "tokenizer", "packed"))
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }
