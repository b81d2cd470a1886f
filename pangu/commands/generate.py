"""Continue prompts with a trained model.

    python -m pangu generate runs/tiny --prompt 今天天气 --prompt 北京是
    python -m pangu generate runs/tiny/checkpoints/step-00000100 --file prompts.txt --json
    python -m pangu generate weights.safetensors --model 2.6B --tokenizer tokenizer/ --interactive

CHECKPOINT is a run directory (its newest whole checkpoint), a checkpoint directory, or a .safetensors file with --model
and --tokenizer. A sequence ends with the tokenizer's end of a document, with --stop or --stop-id, or after
--max-new-tokens. The same seed and prompt give the same text, alone or among others.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from pangu.generation import GenerationOptions, Generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="run directory, checkpoint directory, or .safetensors file")
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be given several times")
    prompts.add_argument("--file", metavar="FILE", help="text file with a prompt a line; - is standard input")
    prompts.add_argument("--interactive", action="store_true", help="a prompt a line, as typed, until end of input")
    parser.add_argument("--model", help="model.yaml or the name of a size, for a .safetensors file")
    parser.add_argument("--tokenizer", help="tokenizer directory or .model file (default: the run's)")
    parser.add_argument("--max-new-tokens", type=int, default=100, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: greedy (default 0.8)")
    parser.add_argument("--top-k", type=int, default=40, metavar="K", help="0: no limit (default 40)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1: no limit (default)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="prompt and new tokens")
    parser.add_argument("--frequency-penalty", type=float, default=0.0, metavar="X", help="new tokens, per occurrence")
    parser.add_argument("--presence-penalty", type=float, default=0.0, metavar="X", help="new tokens, once")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    parser.add_argument("--stop-id", action="append", type=int, default=[], metavar="ID", help="repeatable")
    parser.add_argument("--ignore-end", action="store_true", help="do not stop at the end of a document")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="prompts at a time")
    overflow = parser.add_mutually_exclusive_group()
    overflow.add_argument("--truncate", action="store_true", help="cut a prompt from the left where it does not fit")
    overflow.add_argument("--slide", action="store_true", help="write on beyond the context, forgetting its older half")
    parser.add_argument("--json", action="store_true", help="a JSON object a line: prompt, text, ids, finish")
    parser.add_argument("--engine", choices=["compiled", "mindspore"], help="default: compiled on a CPU")
    parser.add_argument("--threads", type=int, metavar="N", help="of the compiled engine (default: one a core)")
    parser.add_argument(
        "--dtype",
        choices=["fp32", "fp16", "bf16"],
        help="of the weights (default: as stored; mindspore: fp32 on a CPU)",
    )
    parser.add_argument("--device", choices=["CPU", "Ascend", "GPU"], default="CPU")


def read_prompts(path: str) -> list[str]:
    """The lines of a file that are not blank."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{path}: holds no prompt: write one a line")
    return prompts


def typed_lines() -> Iterator[str]:
    """Lines from standard input, with a mark where somebody types them."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise UserError(f"standard input: is not UTF-8: {error}") from None
        if not line:
            return
        if line.strip():
            yield line.rstrip("\r\n")


def answer(generator: "Generator", prompts: Sequence[str], options: "GenerationOptions", as_json: bool) -> None:
    """Print every prompt with its continuation, in order; a single one as it comes."""
    assert generator.tokenizer
    ids = [[int(token) for token in row] for row in generator.tokenizer.encode_batch(list(prompts))]
    pieces = generator.stream(ids, options)
    if len(prompts) == 1 and not as_json:
        print(prompts[0], end="", flush=True)
        for piece in pieces:
            print(piece.text, end="", flush=True)
        print()
        return
    texts, finished = [""] * len(prompts), [""] * len(prompts)
    new_ids: list[list[int]] = [[] for _ in prompts]
    printed = 0
    for piece in pieces:
        texts[piece.sequence] += piece.text
        if piece.token_id is not None:
            new_ids[piece.sequence].append(piece.token_id)
        finished[piece.sequence] = piece.finish or ""
        while printed < len(prompts) and finished[printed]:
            prompt, text = prompts[printed], texts[printed]
            if as_json:
                row = {"prompt": prompt, "text": text, "ids": new_ids[printed], "finish": finished[printed]}
                print(json.dumps(row, ensure_ascii=False), flush=True)
            else:
                print(f"{prompt}{text}\n", flush=True)
            printed += 1


def run(arguments: argparse.Namespace) -> int:
    prompts = arguments.prompt or (read_prompts(arguments.file) if arguments.file else None)
    engine, dtype = arguments.engine, arguments.dtype
    if arguments.device != "CPU":
        if engine == "compiled":
            raise UserError(f"--engine compiled is for a CPU, not for {arguments.device}: take --engine mindspore")
        engine = "mindspore"
    if engine == "mindspore":
        if arguments.threads is not None:
            raise UserError("--threads is of the compiled engine; MindSpore takes one a core")
        from pangu.device import use_device  # takes seconds to import, and the compiled engine does without

        use_device(arguments.device)
        dtype = dtype or ("fp32" if arguments.device == "CPU" else None)
    from pangu.generation import GenerationOptions, Generator

    stop_ids = tuple(arguments.stop_id)
    options = GenerationOptions(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        repetition_penalty=arguments.repetition_penalty,
        frequency_penalty=arguments.frequency_penalty,
        presence_penalty=arguments.presence_penalty,
        stop_ids=stop_ids,
        stop_strings=tuple(arguments.stop),
        seed=arguments.seed,
        overflow="truncate" if arguments.truncate else "slide" if arguments.slide else "refuse",
    )
    generator = Generator.load(
        arguments.checkpoint,
        arguments.model,
        arguments.tokenizer,
        dtype,
        arguments.batch_size,
        engine,
        arguments.threads,
    )
    if generator.tokenizer is None:
        raise UserError(f"{arguments.checkpoint}: no tokenizer lies beside it: give --tokenizer")
    if not arguments.ignore_end:
        options = replace(options, stop_ids=(*stop_ids, generator.tokenizer.special.end_of_document))
    if prompts is not None:
        answer(generator, prompts, options, arguments.json)
        return 0
    for line in typed_lines():
        try:
            answer(generator, [line], options, arguments.json)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
    return 0
