"""PanGu-α: the model, and everything that is done with one.

From Python:

    import pangu
    model = pangu.load("work/run")
    print(model.generate("今天天气"))

What a name needs is imported when it is first used, so `import pangu` is as fast as `--help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pangu.foundation.version import __version__

if TYPE_CHECKING:
    from pangu.evaluation.evaluate import evaluate
    from pangu.foundation.errors import UserError
    from pangu.language_model import LanguageModel, load
    from pangu.training.door import train
    from pangu.tuning.finetune import finetune

_HOMES = {
    "LanguageModel": "pangu.language_model",
    "UserError": "pangu.foundation.errors",
    "evaluate": "pangu.evaluation.evaluate",
    "finetune": "pangu.tuning.finetune",
    "load": "pangu.language_model",
    "train": "pangu.training.door",
}

__all__ = ["LanguageModel", "UserError", "__version__", "evaluate", "finetune", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pangu' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
