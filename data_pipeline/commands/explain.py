"""Say why a stage is stale: which setting, code, input or missing file makes it run again.

python -m data_pipeline explain recipe.yaml --out corpus
"""

import argparse
from pathlib import Path

from data_pipeline.engine.output_place import run_directory
from pangu.foundation.best_effort import print_translated
from pangu.foundation.field_arguments import add_set


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="recipe.yaml; `init` writes one")
    add_set(parser, "clean.minimum_characters 20")
    parser.add_argument("--out", type=run_directory, required=True, help="the output directory of the run")
    parser.add_argument("--stage", help="this stage only")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.preview import preview
    from data_pipeline.recipe import Recipe
    from pangu.foundation.errors import UserError

    recipe = Recipe.load(arguments.recipe, arguments.set)
    names = [stage.name for stage in recipe.stages]
    if arguments.stage is not None and arguments.stage not in names:
        raise UserError(f"--stage {arguments.stage}: the stages of {arguments.recipe} are {', '.join(names)}")
    for state in preview(recipe, arguments.out):
        if arguments.stage in (None, state.stage):
            print_translated(f"{state.name}: {state.in_words()}")
            for reason in state.reasons if state.tasks is not None else ():
                print_translated(f"  {reason}")
    return 0
