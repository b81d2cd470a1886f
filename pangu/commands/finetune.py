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

from pangu.commands.model_arguments import add_device_argument
from pangu.foundation.best_effort import print_translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", help="a run, a checkpoint, or weights of any form")
    parser.add_argument("--data", nargs="+", required=True, metavar="FILE", help="records to learn")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the adapter")
    parser.add_argument(
        "--method", default="lora", choices=["full", "lora", "bitfit"], help="what is trained (default: lora)"
    )
    parser.add_argument("--template", default="qa", metavar="NAME", help="qa, plain, or a YAML file (default: qa)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="updates (default: 200)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="rows an update sees (default: 8)")
    parser.add_argument(
        "--accumulate", type=int, default=1, metavar="N", help="parts that a batch is computed in (default: 1)"
    )
    parser.add_argument("--rate", type=float, metavar="R", help="highest learning rate (default: 1e-3; full: 1e-4)")
    parser.add_argument("--rank", type=int, default=8, metavar="R", help="of LoRA's matrices (default: 8)")
    parser.add_argument(
        "--alpha", type=float, default=16.0, metavar="A", help="LoRA adds alpha/rank · BA (default: 16)"
    )
    parser.add_argument(
        "--module", action="append", metavar="NAME",
        help="q_proj k_proj v_proj attn.c_proj c_fc mlp.c_proj, or all; repeatable (default: q_proj v_proj)",
    )  # fmt: skip
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
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pangu.tuning.finetune import Settings, finetune

    settings = Settings(
        method=arguments.method,
        template=arguments.template,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        accumulate=arguments.accumulate,
        rate=arguments.rate,
        rank=arguments.rank,
        alpha=arguments.alpha,
        length=arguments.length,
        validation=arguments.validation,
        dropout=arguments.dropout,
        seed=arguments.seed,
        checkpoint_every=arguments.checkpoint_every,
        **({"modules": tuple(arguments.module)} if arguments.module else {}),
    )
    result = finetune(
        arguments.base, arguments.data, arguments.out, settings, tokenizer=arguments.tokenizer, device=arguments.device
    )
    if arguments.json:
        print(json.dumps(result.to_dict(), ensure_ascii=False))
        return 0
    state = "interrupted at step" if result.interrupted else "step"
    print_translated(f"{result.out}: {state} {result.step}; {result.trainable:,} trained weights")
    print_translated(f"records {result.records:,}, rejects {result.rejects:,}, cut from the left {result.cut:,}")
    for name, before, after in (
        ("validation", result.loss_before, result.loss_after),
        ("the base's own held-out samples", result.general_before, result.general_after),
    ):
        if before is not None and after is not None:
            print_translated(f"{name}: {before:.3f} -> {after:.3f} nats a token")
    return 0
