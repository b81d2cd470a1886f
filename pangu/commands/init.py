"""Write a commented train.yaml with every default.

python -m pangu init train.yaml --data corpus/packed --out runs/first --model tiny
"""

import argparse
from pathlib import Path

import yaml
from pydantic import BaseModel

from pangu.config import TrainConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="file to write, e.g. train.yaml")
    parser.add_argument("--data", default="corpus/packed", help="packed corpus")
    parser.add_argument("--out", default="runs/first", help="directory of the run")
    parser.add_argument("--model", default="tiny", help="size or model.yaml")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help="a value other than the default"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def commented_yaml(config: BaseModel, indent: str = "") -> str:
    """YAML of a configuration with each field's description as a comment."""
    lines = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            summary = (type(value).__doc__ or "").split("\n")[0].split(" (`")[0].rstrip(".")
            lines += [f"{indent}{name}:  # {summary}", commented_yaml(value, indent + "  ").rstrip("\n")]
            continue
        text = yaml.safe_dump({name: value}, allow_unicode=True).strip()
        comment = f"  # {field.description}" if field.description else ""
        lines.append(f"{indent}{text}{comment}")
    return "\n".join(lines) + "\n"


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file)
    if path.exists() and not arguments.force:
        raise UserError(f"{path}: is there already; --force replaces it")
    fields: dict = {"data": arguments.data, "out": arguments.out, "model": arguments.model}
    for name, value in arguments.set:
        *outer, last = name.split(".")
        place = fields
        for key in outer:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {name}: {key} is set to a value, and has no field {last!r}")
        try:
            place[last] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"--set {name}: {value!r} is not YAML: {' '.join(str(error).split())}") from None
    config = TrainConfig.from_fields(fields, "--set")
    head = "# One training run: python -m pangu train " + path.name + "\n"
    write_whole(path, head + commented_yaml(config))
    print(f"wrote {path}")
    return 0
