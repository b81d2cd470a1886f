"""From a strategy file to a question, and to a priced one: what every verb begins with."""

from pathlib import Path

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.operator_splits import operator_splits
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.strategy import Question, StrategySpec


def load_question(strategy: str | Path) -> Question:
    """Read a strategy file. Raises UserError in one line, also for an override that no operator obeys."""
    question = Question.load(strategy)
    try:
        operator_splits(question)
    except UserError as error:
        raise StrategySpec.read(strategy).mistake(str(error)) from None
    return question


def load_prediction(strategy: str, calibration: str | None = None) -> Prediction:
    """Read and price a strategy file; `calibration` names a file whose figures for this cluster and framework are used,
    if it has any."""
    question = load_question(strategy)
    if calibration is not None:
        from parallel_strategy.calibrate.figures import apply
        from parallel_strategy.calibrate.fit import Calibration

        fit = Calibration.load(calibration).groups.get(f"{question.cluster.name}/{question.framework.name}")
        if fit is not None:
            question = apply(question, fit.multipliers)
    return Prediction(question)
