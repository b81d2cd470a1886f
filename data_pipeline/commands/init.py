"""Write a commented recipe with every setting and its default.

python -m data_pipeline init --corpus news/ 'books/*.txt.gz' --out recipe.yaml
python -m data_pipeline init --preset pangu-alpha-200b --corpus sources/ --out recipe.yaml
"""

import argparse
import os
from pathlib import Path

from pangu.foundation.best_effort import print_translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", metavar="NAME", help="a whole recipe: pangu-alpha-200b or pangu-alpha-13b (the paper's corpora)"
    )
    parser.add_argument("--corpus", nargs="+", default=["corpus"], metavar="PATH", help="files, directories or globs")
    parser.add_argument("--out", type=Path, default=Path("recipe.yaml"), help="where the recipe goes (recipe.yaml)")
    parser.add_argument(
        "--split", choices=("file", "paragraph", "line"), default="file", help="what a document of a TXT file is"
    )
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("STAGE.FIELD", "VALUE"),
        help="a setting other than its default",
    )
    parser.add_argument("--overwrite", "--force", action="store_true", help="overwrite a recipe that is there")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.run_files import write_whole
    from data_pipeline.recipe import Recipe
    from data_pipeline.recipe_template import preset_text, recipe_text
    from pangu.foundation.errors import UserError

    if arguments.out.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.out}: is there already; --overwrite replaces it, --out gives another name")
    directory = arguments.out.resolve().parent
    paths = [os.path.relpath(Path(path).expanduser().absolute(), directory) for path in arguments.corpus]
    if arguments.preset is None:
        text = recipe_text(paths, arguments.split, dict(arguments.set))
    else:
        if arguments.set or len(paths) > 1:
            raise UserError("--preset: takes one --corpus, the folder of its sources, and no --set; edit the recipe")
        text = preset_text(arguments.preset, paths[0])
    Recipe.parse(text, arguments.out)  # a setting that is wrong leaves no file
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be made: {error.strerror}") from error
    write_whole(arguments.out, text)
    print_translated(f"{arguments.out}: written; next: python -m data_pipeline run {arguments.out} --out OUT")
    return 0
