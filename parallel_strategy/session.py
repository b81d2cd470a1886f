"""From a strategy file to a priced question: what most verbs begin with."""

from parallel_strategy.predict import Prediction
from parallel_strategy.spec.strategy import Question


def load_prediction(strategy: str, calibration: str | None = None) -> Prediction:
    """Read a strategy file; `calibration` names a file whose figures for this cluster and framework are used, if it
    has any."""
    question = Question.load(strategy)
    if calibration is not None:
        from parallel_strategy.calibrate.figures import apply
        from parallel_strategy.calibrate.fit import Calibration

        fit = Calibration.load(calibration).groups.get(f"{question.cluster.name}/{question.framework.name}")
        if fit is not None:
            question = apply(question, fit.multipliers)
    return Prediction(question)
