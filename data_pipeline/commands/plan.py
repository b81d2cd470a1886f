"""Say what a run would do: for each stage what is up to date and what has to run, and what a mixture would take.
Nothing is written.

python -m data_pipeline plan recipe.yaml --out corpus
"""

import argparse
import json
from pathlib import Path

from data_pipeline.engine.output_place import run_directory
from pangu.foundation.best_effort import print_translated
from pangu.foundation.field_arguments import add_set
from pangu.foundation.translation import translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="recipe.yaml; `init` writes one")
    add_set(parser, "clean.minimum_characters 20")
    parser.add_argument("--out", type=run_directory, required=True, help="the output directory of the run")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.forecast import forecast
    from data_pipeline.engine.preview import preview
    from data_pipeline.engine.progress import files_in_words
    from data_pipeline.recipe import Recipe

    recipe = Recipe.load(arguments.recipe, arguments.set)
    states = preview(recipe, arguments.out)
    if arguments.json:
        print(json.dumps([state.as_dict() for state in states], ensure_ascii=False))
        return 0
    width = max(len(state.name) for state in states)
    for state in states:
        print(f"{state.name:<{width}}  {translated(state.in_words())}")
    for line in files_in_words(recipe):
        print_translated(line)
    for line in forecast(recipe, arguments.out, states):
        print_translated(line)
    return 0
