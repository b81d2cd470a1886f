"""Write a commented train.yaml with every default.

python -m pangu init train.yaml --data corpus/packed --out runs/first --model tiny
"""

import argparse
from pathlib import Path

from pangu.config import TrainConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError
from pangu.foundation.field_arguments import add_set, commented
from pangu.foundation.settings import changed, checked
from pangu.foundation.yaml_document import YamlDocument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="file to write, e.g. train.yaml")
    parser.add_argument("--data", default="corpus/packed", help="packed corpus")
    parser.add_argument("--out", default="runs/first", help="directory of the run")
    parser.add_argument("--model", default="tiny", help="size or model.yaml")
    add_set(parser, "learning_rate.peak 3e-4")
    parser.add_argument("--overwrite", "--force", action="store_true", help="replace a file that is there")


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file)
    if path.exists() and not arguments.overwrite:
        raise UserError(f"{path}: is there already; --overwrite replaces it")
    fields: dict = {"data": arguments.data, "out": arguments.out, "model": arguments.model}
    config = checked(TrainConfig, changed(YamlDocument("--set", fields), arguments.set))
    head = "# One training run: python -m pangu train " + path.name + "\n"
    write_whole(path, head + commented(config))
    print_translated(f"wrote {path}")
    return 0
