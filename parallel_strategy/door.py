"""The planner from Python: a strategy file in, an object out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from parallel_strategy.predict import Prediction
    from parallel_strategy.search.find import Found


@dataclass(frozen=True)
class Predicted:
    """A priced strategy. priced_only: what of it the framework cannot execute, a line each."""

    prediction: "Prediction"
    priced_only: list[str]

    @property
    def seconds(self) -> float:
        """Return the time of a step, in seconds."""
        return float(self.prediction.seconds)

    @property
    def gib(self) -> float:
        """Return the memory of the fullest device, in GiB."""
        return float(self.prediction.gib)

    @property
    def fits(self) -> bool:
        """Return whether that is no more than a device can use."""
        return self.gib <= self.prediction.usable_gib

    def to_dict(self) -> dict[str, Any]:
        """Return what `predict --json` prints."""
        from parallel_strategy.report.terminal_tables import summary
        from parallel_strategy.spec.unpriced import unpriced

        left_out = unpriced(self.prediction.setup)
        return {**summary(self.prediction), "priced_only": self.priced_only, "not_priced": left_out}


@dataclass(frozen=True)
class Searched:
    """What a search found, the best first."""

    found: "Found"

    @property
    def best(self) -> list[Predicted]:
        """Return the strategies that fit, the fastest first."""
        from parallel_strategy.spec.capability import outside

        return [Predicted(one, outside(one.setup)) for one in self.found.best]

    def to_dict(self) -> dict[str, Any]:
        """Return the number of candidates and every figure of the best."""
        return {"candidates": self.found.candidates, "best": [one.to_dict() for one in self.best]}

    def save(self, path: Path | str) -> None:
        """Write the winner's strategy file. Raises UserError where nothing fits."""
        from parallel_strategy.report.output import write_whole

        if not self.found.best:
            raise UserError("no strategy fits; there is none to write")
        write_whole(Path(path), self.found.best[0].setup.strategy.dump())


def predict(
    strategy: Path | str, *, calibration: Path | str | None = None, changes: Sequence[Sequence[str]] = ()
) -> Predicted:
    """Price a strategy file. changes: (field, value) pairs, as `--set`. Raises UserError in one line."""
    from parallel_strategy.loading import load_prediction
    from parallel_strategy.spec.capability import outside

    prediction = load_prediction(str(strategy), str(calibration) if calibration else None, changes)
    return Predicted(prediction, outside(prediction.setup))


def search(
    strategy: Path | str,
    *,
    keep: int = 10,
    margin: float = 0.0,
    changes: Sequence[Sequence[str]] = (),
    **limits: Any,
) -> Searched:
    """Search the best strategies for a file's model, cluster and framework.

    keep: how many. margin: the share of memory to leave free. limits: those of `search.bounds.space_of`, e.g. tp=[4].
    Raises UserError in one line, also where nothing is legal.
    """
    from parallel_strategy.loading import load_setup
    from parallel_strategy.search.bounds import space_of
    from parallel_strategy.search.find import search as find

    if keep < 1 or not 0 <= margin < 1:
        raise UserError(f"keep = {keep}, margin = {margin:g}: must be at least 1, and from 0 to below 1")
    setup = load_setup(str(strategy), devices=limits.get("devices"), changes=changes)
    found = find(setup, space_of(setup, **limits), keep=keep, margin=margin)
    if not found.candidates:
        raise UserError(f"{strategy}: no legal strategy within the limits given")
    return Searched(found)
