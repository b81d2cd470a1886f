"""Run a recipe. What is up to date is reused; after an interruption, of whatever kind, the same command goes on.

    python -m data_pipeline run recipe.yaml --out corpus

The output directory then holds `documents/` (what was kept, Parquet), `rejects/` (what was dropped, with the reason),
`tokenizer/` and `packed/` (if the recipe has those stages), and what makes the next run fast (`stages/`,
`manifest.sqlite`).

--out s3://bucket/corpus (hdfs://, …) works in a directory of this machine, --work, and copies what it publishes;
`manifest.json` there says `complete` when all of it has arrived."""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.engine.output_place import as_url, run_directory
from pangu.foundation.best_effort import print_translated, warn
from pangu.foundation.field_arguments import add_set

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="recipe.yaml; `init` writes one")
    add_set(parser, "clean.minimum_characters 20")
    parser.add_argument("--out", type=_directory, required=True, help="the output directory, a path or a URL")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where a run works whose --out is a URL (~/.cache/pangu-alpha/runs/…)"
    )
    parser.add_argument("--engine", choices=("local", "spark"), help="where it runs; the default is the recipe's")
    parser.add_argument("--workers", type=int, help="processes; the result does not depend on it")
    parser.add_argument("--memory", help="for everything together, like 4GB; the default is the recipe's")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument(
        "--verify", action="store_true", help="read every earlier output again and redo what is damaged"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _directory(text: str) -> str:
    """Return the path or URL; an empty name, such as that of an unset variable, is not the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine import progress, remote_output, run_recipe
    from data_pipeline.recipe import Recipe, default_workers, parse_memory
    from pangu.foundation.errors import UserError

    start = time.perf_counter()
    recipe = Recipe.load(arguments.recipe, arguments.set)
    if arguments.memory:
        try:
            memory = parse_memory(arguments.memory)
        except ValueError as error:
            raise UserError(f"--memory: {error}") from error
        recipe = replace(recipe, memory=memory, workers=min(recipe.workers, default_workers(memory)))
    if arguments.engine is not None:
        recipe = replace(recipe, engine=arguments.engine)
    if arguments.workers is not None:
        if arguments.workers < 1:
            raise UserError(f"--workers {arguments.workers}: nearest: 1")
        recipe = replace(recipe, workers=arguments.workers)
    names = [stage.name for stage in recipe.stages]
    if arguments.until is not None and arguments.until not in names:
        raise UserError(f"--until {arguments.until}: the stages of {arguments.recipe} are {', '.join(names)}")
    url = as_url(arguments.out)
    if arguments.work is not None and url is None:
        raise UserError("--work: belongs to an --out that is a URL; a path is worked in itself")
    root = arguments.work or run_directory(arguments.out)
    with progress.reporter(recipe) as reporter:
        summaries = run_recipe.run(recipe, root, reporter, until=arguments.until, verify=arguments.verify)
    if url is not None and arguments.until is None:
        copied = remote_output.copy(root, url)
        warn(copied.in_words(url))
    seconds = time.perf_counter() - start
    if arguments.json:
        print(
            json.dumps(
                {"out": str(arguments.out), "seconds": round(seconds, 3), "stages": [asdict(s) for s in summaries]}
            )
        )
    else:
        from data_pipeline.commands.stats import print_funnel

        print_funnel(summaries)
        rejects = sum(sum(summary.dropped.values()) for summary in summaries)
        kept = next((summary.documents for summary in reversed(summaries) if summary.documents_in), 0)
        print_translated(f"{arguments.out}: {kept} documents, {rejects} rejects; done in {progress.duration(seconds)}")
    return 0
