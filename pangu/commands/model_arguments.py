"""Arguments of the verbs that compute with a model, and the model that they name."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pangu.language_model import LanguageModel


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is asked where weights do not say it."""
    parser.add_argument("--network", metavar="MODEL", help="model.yaml or a size, where the weights do not say it")
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer directory or .model file (default: the run's)")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["CPU", "Ascend", "GPU"], default="CPU", help="default: CPU")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `load_model` reads beside `model`."""
    add_loading_arguments(parser)
    add_device_argument(parser)
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="texts at a time (default: 8)")


def load_model(arguments: argparse.Namespace) -> "LanguageModel":
    """Return the model that the arguments name. Raises UserError."""
    from pangu.language_model import load  # start-up time

    return load(
        arguments.model,
        model=arguments.network,
        tokenizer=arguments.tokenizer,
        device=arguments.device,
        batch_size=arguments.batch_size,
    )
