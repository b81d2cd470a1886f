"""Adapt a model to instructions or texts of your own.

    python -m pangu finetune work/run --data poems.jsonl.gz --method lora --out work/poet
    python -m pangu finetune work/run --data alpaca.json --template qa --out work/assistant
    python -m pangu generate work/poet --prompt 春江花月夜

DATA: Alpaca, ShareGPT, OpenAI messages, prompt/completion, src_txt/tgt_txt or text, as JSON, JSONL or TXT, gzipped or
not. The loss is on answers only. OUT holds an adapter that `generate`, `evaluate` and `serve` take like a run; the same
command goes on where an interrupted one stopped. PEFT reads a LoRA adapter too.
"""

import argparse
import json
from pathlib import Path

from pangu.commands.model_arguments import add_device_argument
from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError
from pangu.foundation.yaml_document import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", help="a run, a checkpoint, or weights of any form")
    parser.add_argument("--data", nargs="+", required=True, metavar="FILE", help="records to learn")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the adapter")
    parser.add_argument(
        "--method",
        default="lora",
        metavar="NAME",
        help="what is trained: full lora adapter prefix prompt p-tuning bitfit (default: lora)",
    )
    parser.add_argument(
        "--objective", default="answers", metavar="NAME",
        help="answers; dpo: prefer {chosen} to {rejected}; distill: learn from a teacher (default: answers)",
    )  # fmt: skip
    parser.add_argument("--beta", type=float, default=0.1, metavar="B", help="of dpo (default: 0.1)")
    parser.add_argument("--teacher", metavar="PATH", help="of distill: a run, a checkpoint or weights")
    parser.add_argument(
        "--student-layers", type=int, metavar="N", help="of distill: make a student of N of the base's layers"
    )
    parser.add_argument(
        "--teacher-weight",
        type=float,
        default=0.5,
        metavar="W",
        help="of distill; the labels have 1 - W (default: 0.5)",
    )
    parser.add_argument("--temperature", type=float, default=2.0, metavar="T", help="of distill (default: 2)")
    parser.add_argument(
        "--hidden-weight", type=float, default=0.0, metavar="V", help="of distill: of hidden states (default: 0)"
    )
    parser.add_argument("--template", default="qa", metavar="NAME", help="qa, plain, or a YAML file (default: qa)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="updates (default: 200)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="rows an update sees (default: 8)")
    parser.add_argument(
        "--accumulate", type=int, default=1, metavar="N", help="parts that a batch is computed in (default: 1)"
    )
    parser.add_argument("--rate", type=float, metavar="R", help="highest learning rate (default: by the method)")
    parser.add_argument("--rank", type=int, default=8, metavar="R", help="of LoRA's matrices (default: 8)")
    parser.add_argument(
        "--alpha", type=float, default=16.0, metavar="A", help="LoRA adds alpha/rank · BA (default: 16)"
    )
    parser.add_argument(
        "--module", action="append", metavar="NAME",
        help="q_proj k_proj v_proj attn.c_proj c_fc mlp.c_proj, or all; repeatable (default: q_proj v_proj)",
    )  # fmt: skip
    parser.add_argument(
        "--bottleneck", type=int, default=64, metavar="M", help="inner width of method adapter (default: 64)"
    )
    parser.add_argument(
        "--virtual-tokens", type=int, default=20, metavar="N", help="of prefix, prompt and p-tuning (default: 20)"
    )
    parser.add_argument(
        "--shift-positions", action="store_true", help="texts stand behind the virtual tokens, as in PEFT"
    )
    parser.add_argument("--length", type=int, metavar="N", help="tokens of a row (default: the context)")
    parser.add_argument("--validation", type=float, default=0.05, metavar="P", help="part set aside (default: 0.05)")
    parser.add_argument("--dropout", type=float, default=0.0, metavar="P", help="while training (default: 0)")
    parser.add_argument(
        "--checkpoint-every", type=int, default=50, metavar="N", help="steps between checkpoints (default: 50)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="draws start, order and validation (default: 1)"
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer directory or .model file (default: the base's)")
    parser.add_argument(
        "--engine", metavar="NAME",
        help="what computes the steps: compiled or mindspore (default: compiled, where it can)",
    )  # fmt: skip
    add_device_argument(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="data-parallel processes that share each batch (default: 1)"
    )
    parser.add_argument("--strategy", metavar="FILE", help="strategy.yaml; only its mesh.dp may be larger than 1")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def processes(arguments: argparse.Namespace) -> int:
    """Return how many processes share a batch. Raises UserError for a strategy that says what nothing here obeys."""
    from pangu.distributed.predictor import processes_of
    from pangu.distributed.strategy import load_strategy

    count = processes_of(arguments.strategy, arguments.workers)
    if arguments.strategy:
        planned = load_strategy(arguments.strategy).setup.strategy
        for name, value, ours in (
            ("batch.global", planned.batch.global_, arguments.batch_size),
            ("batch.micro", planned.micro_batches, arguments.accumulate),
            ("zero.optimizer_shard", planned.zero.optimizer_shard, False),
            ("recompute.mode", planned.recompute.mode, "none"),
        ):
            if value != ours:
                said = "makes so many micro-batches: " if name == "batch.micro" else ""
                raise UserError(
                    f"{arguments.strategy}: field {name!r}: {said}{shown(value)}; fine-tuning has {shown(ours)} "
                    "(--batch-size, --accumulate; every process has the whole optimizer)"
                )
    return count


def launch(arguments: argparse.Namespace, workers: int) -> int:
    """Run the same command in several processes that share each batch."""
    from pangu.distributed.launch import Launch, Nodes, check_device, check_modules
    from pangu.distributed.supervise import Supervisor
    from pangu.foundation.processes import free_port

    words = ["-m", "pangu", "finetune", str(arguments.base), "--out", str(arguments.out), "--data", *arguments.data]
    for name, value in vars(arguments).items():
        if name in ("verb", "base", "out", "data", "workers", "strategy") or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            words += [flag] if value is True else [f"{flag}={one}"]
    out = Path(arguments.out)
    nodes = Nodes(port=free_port(), any_port=True)
    plan = Launch(words, arguments.device, workers, nodes, None, out / "logs")
    for check in (check_modules(), check_device(arguments.device, workers)):
        if check.problem:
            raise UserError(f"{check.what}: {check.problem}")
    return Supervisor(plan, out, restarts=1).run()


def run(arguments: argparse.Namespace) -> int:
    from pangu.distributed.process_group import is_launched
    from pangu.tuning.finetune import finetune
    from pangu.tuning.tuning_settings import Settings, check_obeyed

    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: must be at least 1")
    given = {name: value for name, value in vars(arguments).items() if name in Settings.__dataclass_fields__}
    if arguments.module:
        given["modules"] = tuple(arguments.module)
    settings = Settings(**given)
    check_obeyed(settings, {name: f"--{name.replace('_', '-')}" for name in given} | {"modules": "--module"})
    if not is_launched():
        workers = processes(arguments)
        if workers != 1:
            return launch(arguments, workers)
    result = finetune(
        arguments.base,
        arguments.data,
        arguments.out,
        settings,
        tokenizer=arguments.tokenizer,
        device=arguments.device,
        teacher=arguments.teacher,
    )
    if arguments.json:
        print(json.dumps(result.to_dict(), ensure_ascii=False))
        return 0
    state = "interrupted at step" if result.interrupted else "step"
    print_translated(f"{result.out}: {state} {result.step}; {result.trainable:,} trained weights")
    print_translated(f"records {result.records:,}, rejects {result.rejects:,}, cut from the left {result.cut:,}")
    if result.preferred is not None:
        print_translated(f"preferred {result.preferred:.0%} of validation, reward margin {result.reward_margin:.3f}")
    for name, before, after in (
        ("validation", result.loss_before, result.loss_after),
        ("the base's own validation samples", result.general_before, result.general_after),
    ):
        if before is not None and after is not None:
            print_translated(f"{name}: {before:.3f} -> {after:.3f} nats a token")
    return 0
