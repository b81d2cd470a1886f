"""Recipes: what `init` writes can be read, and a mistake gets one line that says what would be right."""

import re
from pathlib import Path

import pytest
import yaml

from data_pipeline.cli import main
from data_pipeline.engine.steps import parse_bytes
from data_pipeline.recipe import Recipe
from data_pipeline.recipe_template import DEFAULT_STAGES, OPTIONAL_STAGES, recipe_text
from data_pipeline.stages import STAGES, load_stage
from pangu.foundation.errors import UserError
from tests.conftest import REPOSITORY

GOOD = """
sources:
  - {name: news, paths: news.jsonl}
stages:
  - read
  - clean: {minimum_characters: 20}
  - dedup_exact
"""


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return Recipe.load(path)


def test_good_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert [stage.name for stage in recipe.stages] == ["read", "clean", "dedup_exact"]
    assert recipe.stages[1].settings.model_dump()["minimum_characters"] == 20
    assert recipe.stages[2].settings.model_dump()["prefer"] == ("news",)
    assert recipe.memory == 4 << 30


def test_recipe_of_the_documentation(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/pipeline.md").read_text(encoding="utf-8")
    (tmp_path / "words.txt").touch()
    recipe = load(tmp_path, text.split("```yaml\n")[1].split("```")[0])
    assert len(recipe.stages) == 8
    assert all(f"| `{kind}` |" in text for kind in STAGES), "a stage that the table of stages does not name"


def test_template_holds_every_default(tmp_path: Path) -> None:
    recipe = load(tmp_path, recipe_text(["a/*.jsonl", "b.txt", "c/a"], "line", {}))
    assert [source.name for source in recipe.sources] == ["a", "b", "a-2"]
    for stage in recipe.stages:
        names = [source.name for source in recipe.sources]
        defaults = load_stage(stage.kind).Settings().completed(1, names, tmp_path)
        assert stage.settings == defaults
        for field in load_stage(stage.kind).Settings.model_fields.values():
            assert field.description, f"{stage.kind}: a field without a description"
    assert {stage.kind for stage in recipe.stages} == set(DEFAULT_STAGES)
    assert set(DEFAULT_STAGES) <= set(STAGES)


def test_template_holds_further_stages_as_comments(tmp_path: Path) -> None:
    # what these stages cannot do without
    (tmp_path / "a.jsonl").touch()
    needed = {
        "decontaminate": {"evaluation": '["a.jsonl"]'},
        "mix": {"epochs": "{a: 1}"},
        "label": {"domain": "a.jsonl"},
        "quality": {"language_model": '{texts: ["source:a"]}'},
    }
    text = recipe_text(["a.jsonl"], "file", {})
    for stage, settings in needed.items():
        head, found, body = text.partition(f"- {stage}:")
        assert found
        for name, value in settings.items():
            body = re.sub(rf"(?m)^(  # +{name}: ).*$", rf"\g<1>{value}", body, count=1)
        text = head + found + body
    recipe = load(tmp_path, re.sub("(?m)^  # (?=[- ])", "  ", text))
    kinds = [stage.kind for stage in recipe.stages]
    assert set(kinds) == {*DEFAULT_STAGES, *OPTIONAL_STAGES} == set(STAGES)
    assert [kind for kind in kinds if kind in DEFAULT_STAGES] == list(DEFAULT_STAGES)
    assert kinds[:6] == ["read", "clean", "filter", "quality", "dedup_exact", "dedup_fuzzy"]
    for stage in recipe.stages:
        module = load_stage(stage.kind)
        given = {name: yaml.safe_load(value) for name, value in needed.get(stage.kind, {}).items()}
        chosen = module.Settings(**given)
        assert stage.settings == chosen.completed(1, ["a"], tmp_path)
        assert all(field.description for field in module.Settings.model_fields.values())
    # a setting of one of them makes it a stage
    short = load(
        tmp_path, recipe_text(["a"], "file", {"dedup_fuzzy.similarity": "0.8", "filter.preset": "pangu-alpha"})
    )
    assert [stage.kind for stage in short.stages][:5] == ["read", "clean", "filter", "dedup_exact", "dedup_fuzzy"]
    assert short.stages[4].settings.model_dump()["similarity"] == 0.8


def test_template_refuses_unknown_setting() -> None:
    with pytest.raises(UserError, match=r"clean\.nonsense"):
        recipe_text(["a"], "file", {"clean.nonsense": "1"})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("minimum_characters: 20", "minimum_charcters: 20", r":6: .*did you mean 'minimum_characters'"),
        ("minimum_characters: 20", "minimum_han_share: 1.5", r":6: .*nearest: 1"),
        ("minimum_characters: 20", "minimum_characters: many", "'many' is not a whole number"),
        ("- dedup_exact", "- dedup_exakt", r"unknown stage 'dedup_exakt'; did you mean 'dedup_exact'"),
        ("  - read\n", "", "the first stage"),
        ("- dedup_exact", "- pack", "'pack' needs a stage 'tokenizer' before it"),
        ("- dedup_exact", "- clean", "'clean' is used twice"),
        ("paths: news.jsonl", "path: news.jsonl", "path': is unknown; did you mean 'paths'"),
        ("paths: news.jsonl", "paths: n, format: jsnl", "did you mean 'jsonl'"),
        ("sources:", "memory: 3 bananas\nsources:", "is not a size; write it like 4GB"),
        ("sources:", "memory: 1MB\nsources:", "nearest: 512MB"),
        ("sources:", "engine: lokal\nsources:", "did you mean 'local'"),
        ("sources:", "workers: 0\nsources:", "nearest: 1"),
        ("sources:", "workers: many\nsources:", "'many' is neither auto nor a number of processes"),
        ("sources:", "seed: 1\nseed: 2\nsources:", ":3: the key 'seed' stands twice"),
        (
            "sources:",
            "seed: 2020-99-99\nsources:",
            "seed': 2020-99-99 is not a date: month must be in 1..12",
        ),
        ("sources:", f"seed: {'9' * 5000}\nsources:", "larger than any size"),
        ("sources:", f"seed: {'[' * 3000}\nsources:", "nest"),
        ("sources:", "seed: \0\nsources:", "not YAML"),
        ("minimum_characters: 20", f"minimum_characters: {'x' * 5000}", "'xxx"),
        ("sources:", "nested: &x [*x]\nsources:", "one that holds itself"),
        ("stages:", "stages: [\n", "not YAML"),
        ("  - read", "  - {read: null, clean: null}", "write `- name`"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=f"recipe.yaml.*{expected}") as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_recipes_of_the_paper_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pangu-alpha-200b", "pangu-alpha-13b"):
        assert main(["init", "--preset", name, "--corpus", "my files", "--out", f"{name}.yaml"]) == 0
        recipe = Recipe.load(tmp_path / f"{name}.yaml")
        assert all(source.paths[0].startswith("my files/") for source in recipe.sources)
        assert "mix" in [stage.kind for stage in recipe.stages]
    assert main(["init", "--preset", "nonsense", "--out", "other.yaml"]) == 2


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="init"):
        Recipe.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4 << 30), ("1.5 MB", 3 << 19), (17, 17), ("2kb", 2048), ("3GiB", 3 << 30)]
)
def test_sizes(text: str | int, value: int) -> None:
    assert parse_bytes(text) == value
