"""Plan, emulate, prove and export parallel strategies.

From Python:

    import parallel_strategy
    print(parallel_strategy.predict("strategy.yaml").seconds)
    parallel_strategy.search("strategy.yaml").save("best.yaml")
"""

import sys
import types
from typing import Any

from pangu.foundation.errors import UserError
from pangu.foundation.version import __version__

__all__ = ["UserError", "__version__", "predict", "search"]


class _Package(types.ModuleType):
    """The package: `predict` and `search` are functions, also after their modules were imported.

    Importing `parallel_strategy.search.find` sets an attribute `search` of the package to that folder. These properties
    stand before it, and take no notice of being set.
    """

    @property
    def predict(self) -> Any:
        """Price a strategy file; see `parallel_strategy.door`."""
        from parallel_strategy.door import predict

        return predict

    @predict.setter
    def predict(self, module: types.ModuleType) -> None:
        pass

    @property
    def search(self) -> Any:
        """Search strategies; see `parallel_strategy.door`."""
        from parallel_strategy.door import search

        return search

    @search.setter
    def search(self, module: types.ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
