"""Time and memory of a strategy, per pipeline stage, with the margin to running out of memory; or, with --serve, of
answering: how long a prompt takes, tokens a second by rows written at once, memory of weights and caches.

example:
  python -m parallel_strategy predict strategy.yaml
  python -m parallel_strategy predict strategy.yaml --json
  python -m parallel_strategy predict --serve
  python -m parallel_strategy predict --serve --model 13B --machine a100-server --weights fp16 --tp 2
  python -m parallel_strategy predict --serve --machine mine.yaml --page serving.html

exit code: 0 it fits, 3 it does not, 2 a mistake in the files
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.foundation.best_effort import print_translated
from pangu.foundation.command_line import DOES_NOT_FIT, DONE
from pangu.foundation.errors import UserError
from parallel_strategy.arguments import add_strategy, whole_number

if TYPE_CHECKING:
    from parallel_strategy.spec.cluster import ClusterSpec
    from parallel_strategy.spec.model import ModelSpec

SIZES = ("350M", "1.3B", "2.6B", "13B", "200B")
MACHINES = ("laptop", "this-machine", "atlas-800-910a", "a100-server")
WEIGHTS = ("fp32", "fp16", "int8", "int4")
BATCHES = (1, 8, 32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser, has_calibration=True, is_optional=True)
    parser.add_argument("--json", action="store_true", help="everything, for a machine")
    serve = parser.add_argument_group("answering (--serve), instead of a strategy")
    serve.add_argument("--serve", action="store_true", help="price answering, not training")
    serve.add_argument(
        "--model", action="append", metavar="NAME", help=f"model.yaml or a name (default: {' '.join(SIZES)})"
    )
    serve.add_argument(
        "--machine", action="append", metavar="NAME", help=f"cluster.yaml or a name (default: {' '.join(MACHINES)})"
    )
    serve.add_argument(
        "--weights", action="append", choices=WEIGHTS, help="repeatable (default: fp32 or fp16, then int8, int4)"
    )
    serve.add_argument("--prompt", type=whole_number, metavar="N", help="tokens of a prompt (default 512)")
    serve.add_argument("--context", type=whole_number, metavar="N", help="tokens of a row (default: the network's)")
    serve.add_argument(
        "--batch", type=whole_number, action="append", metavar="N", help="rows at once; repeatable (default 1 8 32)"
    )
    serve.add_argument("--tp", type=whole_number, metavar="N", help="devices (default: as few as hold it)")
    serve.add_argument("--page", metavar="FILE", help="write a page with rooflines")


def run(arguments: argparse.Namespace) -> int:
    if arguments.serve:
        return run_serving(arguments)
    if arguments.strategy is None:
        raise UserError("give a strategy.yaml, or --serve")
    for name in ("model", "machine", "weights", "prompt", "context", "batch", "tp", "page"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name}: goes with --serve")
    from parallel_strategy.loading import load_prediction
    from parallel_strategy.report.terminal_tables import print_prediction, summary
    from parallel_strategy.spec.capability import outside
    from parallel_strategy.spec.unpriced import unpriced

    prediction = load_prediction(arguments.strategy, arguments.calibration, arguments.set)
    priced_only, left_out = outside(prediction.setup), unpriced(prediction.setup)
    if arguments.json:
        print(json.dumps({**summary(prediction), "priced_only": priced_only, "not_priced": left_out}, indent=1))
    else:
        print_prediction(prediction)
        for line in priced_only:
            print_translated(f"priced only: {line}")
        for line in left_out:
            print_translated(f"not priced: {line}")
    return DOES_NOT_FIT if prediction.out_of_memory else DONE


def run_serving(arguments: argparse.Namespace) -> int:
    """Price answering, for every network on every machine."""
    from parallel_strategy.cost.serving import Serving
    from parallel_strategy.report.output import write_whole
    from parallel_strategy.report.serving_page import page
    from parallel_strategy.report.serving_table import print_serving, row_of

    if arguments.strategy is not None or arguments.set or arguments.calibration:
        raise UserError("--serve: prices a network on a machine; leave the strategy, --set and --calibration out")
    models = [model_of(name) for name in arguments.model or SIZES]
    machines = [machine_of(name) for name in arguments.machine or MACHINES]
    batches, rows = sorted(set(arguments.batch or BATCHES)), []
    for machine in machines:
        full = "fp32" if Serving(models[0], machine, "fp16").is_cpu else "fp16"
        for model in models:
            context = arguments.context or model.seq_length
            check(model, machine, context, arguments.tp)
            prompt = arguments.prompt or min(512, context)
            if prompt > context:
                raise UserError(f"--prompt {prompt}: the context has {context} tokens; nearest: {context}")
            for weights in arguments.weights or (full, "int8", "int4"):
                found = row_of(
                    model, machine, weights, prompt=prompt, context=context, batches=batches, tp=arguments.tp
                )
                rows.append(found)
    if arguments.page:
        write_whole(Path(arguments.page), page(rows, models, machines, batches))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print_serving(rows, batches)
    return DONE if all(row["fits"] for row in rows) or len(rows) > 1 else DOES_NOT_FIT


def check(model: "ModelSpec", machine: "ClusterSpec", context: int, tp: int | None) -> None:
    """Raise UserError for what cannot be priced."""
    if model.position == "learned" and context > model.seq_length:
        raise UserError(
            f"--context {context}: {model.name} has {model.seq_length} positions; nearest: {model.seq_length}"
        )
    if model.experts is not None or model.latent_attention is not None:
        raise UserError(f"--model {model.name}: experts and latent attention are not priced for answering")
    if tp and (tp > machine.device_count or model.key_value_heads % tp):
        raise UserError(
            f"--tp {tp}: must divide the {model.key_value_heads} heads of {model.name} and be no more than the "
            f"{machine.device_count} devices of {machine.name}"
        )


def model_of(name: str) -> "ModelSpec":
    """Return a network: a file, a preset, or a size of PanGu-alpha. Raises UserError."""
    from parallel_strategy.spec.model import ModelSpec

    if Path(name).is_file():
        return ModelSpec.load(Path(name))
    known = f"pangu-alpha-{name.lower()}"
    return ModelSpec.preset(known if known in ModelSpec.preset_names() else name)


def machine_of(name: str) -> "ClusterSpec":
    """Return a machine: a file, or a preset. Raises UserError."""
    from parallel_strategy.spec.cluster import ClusterSpec

    return ClusterSpec.load(Path(name)) if Path(name).is_file() else ClusterSpec.preset(name)
