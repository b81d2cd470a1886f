"""Arguments that several verbs have, and types of arguments: argparse names them in its errors."""

import argparse

from pangu.foundation.field_arguments import add_set


def add_strategy(parser: argparse.ArgumentParser, has_calibration: bool = False, is_optional: bool = False) -> None:
    """Add the strategy file, `--set` for its fields and, where the verb prices it, `--calibration`."""
    parser.add_argument("strategy", nargs="?" if is_optional else None, help="strategy.yaml; `init` writes one")
    add_set(parser, "mesh.tp 4")
    if has_calibration:
        parser.add_argument("--calibration", metavar="FILE", help="a file that `calibrate` wrote")


def whole_number(text: str) -> int:
    """Return a whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def share(text: str) -> float:
    """Return a number from 0 to below 1."""
    number = float(text)
    if not 0 <= number < 1:
        raise ValueError
    return number


def positive(text: str) -> float:
    """Return a finite number above 0."""
    number = float(text)
    if not 0 < number < 1e15:
        raise ValueError
    return number


def tokens(text: str) -> float:
    """Return a number of tokens: 3e11, or 300B."""
    units = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    unit = units.get(text[-1:].upper())
    number = float(text[:-1]) * unit if unit else float(text)
    if not 1 <= number < 1e20:
        raise ValueError
    return number


positive.__name__ = "number above 0"
tokens.__name__ = "number of tokens (3e11 or 300B)"
whole_number.__name__ = "whole number above 0"
share.__name__ = "share from 0 to below 1"
