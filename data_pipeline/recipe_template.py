"""The recipe that `init` writes: every stage, every setting with its default and what it means."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError
from data_pipeline.stages import load_stage

# the stages of a new recipe, each with the line that explains it
DEFAULT_STAGES = {
    "read": "files to records; what cannot be read goes to the rejects with file and byte",
    "clean": "the rules of the PanGu-alpha paper",
    "dedup_exact": "of documents that are the same, keep one",
    "tokenizer": "train one on the documents that are left (or `use` one that exists)",
    "pack": "samples for training, as MindRecord",
}


def recipe_text(paths: Sequence[str], split: str, settings: Mapping[str, Any]) -> str:
    """A commented recipe. `settings` maps `stage.field` to a value (or its YAML text) other than the default."""
    remaining = dict(settings)
    lines = [
        "# A recipe of data_pipeline: what goes in, and which stages it passes.",
        "# What stands here as a default may be left out.",
        "",
        "# paths: files, directories or globs, relative to this file",
        "# format: auto (by file name), jsonl, txt, html or parquet; .gz .zst .bz2 are recognised by their content",
        "# split: what a document of a TXT file is: file, paragraph (blank lines between) or line",
        "# fields: what the text, its id, title and url are called in JSONL or Parquet",
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
        "seed: 1          # of everything that is drawn or shuffled",
        "engine: local",
        "memory: 4GB      # for everything together",
        "workers: auto    # processes; the result does not depend on it",
        "",
        "stages:",
    ]
    for stage, purpose in DEFAULT_STAGES.items():
        lines += [f"  - {stage}:  # {purpose}"]
        for name, field in load_stage(stage).Settings.model_fields.items():
            value = remaining.pop(f"{stage}.{name}", None)
            text = _flow(field.default) if value is None else value if isinstance(value, str) else _flow(value)
            lines += [f"      # {field.description}", f"      {name}: {text}"]
        lines.append("")
    if remaining:
        legal = [f"{stage}.{name}" for stage in DEFAULT_STAGES for name in load_stage(stage).Settings.model_fields]
        raise UserError(f"--set {next(iter(remaining))}: no such setting; legal are {', '.join(legal)}")
    return "\n".join(lines).rstrip() + "\n"


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each path, from its last part that is not a glob; numbered where two are the same."""
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
    """A default as YAML on one line."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"{value >> 20}MB"
    return json.dumps(value, ensure_ascii=False)


def _scalar(text: str) -> str:
    return yaml.safe_dump(
        text, default_style=None if re.fullmatch(r"[\w./-]+", text) else '"', allow_unicode=True, width=10**6
    ).split("\n")[0]
