"""Numbers that divide others, and layers over stages."""

import math


def even_stages(num_layers: int, pp: int) -> list[int]:
    """Return the layers per stage, the remainder on the middle stages: the first holds the embedding, the last the
    head."""
    base, extra = divmod(num_layers, pp)
    first = (pp - extra) // 2
    return [base + (1 if first <= stage < first + extra else 0) for stage in range(pp)]


def divisors(number: int) -> list[int]:
    """Return all of them, smallest first."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def nearest(legal: list[int], value: int) -> int:
    return min(legal, key=lambda candidate: (abs(candidate - value), candidate))
