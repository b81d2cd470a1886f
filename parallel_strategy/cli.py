"""The command line of `parallel_strategy`: finds the verb and calls its module, importing only what it needs."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pangu.foundation.errors import UserError

# verb -> one line of help; the verb's code is parallel_strategy/commands/VERB.py (dashes become underscores)
VERBS = {
    "init": "write a commented strategy, model and cluster file",
    "predict": "time and memory of a strategy on a cluster",
    "search": "the best strategy, what fits, and why not its neighbours",
    "compare": "strategies side by side",
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
    """Run one verb. Returns the exit code: 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m parallel_strategy", description=sys.modules["parallel_strategy"].__doc__
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for verb, summary in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if verb == chosen:
            module = importlib.import_module(f"parallel_strategy.commands.{verb.replace('-', '_')}")
            verb_parser.description = module.__doc__
            module.add_arguments(verb_parser)
    arguments = parser.parse_args(argv)
    try:
        return module.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output, like `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
