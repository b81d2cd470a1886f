"""The command line of `pangu`: finds the verb and calls its module, and imports only what the verb needs."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from pangu.foundation.best_effort import NO_ROOM, discard_standard_output, reason_of, warn
from pangu.foundation.errors import UserError

# verb -> one line of help; the verb's code is pangu/commands/VERB.py (dashes become underscores)
VERBS = {
    "sizes": "the table of model sizes: parameters, FLOPs per token, memory",
    "logits": "logits of a model for given token ids, to compare implementations",
    "tokenize": "text lines to lists of token ids",
    "detokenize": "lists of token ids to text lines",
    "init": "write a commented configuration with every default",
    "train": "pretrain, resume, or continue from a checkpoint",
    "launch": "train on several processes: checks, starts, watches and restarts them",
    "reshard": "change the layout of a checkpoint that ranks wrote in parts",
    "compile": "compile one rank's training step under a strategy, and run nothing",
    "generate": "continue a prompt",
    "predict": "continue the prompts of a file on several processes",
    "convert": "released shards, MindSpore, safetensors and PyTorch names into one another",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m pangu", description=sys.modules["pangu"].__doc__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for verb, summary in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if verb == chosen:
            module = importlib.import_module(f"pangu.commands.{verb.replace('-', '_')}")
            verb_parser.description = module.__doc__
            module.add_arguments(verb_parser)
    arguments = parser.parse_args(argv)
    try:
        code = module.run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        warn(f"error: {error}")
        return 2
    except BrokenPipeError:  # whoever read the output, like `head`, has gone
        discard_standard_output()
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        discard_standard_output()
        warn(f"error: {error.filename or 'standard output'}: cannot be written: {reason_of(error)}")
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
