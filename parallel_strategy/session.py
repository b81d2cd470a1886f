"""From a strategy file to a question, and to a priced one: what every verb begins with."""

import os
from pathlib import Path

import yaml

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.operator_splits import operator_splits
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.strategy import Question


def load_question(strategy: str | os.PathLike[str]) -> Question:
    """Read a strategy file. Raises UserError in one line, also for an override that no operator obeys."""
    question = Question.load(Path(strategy))
    try:
        operator_splits(question)
    except UserError as error:
        raise UserError(f"{strategy}:{_line_of(Path(strategy), str(error))}: {error}") from None
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


def _line_of(path: Path, message: str) -> int:
    """Return the line of the field that a message names first, `field 'overrides.0.operator'`."""
    node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    for name in message.partition("field '")[2].partition("'")[0].split("."):
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == name), node)
        elif isinstance(node, yaml.SequenceNode) and name.isdigit():
            node = node.value[int(name)]
    return node.start_mark.line + 1
