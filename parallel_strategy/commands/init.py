"""Write a commented strategy file to start from; with --copy-presets also the model's, the cluster's and the
framework's, to edit. --like starts from a strategy that ships, as the paper's for 200B. --from reads a model, or a
whole job, that others describe: a Hugging Face config.json, a MindFormers YAML, a script or line of Megatron-LM's
arguments. model.yaml comes to lie beside the strategy; its head says of every field whether it was read.

An editor checks and completes these files with the schemas that --schema writes: the first line of a file then is
`# yaml-language-server: $schema=schemas/strategy.schema.json`.

example:
  python -m parallel_strategy init strategy.yaml
  python -m parallel_strategy init --list
  python -m parallel_strategy init schemas --schema
  python -m parallel_strategy init paper.yaml --like pangu-alpha-200b-paper
  python -m parallel_strategy init strategy.yaml --model pangu-alpha-13b --cluster atlas-800t-a2-910b2
  python -m parallel_strategy init strategy.yaml --from Qwen3-8B/config.json --cluster dgx-h100
  python -m parallel_strategy init strategy.yaml --from pretrain_gpt.sh
"""

import argparse
import json
from typing import TYPE_CHECKING

from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError
from pangu.foundation.field_arguments import add_set, commented
from parallel_strategy.spec.file import SpecFile

if TYPE_CHECKING:
    from pathlib import Path

    from parallel_strategy.spec.strategy import StrategySpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategy", nargs="?", help="file to write")
    parser.add_argument("--like", metavar="STRATEGY", help="a strategy that ships; `--list` shows them")
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="config.json, MindFormers YAML, Megatron's arguments"
    )
    parser.add_argument("--model", help="preset; `--list` shows them (default pangu-alpha-2.6b)")
    parser.add_argument("--cluster", help="preset (default atlas-800-910a)")
    parser.add_argument("--framework", help="preset (default mindspore)")
    add_set(parser, "mesh.pp 2")
    parser.add_argument(
        "--copy-presets", action="store_true", help="also write model.yaml, cluster.yaml and framework.yaml beside it"
    )
    parser.add_argument("--overwrite", "--force", action="store_true", help="replace files that exist")
    parser.add_argument("--list", action="store_true", help="the presets, and nothing else")
    parser.add_argument(
        "--schema", action="store_true", help="JSON schemas of all four kinds of file, into this directory"
    )


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from parallel_strategy.report.output import write_whole
    from parallel_strategy.search.first import HEAD, Presets, first_strategy
    from parallel_strategy.spec.cluster import ClusterSpec
    from parallel_strategy.spec.framework import FrameworkSpec
    from parallel_strategy.spec.model import ModelSpec
    from parallel_strategy.spec.schema import SCHEMAS, schema_of
    from parallel_strategy.spec.strategy import StrategySpec

    if arguments.strategy is None and not arguments.list:
        raise UserError("init: give the file to write, or --list")
    if arguments.schema:
        for name, kind in SCHEMAS.items():
            target = Path(arguments.strategy) / f"{name}.schema.json"
            write_whole(target, json.dumps(schema_of(kind), indent=1) + "\n")
            print_translated(f"wrote {target}")
        return 0
    if arguments.list:
        kinds: dict[str, type[SpecFile]] = {
            "models": ModelSpec, "clusters": ClusterSpec, "frameworks": FrameworkSpec, "strategies": StrategySpec,
        }  # fmt: skip
        for title, kind in kinds.items():
            print(f"{title}: {', '.join(kind.preset_names())}")
        return 0
    if arguments.source is not None:
        from parallel_strategy.importing.write import import_files  # nothing else here needs its readers

        if arguments.like is not None or arguments.model is not None or arguments.copy_presets:
            raise UserError("init: --from says the model; leave out --like, --model and --copy-presets")
        files, lines = import_files(arguments)
        write_files(files, force=arguments.overwrite)
        print("\n".join(lines))
        return 0
    arguments.model = arguments.model or "pangu-alpha-2.6b"
    arguments.cluster, arguments.framework = arguments.cluster or "atlas-800-910a", arguments.framework or "mindspore"
    model, cluster = ModelSpec.preset(arguments.model), ClusterSpec.preset(arguments.cluster)
    FrameworkSpec.preset(arguments.framework)
    strategy = first_strategy(
        model, cluster, {"preset": arguments.model}, Presets(arguments.cluster, arguments.framework), arguments.set
    )
    path = Path(arguments.strategy)
    files = {}
    if arguments.copy_presets:
        if arguments.like is not None:
            raise UserError("init: give --like or --copy-presets, not both")
        for name, chosen, kind in (
            ("model", arguments.model, ModelSpec),
            ("cluster", arguments.cluster, ClusterSpec),
            ("framework", arguments.framework, FrameworkSpec),
        ):
            files[path.parent / f"{name}.yaml"] = _preset_text(kind, chosen)
        strategy = with_files(strategy)
    if arguments.like is not None:
        StrategySpec.preset(arguments.like)
        files[path] = _preset_text(StrategySpec, arguments.like)
    else:
        files[path] = HEAD + commented(strategy, hides_null=True)
    write_files(files, force=arguments.overwrite)
    return 0


def write_files(files: "dict[Path, str]", *, force: bool) -> None:
    """Write all files or none. Raises UserError where one exists and may not be replaced."""
    from parallel_strategy.report.output import write_whole

    for target in files:
        if target.exists() and not force:
            raise UserError(f"{target}: exists; --overwrite replaces it")
    for target, content in files.items():
        write_whole(target, content)
        print_translated(f"wrote {target}")


def with_files(strategy: "StrategySpec") -> "StrategySpec":
    """Return the same strategy with the files beside it in place of presets."""
    model = strategy.model.model_copy(update={"preset": None, "file": "model.yaml"})
    cluster = strategy.cluster.model_copy(update={"preset": None, "file": "cluster.yaml"})
    return strategy.model_copy(update={"model": model, "cluster": cluster, "framework": "framework.yaml"})


def _preset_text(kind: type[SpecFile], name: str) -> str:
    return (kind.presets_directory() / f"{name}.yaml").read_text(encoding="utf-8")
