"""JSON as RFC 8259 has it: a number that is not finite is null, which every reader takes."""

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """Return the same lists and mappings with None for NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def dumps(value: Any, **options: Any) -> str:
    """Return `json.dumps` of what is finite."""
    return json.dumps(finite(value), allow_nan=False, **options)
