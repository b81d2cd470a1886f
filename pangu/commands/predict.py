"""Continue many prompts on several processes: each has the whole model and its share of the prompts.

    python -m pangu predict runs/first --file prompts.txt --workers 2 --out answers.jsonl
    python -m pangu predict runs/first --file prompts.txt --strategy strategy.yaml --out answers.jsonl --dry-run
    python -m pangu predict weights.safetensors --model 2.6B --tokenizer tokenizer/ --file prompts.txt \\
        --workers 8 --device Ascend --max-new-tokens 50 --out answers.jsonl

Answers are JSON lines in the order of the prompts, the same as one process writes. When a process dies all are stopped
and started again with the prompts that are left; a call that was cut off goes on where it was. Every option of
`python -m pangu generate` is taken; --interactive alone is for one process.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pangu.commands import generate
from pangu.foundation.best_effort import print_translated
from pangu.foundation.command_line import DONE, MISTAKE
from pangu.foundation.errors import UserError
from pangu.foundation.progress import Progress
from pangu.foundation.translation import translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="file of the answers, JSON lines")
    parser.add_argument("--workers", type=int, help="processes (default: 1)")
    parser.add_argument("--strategy", help="strategy.yaml: its data-parallel ranks share the prompts")
    parser.add_argument("--logs", type=Path, help="directory of the logs and of what is done (default: OUT.logs)")
    parser.add_argument("--restarts", type=int, default=3, help="failures in a row without a new answer (default 3)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be checked and started, and do nothing")
    generate.add_arguments(parser)


# What is done before the processes start.
HANDLED_HERE = {
    *("checkpoint", "best", "prompt", "file", "charset", "samples", "seed"),
    *("interactive", "conversation", "json", "logprobs"),
}


def options_of(arguments: argparse.Namespace) -> list[str]:
    """Return the words of `generate` that ask for what was asked here, except for the checkpoint and the prompts."""
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    words: list[str] = []
    for name, usual in vars(parser.parse_args(["checkpoint", "--file", "-"])).items():
        value, flag = getattr(arguments, name), f"--{name.replace('_', '-')}"
        if name in HANDLED_HERE or value == usual:
            continue
        if value is True:
            words.append(flag)
        else:
            # With "=", for a value may begin with a dash.
            words += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
    # Texts must not depend on how often a call is cut off and goes on: the seed is fixed.
    words.append(f"--seed={arguments.seed or 0}")
    if arguments.logprobs:
        words.append("--logprobs")
    return words


def lines_of(rows: Sequence[Mapping[str, Any]], samples: int) -> tuple[list[str], str]:
    """Return a line for each text that is asked for, and the kind of file that takes them: .txt or .jsonl."""
    asked = [{**row, **({"sample": number} if number else {})} for row in rows for number in range(samples)]
    if all(row.keys() == {"prompt"} and is_plain(row["prompt"]) for row in asked):
        return [row["prompt"] for row in asked], ".txt"
    return [json.dumps(row, ensure_ascii=False) for row in asked], ".jsonl"


def is_plain(prompt: str) -> bool:
    """Return whether a line of a text file can say a prompt."""
    has_mark = prompt.startswith("\ufeff") or prompt.endswith("\r")
    return bool(prompt.strip()) and "\n" not in prompt and not has_mark


def run(arguments: argparse.Namespace) -> int:
    from pangu.checkpoint.contents import contents_of
    from pangu.checkpoint.open import BEST, meant_checkpoint
    from pangu.distributed.predictor import (
        PredictionRequest,
        Predictor,
        check_all,
        described,
        processes_of,
        shares_of,
    )

    if arguments.interactive or arguments.fill:
        flag = "--interactive" if arguments.interactive else "--fill"
        raise UserError(f"{flag} is for one process: python -m pangu generate")
    if (arguments.workers is not None and arguments.workers < 1) or arguments.restarts < 0:
        raise UserError("--workers must be at least 1, --restarts at least 0")
    from pangu.foundation.atomic_file import check_not_read
    from pangu.generation.prompt_files import requests_of

    # Mistakes are named before anything is started.
    usual, rows = (
        generate.options_of(argparse.Namespace(**vars(arguments) | {"json": True})),
        generate.rows_of(arguments),
    )
    assert rows is not None
    requests_of(rows, usual, arguments.samples)
    if arguments.file:
        check_not_read(arguments.out, arguments.file)
    prompts, suffix = lines_of(rows, arguments.samples)
    workers = min(processes_of(arguments.strategy, arguments.workers), len(prompts))
    path = meant_checkpoint(Path(arguments.checkpoint, BEST) if arguments.best else Path(arguments.checkpoint))
    asked = PredictionRequest(
        checkpoint=path,
        prompts=prompts,
        options=options_of(arguments),
        device=arguments.device,
        workers=workers,
        out=arguments.out,
        logs=arguments.logs or arguments.out.with_name(f"{arguments.out.name}.logs"),
        suffix=suffix,
        contents=partial(contents_of, path, arguments.model, arguments.tokenizer, arguments.adapter),
    )
    checks = check_all(asked)
    stream = sys.stdout if arguments.dry_run else sys.stderr
    for check in checks:
        print_translated(f"{'MISSING' if check.problem else 'ok':8}{translated(check.what)}", to=stream)
        if check.problem:
            print_translated(f"{'':8}{check.problem}", to=stream)
    problem = next((check for check in checks if check.problem), None)
    if problem and not arguments.dry_run:
        raise UserError(f"{problem.what}: {problem.problem}")
    sizes = "+".join(str(len(share)) for share in shares_of(range(len(prompts)), workers))
    verb = "would start" if arguments.dry_run else "starts"
    print_translated(f"{verb} {workers} processes for {sizes} prompts:\n  {described(asked)}", to=stream)
    print_translated(f"logs: {asked.logs}/start-NNN/worker_R.log", to=stream, flush=True)
    if arguments.dry_run:
        return MISTAKE if problem else DONE
    with Progress("predict", len(prompts), unit="prompts") as progress:
        code = Predictor(asked, arguments.restarts, progress.update).run()
    if code:
        print_translated("interrupted; the same command goes on from there", to=sys.stderr)
        return code
    if arguments.json:
        print(json.dumps({"out": str(asked.out), "prompts": len(prompts), "workers": workers}))
    else:
        print_translated(f"wrote {asked.out}: {len(prompts)} answers")
    return 0
