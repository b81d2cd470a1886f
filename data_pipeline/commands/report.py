"""Write one HTML page about a run: the funnel by stage and rule, sources, languages, signals with their thresholds,
samples, clusters of duplicates, hits of the decontamination. It needs no network and no other file.

python -m data_pipeline report corpus
python -m data_pipeline report corpus --out /tmp/corpus.html --samples 10
"""

import argparse
import dataclasses
import json
from pathlib import Path

from data_pipeline.engine.output_place import run_directory
from pangu.foundation.best_effort import print_translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=run_directory, metavar="OUT", help="the output directory of a run")
    parser.add_argument("--out", type=Path, help="where the page goes (OUT/report.html)")
    parser.add_argument("--samples", type=int, default=5, help="samples of each rule (5)")
    parser.add_argument("--maximum", default="4MB", help="size of the page at most; samples are left out first (4MB)")
    parser.add_argument("--json", action="store_true", help="say as JSON what was written")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.run_files import write_whole
    from data_pipeline.engine.steps import parse_bytes
    from pangu.foundation.errors import UserError

    if arguments.samples < 0:
        raise UserError(f"--samples {arguments.samples}: nearest: 0")
    try:
        limit = parse_bytes(arguments.maximum)
    except ValueError as error:
        raise UserError(f"--maximum: {error}") from error
    page, samples = bounded_page(arguments.run, arguments.samples, limit)
    out = arguments.out or arguments.run / "report.html"
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the directory {out.parent} does not exist")
    write_whole(out, page)
    if arguments.json:
        print(json.dumps({"out": str(out), "bytes": len(page.encode()), "samples": samples}))
    else:
        print_translated(f"{out}: {len(page.encode()) / 1e6:.1f} MB, {samples} samples of each rule")
    return 0


def bounded_page(root: Path, samples: int, limit: int) -> tuple[str, int]:
    """Return (page, samples of each rule): fewer and shorter samples until the page is small enough."""
    from data_pipeline.engine.browse import reading
    from data_pipeline.report.collect import Amounts, collect
    from data_pipeline.report.page import render
    from pangu.foundation.errors import UserError

    amounts = Amounts(samples=samples)
    with reading(root):
        report = collect(root, amounts)
    while True:
        page = render(report, amounts)
        size = len(page.encode())
        if size <= limit:
            return page, amounts.samples
        if not amounts.samples and amounts.characters < 50:
            raise UserError(f"--maximum: the page has {size:,} bytes without any sample; more than that is right")
        amounts = dataclasses.replace(
            amounts,
            samples=amounts.samples // 2,
            clusters=amounts.clusters // 2,
            hits=amounts.hits // 2,
            characters=amounts.characters // 2,
        )
        report = dataclasses.replace(
            report,
            samples=[
                dataclasses.replace(one, dropped=one.dropped[: amounts.samples], kept=one.kept[: amounts.samples])
                for one in report.samples
            ],
            clusters=report.clusters[: amounts.clusters],
            hits=report.hits[: amounts.hits],
        )
