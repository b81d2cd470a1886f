"""The verbs of `data_pipeline`."""

from collections.abc import Sequence

from pangu.foundation import command_line

# verb -> its line of help; the code is data_pipeline/commands/VERB.py
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
    "warm": "compile the kernels ahead of the first run, for every user",
    "dedup-check": "say what fuzzy deduplication finds, on planted duplicates",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 a mistake of the user, 130 interrupted."""
    return command_line.main("data_pipeline", VERBS, argv)
