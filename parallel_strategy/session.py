"""From a strategy file to a question, and to a priced one: what every verb begins with."""

from collections.abc import Iterable, Sequence

from parallel_strategy.mindspore.operator_splits import load_question
from parallel_strategy.predict import Prediction

__all__ = ["load_prediction", "load_question"]


def load_prediction(strategy: str, calibration: str | None = None, changes: Iterable[Sequence[str]] = ()) -> Prediction:
    """Read and price a strategy file; `calibration` names a file whose figures for this cluster and framework are used,
    if it has any."""
    question = load_question(strategy, changes=changes)
    if calibration is not None:
        from parallel_strategy.calibrate.figures import apply
        from parallel_strategy.calibrate.fit import Calibration

        fit = Calibration.load(calibration).groups.get(f"{question.cluster.name}/{question.framework.name}")
        if fit is not None:
            question = apply(question, fit.multipliers)
    return Prediction(question)
