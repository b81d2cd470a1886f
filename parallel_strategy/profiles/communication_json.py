"""Ascend's `communication.json`: what each rank sent over which links, and in what time."""

import math
import re
from collections.abc import Iterator
from typing import Any

from pangu.foundation.errors import UserError
from parallel_strategy.measure.timed_kernels import Collected
from parallel_strategy.profiles.ascend_tables import COLLECTIVES
from parallel_strategy.profiles.seen import LARGEST, Seen, SeenLink

KINDS = ("HCCS", "PCIE", "RDMA", "SIO")
ELAPSED, TRANSIT, WAIT = "Elapse Time(ms)", "Transit Time(ms)", "Wait Time(ms)"


def read_communication(document: Any) -> Seen:
    """Return collectives and links. Raises UserError for a document that is none of these."""
    seen = Seen()
    for group, op, ranks in _operators(document):
        members = len(re.findall(r"\d+", group)) or (len(ranks) if len(ranks) > 1 else 0)
        best = math.inf
        for said in ranks.values():
            times = _mapping(said.get("Communication Time Info"))
            moved = _mapping(said.get("Communication Bandwidth Info"))
            elapsed, wait = _number(times.get(ELAPSED)), _number(times.get(WAIT))
            if elapsed:
                best = min(best, max(elapsed - wait, 0.0) or elapsed)
            for kind in KINDS:
                link = _mapping(moved.get(kind))
                size, seconds = _number(link.get("Transit Size(MB)")), _number(link.get("Transit Time(ms)")) * 1e-3
                if size > 0 and seconds > 0:
                    seen.links.append(SeenLink(kind, size, seconds))
        if math.isfinite(best):
            seen.collectives.append(Collected(op, members, 0.0, best * 1e-3))
    if not len(seen):
        raise UserError("has no collective with a time")
    return seen


def _operators(document: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (group, operation, {rank: what it saw}) of a file of one rank or of a whole cluster."""
    if not isinstance(document, dict):
        raise UserError("is no mapping of groups to steps")
    for group, steps in document.items():
        for kinds in steps.values() if isinstance(steps, dict) else ():
            for name, said in _named(kinds):
                op = _operation(name)
                if op is None or not isinstance(said, dict):
                    continue
                ranks = {"": said} if "Communication Time Info" in said else said
                plain = {rank: one for rank, one in ranks.items() if isinstance(one, dict)}
                yield str(group), op, plain


def _named(kinds: Any) -> Iterator[tuple[str, Any]]:
    """Yield operators, also those that lie one level deeper under `collective` and `p2p`."""
    for name, said in kinds.items() if isinstance(kinds, dict) else ():
        if name in ("collective", "p2p") and isinstance(said, dict):
            yield from said.items()
        else:
            yield name, said


def _operation(name: str) -> str | None:
    plain = name.lower().replace("_", "").removeprefix("hcom")
    return next((op for word, op in COLLECTIVES.items() if plain.startswith(word)), None)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < LARGEST else 0.0
