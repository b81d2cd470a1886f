"""From a strategy file to a question, and to a priced one: what every verb begins with."""

from collections.abc import Iterable, Sequence

from parallel_strategy.mindspore.operator_splits import load_question
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.strategy import Question

__all__ = ["calibrated", "load_prediction", "load_question"]


def load_prediction(strategy: str, calibration: str | None = None, changes: Iterable[Sequence[str]] = ()) -> Prediction:
    """Read and price a strategy file; `calibration` names a file whose figures for this cluster and framework are used,
    if it has any."""
    question = load_question(strategy, changes=changes)
    if calibration is not None:
        question = calibrated(question, calibration)
    return Prediction(question)


def calibrated(question: Question, calibration: str) -> Question:
    """Return the question as a calibration file knows its cluster and framework, if it does."""
    from parallel_strategy.calibrate.fit import Calibration  # few commands ask for it

    return Calibration.load(calibration).applied(question)
