"""Which extra of the project brings a Python module, as the installed project says of itself."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import metadata

PROJECT = "pangu-alpha"
# Modules that are not called like what installs them.
DISTRIBUTIONS = {"ahocorasick": "pyahocorasick", "yaml": "pyyaml", "google": "protobuf"}
# The extra of each package's command line.
OWN = {"pangu": "pangu", "data_pipeline": "data", "parallel_strategy": "plan"}
_EXTRA = re.compile(r"""([\w.-]+)(?:\[([\w.,-]+)\])?.*\bextra == ["']([\w-]+)["']""")


def extra_of(module: str, package: str, verb: str | None) -> str | None:
    """Return the extra that a user of this verb wants for a missing module; None where no extra has it."""
    try:
        requirements = metadata.requires(PROJECT) or ()
    except metadata.PackageNotFoundError:  # run from a folder, never installed
        return None
    name = module.partition(".")[0]
    return chosen(DISTRIBUTIONS.get(name, name), requirements, [verb or "", OWN.get(package, ""), "report"])


def chosen(distribution: str, requirements: Iterable[str], preferred: Sequence[str]) -> str | None:
    """Return the first of the preferred extras that brings a distribution, else the smallest that does."""
    brought: dict[str, set[str]] = defaultdict(set)
    included: dict[str, set[str]] = defaultdict(set)
    for requirement in requirements:
        match = _EXTRA.match(requirement)
        if match and match[1].lower() == PROJECT:
            included[match[3]].update((match[2] or "").split(","))
        elif match:
            brought[match[3]].add(match[1].lower().replace("_", "-"))

    def everything(extra: str) -> set[str]:
        return brought[extra].union(*(everything(one) for one in included[extra]))

    wanted = distribution.lower().replace("_", "-")
    having = {extra: len(everything(extra)) for extra in {*brought, *included} if wanted in everything(extra)}
    return next((extra for extra in preferred if extra in having), min(having, key=having.__getitem__, default=None))
