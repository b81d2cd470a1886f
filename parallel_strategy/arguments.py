"""Types of command line arguments: argparse names them in its errors."""


def whole_number(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def share(text: str) -> float:
    """From 0 to below 1."""
    number = float(text)
    if not 0 <= number < 1:
        raise ValueError
    return number


whole_number.__name__ = "whole number above 0"
share.__name__ = "share from 0 to below 1"
