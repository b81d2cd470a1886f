"""Write a commented recipe with every setting and its default.

python -m data_pipeline init --corpus news/ 'books/*.txt.gz' --out recipe.yaml
"""

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--force", action="store_true", help="overwrite a recipe that is there")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.whole import write_whole
    from data_pipeline.errors import UserError
    from data_pipeline.recipe import Recipe
    from data_pipeline.recipe_template import recipe_text

    if arguments.out.exists() and not arguments.force:
        raise UserError(f"{arguments.out}: is there already; --force overwrites it, --out gives another name")
    directory = arguments.out.resolve().parent
    paths = [os.path.relpath(Path(path).expanduser().absolute(), directory) for path in arguments.corpus]
    text = recipe_text(paths, arguments.split, dict(arguments.set))
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out, text)
    Recipe.load(arguments.out)
    print(f"{arguments.out}: written; next: python -m data_pipeline run {arguments.out} --out OUT")
    return 0
