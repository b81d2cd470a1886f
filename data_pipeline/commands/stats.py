"""The funnel of a run: what went into each stage, what came out, and why the rest was dropped.

python -m data_pipeline stats corpus
python -m data_pipeline stats corpus --tokenizer vocab.model   # tokens by source, with any tokenizer
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.engine.output_place import run_directory
from pangu.foundation.best_effort import print_translated

if TYPE_CHECKING:
    from data_pipeline.engine.run_recipe import StageSummary
    from data_pipeline.report.tokens import SourceTokens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=run_directory, help="the output directory of a run")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="count the tokens of each source with this one")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.run_recipe import summarise
    from data_pipeline.report.tokens import count_tokens, packed_tokens

    summaries = summarise(arguments.out)
    if arguments.tokenizer is not None:
        rows = count_tokens(arguments.out, arguments.tokenizer)
    else:
        rows = packed_tokens(arguments.out)
    if arguments.json:
        stages = [asdict(summary) for summary in summaries]
        is_asked = arguments.tokenizer is not None
        print(json.dumps({"stages": stages, "tokens": [asdict(row) for row in rows]} if is_asked else stages))
    else:
        print_funnel(summaries)
        print_tokens(rows)
    return 0


def print_tokens(rows: "list[SourceTokens]") -> None:
    """Print how many tokens each source has; nothing where none were counted."""
    from pangu.foundation.terminal import StackedTable, console

    if not rows:
        return
    table = StackedTable("source", "documents", "MB", "tokens", "bytes a token")
    for row in rows:
        ratio = f"{row.bytes / row.tokens:.2f}" if row.tokens else ""
        table.add_row(row.source, f"{row.documents:,}", f"{row.bytes / 1e6:,.1f}", f"{row.tokens:,}", ratio)
    console().print(table)


def print_funnel(summaries: "list[StageSummary]") -> None:
    """Print a row for each stage, and below it a row for each reason."""
    from data_pipeline.engine.progress import summary_cells
    from data_pipeline.engine.run_recipe import unfinished_in_words
    from data_pipeline.stages.read.source_files import kinds_in_words
    from pangu.foundation.terminal import StackedTable, console

    warning = unfinished_in_words(summaries)
    if warning is not None:
        print_translated(warning)
    table = StackedTable("stage", "documents", "MB/s", "kept", "")
    for summary in summaries:
        table.add_row(summary.name, *summary_cells(summary))
        if summary.files:
            table.add_row(f"  [dim]files: {kinds_in_words(summary.files)}[/]", "", "", "", "")
        for reason, count in summary.dropped.items():
            table.add_row(f"  [dim]{reason}[/]", f"[dim]−{count:,}[/]", "", "", "")
        for name, value in summary.details.items():
            if isinstance(value, int) and value:
                table.add_row(f"  [dim]{name.replace('_', ' ')}[/]", f"[dim]{value:,}[/]", "", "", "")
    console().print(table)
