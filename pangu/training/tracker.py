"""Metrics for a tracking service, wandb or SwanLab, where train.yaml asks for one. Neither is ever required.

The service is told what `metrics.jsonl` holds. Once the run has begun, nothing that goes wrong there ends it.
"""

import importlib
import uuid
from pathlib import Path
from typing import Any

from pangu.config import TrackerName
from pangu.foundation.best_effort import first_line_of, warn
from pangu.foundation.errors import UserError

PROJECT = "pangu"
IDENTITY = ".tracker"  # in the run's directory: by it a run that goes on is the same one there


class Tracker:
    """One run at the service."""

    def __init__(self, name: TrackerName, run: Path, settings: dict[str, Any]) -> None:
        """settings: the configuration, as the service shows it. Raises UserError where the library is missing."""
        try:
            self.library = importlib.import_module(name)
        except ImportError:
            raise UserError(
                f"field 'track' = {name!r}: it is not installed: `pip install {name}`, or track: null"
            ) from None
        self.name, self.is_failing = name, False
        self.attempt(self.begin, run, settings)

    def begin(self, run: Path, settings: dict[str, Any]) -> None:
        path = run / IDENTITY
        if not path.is_file():
            path.write_text(uuid.uuid4().hex)
        identity, title = path.read_text(), run.absolute().name
        if self.name == "wandb":
            self.library.init(project=PROJECT, name=title, id=identity, resume="allow", dir=str(run), config=settings)
        else:
            self.library.init(
                project=PROJECT, experiment_name=title, id=identity, resume="allow", logdir=str(run), config=settings
            )

    def attempt(self, call: Any, *arguments: Any, **named: Any) -> None:
        """Call something of the service; the first failure is one warning."""
        try:
            call(*arguments, **named)
        except Exception as error:
            if not self.is_failing:
                warn(f"warning: {self.name}: {first_line_of(error)}; training goes on without it")
            self.is_failing = True

    def log(self, step: int, values: dict[str, float]) -> None:
        if values:
            self.attempt(self.library.log, values, step=step)

    def close(self) -> None:
        self.attempt(self.library.finish)
