"""Continue prompts with a trained model.

    python -m pangu generate runs/tiny --prompt 今天天气 --prompt 北京是
    python -m pangu generate runs/tiny/checkpoints/step-00000100 --file prompts.txt --json
    python -m pangu generate weights.safetensors --model 2.6B --tokenizer tokenizer/ --interactive
    python -m pangu generate runs/tiny --fill 床前____光

CHECKPOINT is a run directory (its newest whole checkpoint), a checkpoint directory, or weights of any form; --model and
--tokenizer say what does not lie with them. A sequence ends with the tokenizer's end of a document, with --stop or
--stop-id, or after --max-new-tokens. The same seed and prompt give the same text, alone or among others; without --seed
every text is drawn anew. FILE has a prompt a line, or is a .jsonl of {"prompt": …} with options of its own:
docs/generation.md. Ctrl-C ends the text that is being written, not the interactive session.
"""

import argparse
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.commands.model_arguments import add_device_argument
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps

if TYPE_CHECKING:
    from pangu.generation import GenerationOptions, Generator
    from pangu.generation.prompt_files import Request


LONGEST_ANSWER = 100  # tokens, where nobody says it
NOT_FOR_FILL = ("stop", "truncate", "slide", "logprobs", "chat", "draft", "no_repeat_ngram")
ADAPTER = "adapter"  # the name of the one that --adapter gives


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="run, checkpoint, or weights of any form (.safetensors, .ckpt, .bin)")
    parser.add_argument("--best", action="store_true", help="of a run the checkpoint with the lowest validation loss")
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be given several times")
    prompts.add_argument("--file", metavar="FILE", help="a prompt a line, or .jsonl; - is standard input")
    prompts.add_argument("--fill", action="append", metavar="TEXT", help="each _ is a token to fill in; repeatable")
    prompts.add_argument("--interactive", action="store_true", help="a prompt a line, as typed, until end of input")
    parser.add_argument(
        "--gap-order",
        choices=["entropy", "left"],
        default="entropy",
        help="of --fill (default entropy: the surest gap first)",
    )
    parser.add_argument("--conversation", action="store_true", help="interactive: each text goes on from all before")
    parser.add_argument("--charset", metavar="NAME", help="of the file, e.g. gb18030 (default: UTF-8, or as marked)")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="texts for each prompt")
    parser.add_argument("--model", help="model.yaml or the name of a size, for a .safetensors file")
    parser.add_argument("--tokenizer", help="tokenizer directory or .model file (default: the run's)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=LONGEST_ANSWER,
        metavar="N",
        help="the longest answer, in tokens (default 100)",
    )
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: greedy (default 0.8)")
    parser.add_argument("--top-k", type=int, default=40, metavar="K", help="0: no limit (default 40)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1: no limit (default)")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="at least this part of the likeliest")
    parser.add_argument("--no-repeat-ngram", type=int, default=0, metavar="N", help="no N tokens in a row twice")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="prompt and new tokens")
    parser.add_argument("--frequency-penalty", type=float, default=0.0, metavar="X", help="new tokens, per occurrence")
    parser.add_argument("--presence-penalty", type=float, default=0.0, metavar="X", help="new tokens, once")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    parser.add_argument("--stop-id", action="append", type=int, default=[], metavar="ID", help="repeatable")
    parser.add_argument("--ignore-end", action="store_true", help="do not stop at the end of a document")
    parser.add_argument("--seed", type=int, metavar="N", help="of the random numbers (default: another each time)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="prompts at a time")
    overflow = parser.add_mutually_exclusive_group()
    overflow.add_argument("--truncate", action="store_true", help="cut a prompt from the left where it does not fit")
    overflow.add_argument("--slide", action="store_true", help="write on beyond the context, forgetting its older half")
    parser.add_argument("--json", action="store_true", help="a JSON object a line: prompt, text, ids, finish, seed")
    parser.add_argument("--logprobs", action="store_true", help="with --json: log-probability of each new token")
    parser.add_argument("--adapter", metavar="DIR", help="a LoRA adapter, kept beside the weights (compiled engine)")
    parser.add_argument("--domain", metavar="NAME", help="of experts by domain: use this one's (default: a mixture)")
    parser.add_argument("--chat", action="store_true", help="ask in the template that was stored with an adapter")
    parser.add_argument("--engine", choices=["compiled", "mindspore"], help="default: compiled on a CPU")
    parser.add_argument("--threads", type=int, metavar="N", help="of the compiled engine (default: one a core)")
    parser.add_argument("--draft", metavar="CHECKPOINT", help="a small model that guesses tokens; the text is the same")
    parser.add_argument("--draft-tokens", type=int, default=4, metavar="N", help="guesses a step (default 4)")
    parser.add_argument(
        "--dtype",
        choices=["fp32", "fp16", "bf16"],
        help="of the weights (default: as stored; mindspore: fp32 on a CPU)",
    )
    add_device_argument(parser)


def check_fill(arguments: argparse.Namespace) -> None:
    """Raise UserError for an option of which filling gaps knows nothing."""
    asked = {
        "--samples": arguments.samples != 1,
        "--max-new-tokens": arguments.max_new_tokens != LONGEST_ANSWER,
        **{f"--{name.replace('_', '-')}": bool(getattr(arguments, name)) for name in NOT_FOR_FILL},
    }
    wrong = next((flag for flag, is_asked in asked.items() if is_asked), None)
    if wrong:
        raise UserError(f"{wrong}: does not go with --fill, which puts one token into each gap")


def options_of(arguments: argparse.Namespace) -> "GenerationOptions":
    """Return what the command line asks for; a seed is drawn where none is given. Raises UserError."""
    from pangu.generation import GenerationOptions

    if arguments.logprobs and not arguments.json:
        raise UserError("--logprobs: goes with --json")
    if arguments.conversation and not arguments.interactive:
        raise UserError("--conversation: goes with --interactive")
    if arguments.chat and arguments.interactive:
        raise UserError("--chat: goes with --prompt or --file")
    if arguments.fill is not None:
        check_fill(arguments)
    elif arguments.gap_order != "entropy":
        raise UserError("--gap-order: goes with --fill")
    if arguments.samples < 1:
        raise UserError(f"--samples {arguments.samples}: must be at least 1")
    if arguments.charset and not arguments.file:
        raise UserError("--charset: goes with --file")
    return GenerationOptions(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        frequency_penalty=arguments.frequency_penalty,
        presence_penalty=arguments.presence_penalty,
        no_repeat_ngram=arguments.no_repeat_ngram,
        stop_ids=tuple(arguments.stop_id),
        stop_strings=tuple(arguments.stop),
        seed=secrets.randbits(32) if arguments.seed is None else arguments.seed,
        overflow="truncate" if arguments.truncate else "slide" if arguments.slide else "refuse",
        logprobs=arguments.logprobs,
    )


def rows_of(arguments: argparse.Namespace) -> list[dict] | None:
    """Return the prompts, with options of their own; None for an interactive session. Raises UserError."""
    from pangu.generation.prompt_files import read_file

    if arguments.prompt is not None:
        return [{"prompt": prompt} for prompt in arguments.prompt]
    if arguments.fill is not None:
        return []  # not continued: `answer_fill`
    if arguments.file is None:
        return None
    content = sys.stdin.buffer.read() if arguments.file == "-" else None
    return read_file(arguments.file, arguments.charset, content)


def answer(
    generator: "Generator",
    requests: Sequence["Request"],
    as_json: bool,
    is_stopped: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Print every prompt with its continuation, in order, a single one as it comes; return the continuations."""
    assert generator.tokenizer
    ids = [[int(token) for token in row] for row in generator.tokenizer.encode_batch([r.prompt for r in requests])]
    pieces = generator.stream(ids, [request.options for request in requests])
    if len(requests) == 1 and not as_json:
        print(requests[0].prompt, end="", flush=True)
        text = ""
        for piece in pieces:
            text += piece.text
            print(piece.text, end="", flush=True)
            if is_stopped():
                break
        print()
        return [text]
    texts, finished = [""] * len(requests), [""] * len(requests)
    new_ids: list[list[int]] = [[] for _ in requests]
    logprobs: list[list[float | None]] = [[] for _ in requests]
    printed = 0
    for piece in pieces:
        if is_stopped():
            break
        texts[piece.sequence] += piece.text
        if piece.token_id is not None:
            new_ids[piece.sequence].append(piece.token_id)
            logprobs[piece.sequence].append(piece.logprob)
        finished[piece.sequence] = piece.finish or ""
        while printed < len(requests) and finished[printed]:
            request, text = requests[printed], texts[printed]
            if as_json:
                row = {"prompt": request.prompt, "text": text, "ids": new_ids[printed], "finish": finished[printed]}
                print(dumps(row | told_of(request, logprobs[printed]), ensure_ascii=False), flush=True)
            else:
                print(f"{request.prompt}{text}\n", flush=True)
            printed += 1
    return texts


def answer_fill(generator: "Generator", text: str, options: "GenerationOptions", arguments: argparse.Namespace) -> None:
    """Print a text whose gaps have been filled."""
    from pangu.generation.fill import fill_text

    filled = fill_text(generator, text, options, arguments.gap_order)
    if arguments.json:
        row = {"fill": text, "text": filled.text, "ids": filled.ids, "places": filled.places, "seed": options.seed}
        print(dumps(row, ensure_ascii=False), flush=True)
    else:
        print(filled.text, flush=True)


def told_of(request: "Request", logprobs: Sequence[float | None]) -> dict[str, object]:
    """Return what an answer says beside the text: how to draw it again, and what was asked for."""
    options = request.options
    told: dict[str, object] = {"seed": options.seed}
    if options.sample:
        told["sample"] = options.sample
    if options.logprobs:
        told["logprobs"] = list(logprobs)
    if request.identity is not None:
        told["id"] = request.identity
    return told


def asked(checkpoint: str, question: str) -> str:
    """Return a question in the form that the model answers by."""
    from pangu.tuning.adapter_file import template_of_model
    from pangu.tuning.records import Turn

    return template_of_model(Path(checkpoint)).prompt([Turn("user", question)])


def load_generator(arguments: argparse.Namespace) -> "Generator":
    """Return the model that is asked for, with a tokenizer. Raises UserError."""
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
    from pangu.checkpoint.open import BEST
    from pangu.generation import Generator

    generator = Generator.load(
        f"{arguments.checkpoint}/{BEST}" if arguments.best else arguments.checkpoint,
        arguments.model,
        arguments.tokenizer,
        dtype,
        arguments.batch_size,
        engine,
        arguments.threads,
        {ADAPTER: arguments.adapter} if arguments.adapter else None,
        arguments.domain,
    )
    if arguments.adapter:
        generator = generator.adapted(ADAPTER)
    if arguments.draft:
        generator.speculate(arguments.draft, arguments.draft_tokens)
    if generator.tokenizer is None:
        raise UserError(f"{arguments.checkpoint}: no tokenizer lies beside it: give --tokenizer")
    return generator


def run(arguments: argparse.Namespace) -> int:
    from pangu.generation.prompt_files import Request, requests_of

    options, rows, is_varied = options_of(arguments), rows_of(arguments), arguments.seed is None
    if rows is not None:
        requests_of(rows, options, arguments.samples, is_varied)  # mistakes before the weights are read
    generator = load_generator(arguments)
    if not arguments.ignore_end:
        assert generator.tokenizer
        options = replace(options, stop_ids=(*options.stop_ids, generator.tokenizer.special.end_of_document))
    if arguments.chat:
        rows = [row | {"prompt": asked(arguments.adapter or arguments.checkpoint, row["prompt"])} for row in rows or []]
    if arguments.fill is not None:
        for text in arguments.fill:
            answer_fill(generator, text, options, arguments)
        return 0
    if rows is not None:
        answer(generator, requests_of(rows, options, arguments.samples, is_varied), arguments.json)
        return 0
    from pangu.generation.conversation import converse

    def answer_line(prompt: str, is_stopped: Callable[[], bool]) -> str:
        seed = secrets.randbits(32) if is_varied else options.seed
        requests = [Request(prompt, replace(options, seed=seed, sample=n)) for n in range(arguments.samples)]
        return answer(generator, requests, arguments.json, is_stopped)[0]

    converse(answer_line, arguments.conversation)
    return 0
