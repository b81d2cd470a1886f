"""From raw Chinese pages to packed training samples.

From Python:

    import data_pipeline
    data_pipeline.run("recipe.yaml", "corpus")
    print(data_pipeline.extract(open("page.html", "rb").read()).text)
    for document in data_pipeline.documents("corpus"): ...
"""

import importlib
from typing import Any

from pangu.foundation.errors import UserError
from pangu.foundation.version import __version__

__all__ = ["UserError", "__version__", "documents", "extract", "run"]


def __getattr__(name: str) -> Any:
    if name not in ("documents", "extract", "run"):
        raise AttributeError(f"module 'data_pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module("data_pipeline.door"), name)
