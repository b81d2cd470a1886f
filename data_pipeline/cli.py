"""The command line of `data_pipeline`: finds the verb and calls its module, and imports only what the verb needs."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pangu.foundation.errors import UserError

# verb -> one line of help; the verb's code is data_pipeline/commands/VERB.py (dashes become underscores)
VERBS = {
    "demo": "fetch the demo corpus",
    "init": "write a commented recipe",
    "run": "run a recipe; what is up to date is reused",
    "plan": "say what a run would do",
    "explain": "say why a stage is stale",
    "stats": "the funnel of a run: kept and dropped, stage by stage",
    "inspect": "records of a stage, kept or dropped",
    "why": "one document through every stage",
    "tune": "what another threshold would drop, from what was measured",
    "report": "one HTML page about a run",
    "extract": "the main text of web pages and web archives as JSONL",
    "show": "a packed sample and the documents it was made of",
    "quality": "train, use and evaluate models of how good a text is",
    "review": "judge a sample of documents by hand, in a local web page",
    "compare": "train the same small model on two corpora and compare perplexity on clean text",
    "dedup-check": "say what fuzzy deduplication finds, on planted duplicates",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m data_pipeline", description=sys.modules["data_pipeline"].__doc__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for verb, summary in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if verb == chosen:
            module = importlib.import_module(f"data_pipeline.commands.{verb.replace('-', '_')}")
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
