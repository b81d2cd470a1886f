"""How long the emulator takes: `python -m tests.benchmarks.emulator_speed`.

Rivals' published times for comparison: Calculon > 300 s for one search of a 530B model, Aceso 200 s, Mist 10 to 1000
s, Alpa 1 to 3.5 h (their papers and artifacts). They are not run here.
"""

import platform
import subprocess
import sys
import time

from parallel_strategy.predict import Prediction
from parallel_strategy.search.find import search
from parallel_strategy.search.pricing import evaluate
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec

LAYOUT = {
    "framework": "mindspore",
    "batch": {"global": 512, "micro": 1},
    "mesh": {"pp": 16, "dp": 16, "tp": 8, "order": ["dp", "pp", "tp"]},
    "zero": {"optimizer_shard": True},
    "recompute": {"mode": "full"},
}


def timed(run, repeats: int) -> tuple[float, float]:
    """(wall, processor) seconds of the fastest of several runs."""
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        best = min(best, (time.perf_counter() - wall, time.process_time() - processor))
    return best


def main() -> None:
    setup = Setup(
        model=ModelSpec.preset("pangu-alpha-200b"), cluster=ClusterSpec.preset("cloudbrain2-2048"),
        framework=FrameworkSpec.preset("mindspore"), strategy=StrategySpec.from_fields(LAYOUT, "benchmark"),
    )  # fmt: skip
    space = Space(2048, 512)
    candidates = sum(len(group.seconds) for group in evaluate(setup, space))

    def start() -> None:
        subprocess.run([sys.executable, "-m", "parallel_strategy", "init", "--list"], check=True, capture_output=True)

    def predict() -> None:
        prediction = Prediction(setup)
        assert prediction.seconds > 0 and prediction.gib > 0

    def simulate() -> None:
        assert Prediction(setup).replay(keep=True).seconds > 0

    print(f"PanGu-alpha 200B on 2,048 devices; Python {platform.python_version()}, {platform.machine()}, one thread")
    print(f"{'what':58s} {'wall s':>9s} {'cpu s':>9s}  to reach")
    for name, run, repeats, goal in (
        ("start of a verb", start, 5, "< 1 s"),
        ("one prediction, time and memory", predict, 20, "<= 0.020 s"),
        ("event simulation of a step, every event kept", simulate, 10, "<= 0.5 s"),
        (f"pricing {candidates:,} candidates", lambda: evaluate(setup, space), 3, ""),
        ("whole search: replay, balance, why not, sensitivity", lambda: search(setup, space), 3, "<= 5 s"),
    ):
        wall, processor = timed(run, repeats)
        print(f"{name:58s} {wall:9.4f} {processor:9.4f}  {goal}")


if __name__ == "__main__":
    main()
