"""The pipeline from Python: run a recipe, extract a page, read what came out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.engine.run_recipe import StageSummary
    from data_pipeline.extraction.extract import Extraction


def run(
    recipe: Path | str, out: Path | str, *, workers: int | None = None, changes: list[tuple[str, str]] | None = None
) -> "list[StageSummary]":
    """Run a recipe into a directory, or to a URL, and return what each stage kept and dropped.

    workers: processes; the result does not depend on it. changes: (field, value) pairs, as `--set`. What is up to date
    is not done again. Raises UserError in one line.
    """
    from data_pipeline.engine import remote_output, run_recipe
    from data_pipeline.engine.output_place import as_url, run_directory
    from data_pipeline.engine.progress import Quiet
    from data_pipeline.recipe import Recipe

    loaded = Recipe.load(Path(recipe), changes or [])
    if workers is not None:
        loaded = replace(loaded, workers=workers)
    summaries = run_recipe.run(loaded, run_directory(out), Quiet())
    url = as_url(out)
    if url is not None:
        remote_output.copy(run_directory(out), url)
    return summaries


def extract(html: bytes | str, url: str | None = None, *, format: str = "text") -> "Extraction":
    """Take the main text out of a page. format: text or markdown. Raises UserError for another."""
    from data_pipeline.extraction.extract import PLAIN, Form
    from data_pipeline.extraction.extract import extract as take
    from pangu.foundation.errors import UserError

    if format not in ("text", "markdown"):
        raise UserError(f"format {format!r}: must be text or markdown")
    form = PLAIN if format == "text" else Form(format="markdown")
    if isinstance(html, str):  # whatever charset it declares
        return take(html.encode("utf-8"), url, "text/html; charset=utf-8", form)
    return take(html, url, form=form)


def documents(out: Path | str, *, rejects: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the documents that a run kept, or those that it dropped with their reasons, as dictionaries."""
    from data_pipeline.engine.browse import reading, records
    from data_pipeline.engine.output_place import run_directory
    from data_pipeline.engine.run_recipe import open_manifest

    folder = run_directory(out)
    open_manifest(folder).close()
    with reading(folder):
        yield from records(tuple(sorted((folder / ("rejects" if rejects else "documents")).glob("*.parquet"))))
