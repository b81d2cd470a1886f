"""The verbs of `parallel_strategy`."""

from collections.abc import Sequence

from pangu.foundation import command_line

# verb -> its line of help; the code is parallel_strategy/commands/VERB.py
VERBS = {
    "init": "write a commented strategy, model and cluster file",
    "predict": "time and memory of a strategy on a cluster",
    "search": "the best strategy, what fits, and why not its neighbours",
    "compare": "strategies side by side",
    "goodput": "days, money and energy with failures; how often to save a checkpoint",
    "explain": "where the time goes: operators, collectives, idle",
    "prove": "execute a strategy on virtual devices and compare with one device",
    "timeline": "the simulated step as a page and as a trace",
    "compile": "MindSpore's own compiler: layouts and collectives of a rank, against the emulator's",
    "ranks": "rank, coordinate and device of a strategy's mesh",
    "measure": "measure this machine and write it as a cluster file",
    "export": "write a strategy for MindSpore, msrun, HCCL, MindFormers and Megatron",
    "calibrate": "fit a machine's figures to measured runs",
    "validate": "predict measured runs and score: errors, order, regret",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 a mistake of the user, 130 interrupted."""
    return command_line.main("parallel_strategy", VERBS, argv)
