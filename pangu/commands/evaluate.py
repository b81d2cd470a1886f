"""Score a model on the tasks of the PanGu-α paper.

    python -m pangu evaluate work/run --data evaluation-sets
    python -m pangu evaluate work/run --data evaluation-sets --task c3 --task ocnli --shots few --compare paper
    python -m pangu evaluate work/run --data evaluation-sets --checkpoints all --limit 200
    python -m pangu evaluate work/run --list

DATA is a folder with the evaluation sets as they are published (any depth), or one file with --task. Answers, scores
and a page to look at are written to OUT; what is there already is not asked again.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.commands.model_arguments import add_scoring_arguments, load_model
from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pangu.evaluation.evaluate import Score
    from pangu.language_model import LanguageModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a run, a checkpoint, or weights of any form")
    parser.add_argument("--list", action="store_true", help="list the tasks and their variants, and do nothing")
    parser.add_argument(
        "--task", action="append", metavar="NAME", help="repeatable, or a YAML file (default: all found)"
    )
    parser.add_argument("--data", metavar="PATH", help="folder of the evaluation sets, or a file for one task")
    parser.add_argument("--shots", default="zero", metavar="N", help="zero, one, few, or a number (default: zero)")
    parser.add_argument("--variant", default="paper", metavar="NAME", help="template, see --list (default: paper)")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="N documents of a task, drawn by the seed (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws shots and answers (default: 0)")
    parser.add_argument("--compare", choices=["paper"], help="print the published figures beside ours")
    parser.add_argument("--corpus", metavar="DIR", help="corpus that was decontaminated against these sets")
    parser.add_argument(
        "--checkpoints", metavar="STEPS", help="a learning curve over a run's checkpoints: all, or 200,400"
    )
    parser.add_argument("--out", metavar="DIR", help="default: evaluation/ in the run, else here")
    add_scoring_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pangu.evaluation.task import load_task, task_names

    if arguments.list:
        for name in task_names():
            task = load_task(name)
            print(f"{name:12} {task.method:9} {', '.join(task.variants):28} {task.title}")
        return 0
    if not arguments.model or not arguments.data:
        raise UserError("a model and --data are needed (or --list)")
    from pangu.evaluation.evaluate import default_folder, evaluate
    from pangu.evaluation.page import write_page

    for name in arguments.task or []:
        load_task(name).template(arguments.variant)

    def scores_of(model: "LanguageModel", out: Path) -> "list[Score]":
        return evaluate(
            model,
            arguments.task or "all",
            data=arguments.data,
            out=out,
            shots=arguments.shots,
            variant=arguments.variant,
            limit=arguments.limit,
            seed=arguments.seed,
            corpus=arguments.corpus,
        )

    def of(path: Path) -> argparse.Namespace:
        return argparse.Namespace(**{**vars(arguments), "model": str(path)})

    if arguments.checkpoints:
        return print_curve(arguments, lambda path, out: scores_of(load_model(of(path)), out))
    model = load_model(arguments)
    out = Path(arguments.out) if arguments.out else default_folder(model)
    scores = scores_of(model, out)
    write_page(out / "index.html", f"Evaluation of {arguments.model}", scores)
    if arguments.json:
        from pangu.foundation.json_text import dumps

        print(dumps([score.to_dict() for score in scores], ensure_ascii=False, indent=1))
        return 0
    print_scores(scores, arguments.compare == "paper")
    print_translated(f"\nanswers, scores.json and a page to look at: {out / 'index.html'}")
    return 0


def print_curve(arguments: argparse.Namespace, scores_of: "Callable[[Path, Path], list[Score]]") -> int:
    """Evaluate checkpoints of a run and print a line for each."""
    from pangu.evaluation import learning_curve

    run = Path(arguments.model)
    out = Path(arguments.out) if arguments.out else run / "evaluation"
    checkpoints = learning_curve.chosen_checkpoints(run, arguments.checkpoints)
    points = learning_curve.learning_curve(run, checkpoints, lambda path: scores_of(path, out / path.name), out)
    if arguments.json:
        from pangu.foundation.json_text import dumps

        print(dumps(points, ensure_ascii=False, indent=1))
        return 0
    print("\n".join(learning_curve.table_of(points)))
    print_translated(f"\nthe first metric of each task; all of them: {out / learning_curve.CURVE}")
    return 0


def print_scores(scores: "list[Score]", has_paper: bool) -> None:
    """Print a line for each metric, with the paper's figures where asked, and what limits a comparison."""
    rows = [
        ["task", "metric", "score", "s.e.", "N", "chance", "major", *(["CPM 2.6B", "2.6B", "13B"] if has_paper else [])]
    ]
    for score in scores:
        for number, (metric, value) in enumerate(score.scores.items()):
            paper = score.paper.get(metric, {})
            mark = "" if score.comparable else "*"
            rows.append(
                [
                    score.task if number == 0 else "",
                    metric,
                    f"{value:.2f}",
                    f"{score.standard_errors.get(metric, 0):.2f}",
                    f"{score.documents}",
                    "" if score.chance is None else f"{score.chance:.1f}",
                    "" if score.majority is None else f"{score.majority:.1f}",
                    *(f"{paper[model]:.2f}{mark}" if model in paper else "" for model in rows[0][7:]),
                ]
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        print(" ".join(cells).rstrip())
    print_translated("percent; major: the share of the most frequent label")
    if has_paper and not all(score.comparable for score in scores):
        print_translated("* another split, or a part of it: not comparable")
    for score in scores:
        for line in remarks(score, has_paper):
            print_translated(f"{score.task}: {line}")


def remarks(score: "Score", has_paper: bool) -> "list[str]":
    """Return what a reader of a score must know."""
    lines = [score.note] if has_paper and score.note else []
    if score.cut:
        lines.append(f"{score.cut} contexts were cut from their left to fit the model's context")
    if score.clean is not None:
        figures = ", ".join(f"{name} {value:.2f}" for name, value in score.clean.items() if name != "documents")
        lines.append(f"without what stood in the corpus: {score.clean['documents']} documents, {figures}")
    return lines
