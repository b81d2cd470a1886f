"""Which of two corpora makes the better model: train the same small PanGu-α on both, compare on clean text.

    python -m data_pipeline compare corpus-v1 corpus-v2 --heldout clean.jsonl --out comparison
    python -m data_pipeline compare raw.jsonl.gz corpus --heldout newspaper.jsonl --tokens 4000000 --repeats 3 --json

A and B are output directories of runs, or files. Both trainings have the same tokenizer, network, seed and number of
tokens; the clean set is taken out of both. The same command goes on after an interruption. The curves are in
`OUT/compare.png`, the figures in `OUT/compare.json`. Perplexities of two tokenizers cannot be compared: where you
compare several times, give the same `--tokenizer`.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.quality.comparison import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a corpus: the output directory of a run, or a file")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument("--heldout", nargs="+", required=True, metavar="PATH", help="clean text that judges both")
    parser.add_argument("--out", type=Path, required=True, help="where everything goes")
    parser.add_argument("--tokens", type=int, default=300_000, help="each training sees (300000)")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each, with further seeds (1)")
    parser.add_argument("--tokenizer", type=Path, help="an existing one; otherwise one is trained on both")
    parser.add_argument("--vocab-size", type=int, default=4000, help="of the tokenizer that is trained (4000)")
    parser.add_argument("--model", help="a size of `python -m pangu sizes` or a model.yaml (a small one)")
    parser.add_argument("--seq-length", type=int, default=128, help="tokens of a sample (128)")
    parser.add_argument("--batch-size", type=int, default=4, help="samples an update sees (4)")
    parser.add_argument("--seed", type=int, default=1, help="of samples and weights (1)")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="the field that holds the document (text)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    import pangu.foundation.errors
    from data_pipeline.quality.comparison import Trial, compare, draw

    for name in ("tokens", "repeats", "vocab_size", "seq_length", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: nearest: 1")
    if not 0 <= arguments.seed < 2**31 - arguments.repeats:
        raise UserError(f"--seed {arguments.seed}: 0 to 2^31 would be right")
    fields = {name: value for name, value in vars(arguments).items() if name in Trial.__dataclass_fields__}
    plan = Trial(**{**fields, "corpora": (arguments.a, arguments.b), "heldout": tuple(arguments.heldout)})
    try:
        comparison = compare(plan)
    except pangu.foundation.errors.UserError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{error.filename or arguments.out}: {error.strerror}") from error
    draw(arguments.out / "compare.png", comparison)
    if arguments.json:
        print(json.dumps(comparison.as_dict(), ensure_ascii=False))
    else:
        _print(comparison, arguments.out)
    return 0


def _print(comparison: "Comparison", out: Path) -> None:
    print(f"{'':3}{'documents':>10}{'tokens':>12}{'epochs':>8}{'perplexity':>12}{'bits a byte':>13}  corpus")
    for label, outcome in (("A", comparison.a), ("B", comparison.b)):
        print(
            f"{label:3}{outcome.documents:10,}{outcome.tokens:12,}{outcome.epochs:8.2f}{outcome.perplexity:12,.2f}"
            f"{outcome.bits_a_byte:13.4f}  {outcome.corpus}"
        )
        if len(comparison.runs) > 2:
            print_translated(f"{'':33}{outcome.lowest:,.2f} to {outcome.highest:,.2f} over the seeds")
        if outcome.in_clean_set:
            print_translated(
                f"{'':3}{outcome.in_clean_set:,} documents of {label} are in the clean set and were left out"
            )
        if outcome.epochs > 1.5:
            print_translated(f"{'':3}{label} is small: its tokens were seen {outcome.epochs:.1f} times")
    print_translated(f"{comparison.heldout_documents:,} clean documents: {comparison.verdict}")
    print_translated(f"{out / 'compare.png'}: the curves; {out / 'compare.json'}: the figures")
