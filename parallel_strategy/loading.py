"""From a strategy file to a setup, and to a priced one: what every verb begins with."""

from collections.abc import Iterable, Sequence

from parallel_strategy.mindspore.operator_splits import load_setup
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.strategy import Setup

__all__ = ["calibrated", "load_prediction", "load_setup"]


def load_prediction(strategy: str, calibration: str | None = None, changes: Iterable[Sequence[str]] = ()) -> Prediction:
    """Read and price a strategy file; `calibration` names a file whose figures for this cluster and framework are used,
    if it has any."""
    setup = load_setup(strategy, changes=changes)
    if calibration is not None:
        setup = calibrated(setup, calibration)
    return Prediction(setup)


def calibrated(setup: Setup, calibration: str) -> Setup:
    """Return the setup as a calibration file knows its cluster and framework, if it does."""
    from parallel_strategy.calibrate.fit import Calibration  # few commands ask for it

    return Calibration.load(calibration).applied(setup)
