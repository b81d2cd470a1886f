"""The recipe that `init` writes: every stage, every setting with its default and what it means.

The stages that not every corpus needs stand there as comments."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.engine.steps import StageSettings
from data_pipeline.stages import load_stage
from pangu.foundation.errors import UserError
from pangu.foundation.translation import translated

RECIPES = Path(__file__).parent / "recipes"

# the stages of a new recipe, each with the line that explains it
DEFAULT_STAGES = {
    "read": "files to records; what cannot be read goes to the rejects with file and byte",
    "clean": "the rules of the PanGu-alpha paper",
    "dedup_exact": "of documents that are the same, keep one",
    "tokenizer": "train one on the documents that are left (or `use` one that exists)",
    "pack": "samples for training, as MindRecord",
}

# further stages: the one that each stands behind, and its line. Comments, unless `settings` has something for them.
OPTIONAL_STAGES = {
    "filter": ("clean", "drop by rules over what is measured of the texts; presets with changes"),
    "quality": ("clean", "drop what models find bad: spam and quality classifiers, perplexity; needs your examples"),
    "dedup_fuzzy": ("dedup_exact", "of documents that are nearly the same, keep the best one"),
    "dedup_paragraph": ("dedup_exact", "remove paragraphs that many documents have: headers, footers, licences"),
    "dedup_substring": ("dedup_exact", "cut out long passages that occurred before; leaves fragments of sentences"),
    "decontaminate": ("dedup_exact", "remove the text of evaluation sets; name them in `evaluation`"),
    "label": ("dedup_exact", "scores of published fastText classifiers: quality, toxicity, domain; nothing is dropped"),
    "mix": ("dedup_exact", "take sources by weights or epochs, up to a budget of tokens"),
    "export": ("pack", "the documents as JSON lines, or as a Hugging Face dataset with a card, in export/"),
    "megatron": ("pack", "the documents as Megatron's indexed dataset, in megatron/"),
}


def preset_text(name: str, folder: str) -> str:
    """Return a recipe of `data_pipeline/recipes`, its sources in `folder`."""
    path = RECIPES / f"{name}.yaml"
    legal = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name not in legal:
        raise UserError(f"--preset {name}: no such recipe; legal are {', '.join(legal)}")

    def moved(match: re.Match[str]) -> str:
        return f"paths: [{_scalar(os.path.join(folder, match[1]))}]"

    return re.sub(r'paths: \["?([^"\]]*)"?\]', moved, path.read_text(encoding="utf-8"))


def recipe_text(paths: Sequence[str], split: str, settings: Mapping[str, Any]) -> str:
    """Return a commented recipe. `settings` maps `stage.field` to a value (or its YAML text) other than the default."""
    remaining = dict(settings)
    lines = [
        _comment("A recipe of data_pipeline: what goes in, and which stages it passes."),
        _comment("What stands here as a default may be left out."),
        "",
        _comment("paths: files, directories or globs, relative to this file"),
        _comment("format: auto (by file name), jsonl, csv, txt, html, warc (also WET) or parquet;"),
        _comment(".gz .zst .bz2 are recognised by their content"),
        _comment("split: what a document of a TXT file is: file, paragraph (blank lines between) or line"),
        _comment("fields: what the text, its id, title and url are called in JSONL, CSV or Parquet"),
        "sources:",
    ]
    for name, path in zip(_names(paths), paths, strict=True):
        lines += [
            f"  - name: {_scalar(name)}",
            f"    paths: [{_scalar(path)}]",
            "    format: auto",
            f"    split: {split}",
            "    fields: {text: text, id: id, title: title, url: url}",
        ]
    lines += [
        "",
        _comment(
            "preset: what is good text to clean and filter: web, technical, poetry, classical, dialogue, pangu-alpha"
        ),
        _comment("(a source may have its own `preset`)"),
        "preset: web",
        f"seed: 1          {_comment('of everything that is drawn or shuffled')}",
        f"engine: local    {_comment('or spark')}",
        f"memory: 4GB      {_comment('for everything together')}",
        f"workers: auto    {_comment('processes; the result does not depend on it')}",
        "",
        "stages:",
    ]
    for stage, purpose in DEFAULT_STAGES.items():
        lines += [*_stage_lines(stage, purpose, remaining), ""]
        for optional, (before, its_purpose) in OPTIONAL_STAGES.items():
            if before == stage:
                is_wanted = any(name.startswith(f"{optional}.") for name in remaining)
                own = _stage_lines(optional, its_purpose, remaining)
                lines += [*(own if is_wanted else [f"  # {line[2:]}" for line in own]), ""]
    if remaining:
        stages = [*DEFAULT_STAGES, *OPTIONAL_STAGES]
        legal = [f"{stage}.{name}" for stage in stages for name in load_stage(stage).Settings.model_fields]
        name = next(iter(remaining))
        close = difflib.get_close_matches(name, legal, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"legal are {', '.join(legal)}"
        raise UserError(f"--set {name}: no such setting; {hint}")
    return "\n".join(lines).rstrip() + "\n"


def _comment(words: str) -> str:
    """Return a comment of YAML in the language of the process."""
    return f"# {translated(words)}"


def _stage_lines(stage: str, purpose: str, remaining: dict[str, Any]) -> list[str]:
    """Return a stage with all its settings; those given are taken out of `remaining`."""
    lines = [f"  - {stage}:  {_comment(purpose)}"]
    settings = load_stage(stage).Settings
    has_presets = settings.with_presets is not StageSettings.with_presets
    for name, field in settings.model_fields.items():
        value = remaining.pop(f"{stage}.{name}", None)
        text = _flow(field.default) if value is None else value if isinstance(value, str) else _flow(value)
        # what a preset may set otherwise stays a comment
        mark = "# " if has_presets and value is None else ""
        lines += [f"      {_comment(field.description or '')}", f"      {mark}{name}: {text}"]
    return lines


def _names(paths: Sequence[str]) -> list[str]:
    """Return a name for each path, from its last part that is not a glob; numbered where two are the same."""
    names: list[str] = []
    for path in paths:
        parts = [part for part in Path(path).parts if not re.search(r"[*?\[]", part) and part not in (".", "..", "/")]
        stem = parts[-1].split(".")[0] if parts else "corpus"
        name, number = stem or "corpus", 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names


def _flow(value: Any) -> str:
    """Return a default as YAML on one line."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"{value >> 20}MB"
    return json.dumps(value, ensure_ascii=False)


def _scalar(text: str) -> str:
    return yaml.safe_dump(
        text, default_style=None if re.fullmatch(r"[\w./-]+", text) else '"', allow_unicode=True, width=10**6
    ).split("\n")[0]
