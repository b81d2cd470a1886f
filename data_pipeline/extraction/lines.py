"""Which lines of a page are its main text: gradient-boosted trees over the measures of a line, and what to do with their answer.

The trees are in `lines_model.json`, made by `tests/benchmarks/extraction_fit.py`, which also says how well they do on pages
that they have not seen. `docs/extraction.md` tells what they look at.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.kernels.page import CHARACTERS, FlatPage
from data_pipeline.kernels.page_lines import FEATURES, evaluate_trees

MODEL_FILE = Path(__file__).with_name("lines_model.json")
ENOUGH_CHARACTERS = 60  # less than this is no text: then the most probable lines are taken, however improbable
LEAST_PROBABILITY = 0.15


@dataclass(frozen=True)
class LineModel:
    """Trees as arrays. Node k asks `row[feature[k]] <= value[k]` and goes to `left[k]` or `right[k]`; a leaf has feature -1.

    The sum of the leaves that a row falls into is the log of the odds that the line is main text.
    """

    roots: np.ndarray  # int32 [trees]
    feature: np.ndarray  # int16 [nodes]
    value: np.ndarray  # float32 [nodes]: a threshold, or a leaf's summand
    left: np.ndarray  # int32 [nodes]
    right: np.ndarray  # int32 [nodes]

    @classmethod
    def from_trees(cls, trees: list[dict[str, Any]]) -> "LineModel":
        """From LightGBM's `dump_model()["tree_info"][i]["tree_structure"]`."""
        feature: list[int] = []
        value: list[float] = []
        children: list[tuple[int, int]] = []

        def add(node: dict[str, Any]) -> int:
            place = len(feature)
            is_leaf = "leaf_value" in node
            feature.append(-1 if is_leaf else node["split_feature"])
            value.append(node["leaf_value"] if is_leaf else node["threshold"])
            children.append((-1, -1))
            if not is_leaf:
                children[place] = (add(node["left_child"]), add(node["right_child"]))
            return place

        roots = [add(tree) for tree in trees]
        left, right = zip(*children, strict=True)
        return cls(*_arrays(roots, feature, value, left, right))

    def save(self, path: Path, features: list[str]) -> None:
        columns = {name: getattr(self, name).tolist() for name in ("roots", "feature", "left", "right")}
        columns["value"] = [float(f"{number:.6g}") for number in self.value]
        path.write_text(json.dumps({"features": features, **columns}, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> "LineModel":
        """Raises ValueError where the file was fitted to other measures than this code takes."""
        data = json.loads(path.read_text())
        if data["features"] != FEATURES:
            raise ValueError(f"{path}: fitted to other features; run python -m tests.benchmarks.extraction_fit --write")
        return cls(*_arrays(*(data[name] for name in ("roots", "feature", "value", "left", "right"))))

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """For each row of `measure_lines` the probability that the line is main text; float64 [lines]."""
        return evaluate_trees(rows, self.roots, self.feature, self.value, self.left, self.right)


def _arrays(roots: Any, feature: Any, value: Any, left: Any, right: Any) -> tuple[np.ndarray, ...]:
    return (
        np.array(roots, np.int32),
        np.array(feature, np.int16),
        np.array(value, np.float32),
        np.array(left, np.int32),
        np.array(right, np.int32),
    )


@cache
def line_model() -> LineModel:
    return LineModel.load(MODEL_FILE)


def expected_best(page: FlatPage, probability: np.ndarray) -> np.ndarray:
    """The lines to keep, bool [lines]: those more probable than not.

    Where these are hardly anything, the choice that makes the expected F1 greatest: lines in falling order of probability, as
    long as 2·Σpᵢcᵢ(kept) / (Σcᵢ(kept) + Σpᵢcᵢ(all)) grows, cᵢ being characters. So an odd page still gives its best part.
    """
    characters = page.line_counts[:, CHARACTERS].astype(np.float64)
    kept = probability > 0.5
    if characters[kept].sum() >= ENOUGH_CHARACTERS or not len(kept):
        return kept
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum((probability * characters)[order])
    expected = 2 * hits / (np.cumsum(characters[order]) + hits[-1] + 1e-9)
    best = np.zeros(len(kept), bool)
    best[order[: int(expected.argmax()) + 1]] = True
    return kept | (best & (probability >= LEAST_PROBABILITY))
