"""The files that `init --from` writes: model.yaml with its account, and a strategy that names it."""

import argparse
from pathlib import Path

from pangu.foundation.errors import PlacedError, UserError
from pangu.foundation.field_arguments import commented
from pangu.foundation.settings import changed, checked
from pangu.foundation.yaml_document import YamlDocument
from parallel_strategy.importing.imported import Imported, model_text
from parallel_strategy.importing.read import read_import
from parallel_strategy.search.first import HEAD, Presets, first_strategy, setup_of
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.strategy import StrategySpec

# Where a job of this kind runs, and under what, where the command line says nothing.
PLACES = {
    "arguments of Megatron-LM": ("dgx-h100", "megatron-core"),
    "arguments of MindSpeed": ("atlas-800t-a2-910b1", "mindspeed"),
    "a MindFormers configuration": ("atlas-800t-a2-910b1", "mindformers"),
}


def import_files(arguments: argparse.Namespace) -> tuple[dict[Path, str], list[str]]:
    """Return {file: text} and the account for the terminal. Raises UserError for what contradicts itself."""
    source, path = Path(arguments.source), Path(arguments.strategy)
    imported = read_import(source)
    cluster, framework = PLACES.get(imported.kind, ("atlas-800-910a", "mindspore"))
    arguments.cluster, arguments.framework = arguments.cluster or cluster, arguments.framework or framework
    model_file = path.parent / "model.yaml"
    if model_file == path:
        raise UserError(f"{path}: the model comes to lie in model.yaml; give the strategy another name")
    strategy = strategy_of(imported, arguments)
    head = f"# The layout that {source.name} has.\n" if imported.strategy else ""
    files = {model_file: model_text(imported, source), path: HEAD + head + commented(strategy, hides_null=True)}
    return files, imported.account()


def strategy_of(imported: Imported, arguments: argparse.Namespace) -> StrategySpec:
    """Return the layout that the file says, or where it says none, one to begin with."""
    cluster = ClusterSpec.preset(arguments.cluster)
    FrameworkSpec.preset(arguments.framework)
    choice = {"file": "model.yaml"}
    if not imported.strategy:
        place = Presets(arguments.cluster, arguments.framework)
        first = first_strategy(imported.model, cluster, choice, place, arguments.set)
        setup_of(first, imported.model, cluster)
        return first
    fields = {
        "model": choice,
        "cluster": {"preset": arguments.cluster},
        "framework": arguments.framework,
        **imported.strategy,
    }
    document = changed(YamlDocument(arguments.source, fields), arguments.set)
    strategy: StrategySpec = checked(StrategySpec, document)
    try:
        setup_of(strategy, imported.model, cluster)
    except PlacedError:
        raise
    except UserError as error:
        raise document.mistake(str(error)) from None
    return strategy
