"""Serve models over HTTP: OpenAI's protocol, and a page to play with.

    python -m pangu serve work/run
    python -m pangu serve work/run poet=work/poet --port 8000
    python -m pangu serve work/run --adapter poet=work/poet --adapter clerk=work/clerk
    PANGU_API_KEY=.. python -m pangu serve work/run --host 0.0.0.0 --allow-host pangu.example.org

It listens on 127.0.0.1 alone. Any other address needs a key: the variable PANGU_API_KEY, or --api-key-file.
Ctrl-C or SIGTERM finishes what runs, and ends.
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Collection
from pathlib import Path

from pangu.commands.model_arguments import add_loading_arguments
from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="[NAME=]MODEL", help="runs, checkpoints, or weights of any form")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0: any free one (default: 8000)")
    parser.add_argument("--api-key-file", metavar="FILE", help="keys, one a line (default: PANGU_API_KEY)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name of this server; repeatable"
    )
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="pages that may ask; repeatable"
    )
    parser.add_argument(
        "--rows", type=int, default=8, metavar="N", help="answers that are written at once (default: 8)"
    )
    parser.add_argument(
        "--queue", type=int, default=64, metavar="N", help="answers that may wait, then 429 (default: 64)"
    )
    parser.add_argument("--seconds", type=float, default=600, metavar="S", help="time for an answer (default: 600)")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=DIR", help="a LoRA adapter of the model; repeatable"
    )
    parser.add_argument(
        "--prefix-rows", type=int, default=4, metavar="N", help="rows that keep what was read; -1: none (default: 4)"
    )
    parser.add_argument("--word-list", metavar="FILE", help="refuse prompts and end answers with one of its words")
    add_loading_arguments(parser)
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], help="how matrices are kept (default: as stored)")


def named(models: list[str], used: Collection[str] = ()) -> dict[str, str]:
    """Return {name: path}; a model without a name has that of its folder. Raises UserError for a name used twice."""
    found: dict[str, str] = {}
    for text in models:
        name, separator, path = text.partition("=")
        if not separator or Path(text).exists():
            name, path = Path(text).resolve().name, text
        if not name or name in found or name in used:
            raise UserError(f"{text}: the name {name!r} is empty or used twice; write NAME=PATH")
        found[name] = path
    return found


def keys_of(path: str | None) -> tuple[str, ...]:
    """Return the API keys. Raises UserError for a file without one."""
    if path is None:
        key = os.environ.get("PANGU_API_KEY", "").strip()
        return (key,) if key else ()
    try:
        keys = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not keys:
        raise UserError(f"{path}: holds no key; write one a line")
    return keys


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UserError where the address is not free."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=kind, backlog=1024)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot be listened on: {error.strerror or error}") from None


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.word_list import WordList
    from pangu.serving.guard import LOOPBACK, Policy

    keys, paths = keys_of(arguments.api_key_file), named(arguments.models)
    if arguments.host not in LOOPBACK and not keys:
        raise UserError(f"--host {arguments.host}: others can reach it: set PANGU_API_KEY or give --api-key-file")
    if arguments.prefix_rows < -1:
        raise UserError(f"--prefix-rows {arguments.prefix_rows}: must be -1 (off), 0 or more")
    adapters = named(arguments.adapter, set(paths))
    if adapters and len(paths) != 1:
        raise UserError("--adapter: goes with one model; a second model has adapters in a server of its own")
    words = WordList.load(Path(arguments.word_list)) if arguments.word_list else None
    if words is not None and not len(words):
        raise UserError(f"{arguments.word_list}: holds no word; write one a line")
    if arguments.rows < 1 or arguments.queue < 0 or not 0 <= arguments.port < 65536:
        raise UserError("--rows must be at least 1, --queue at least 0, --port in 0..65535")
    import uvicorn

    from pangu.language_model import load
    from pangu.serving.application import Server
    from pangu.serving.connection import config_of

    models = {
        name: load(
            path, model=arguments.network, tokenizer=arguments.tokenizer, dtype=arguments.dtype, adapters=adapters
        )
        for name, path in paths.items()
    }
    for base in list(models.values()):
        models |= {name: base.adapted(name) for name in adapters}
    for model in models.values():
        _ = model.tokenizer
    hosts = (
        *LOOPBACK,
        *([] if arguments.host in ("0.0.0.0", "::") else [arguments.host.lower()]),
        *arguments.allow_host,
    )
    policy = Policy(keys, tuple(host.lower() for host in hosts), tuple(arguments.allow_origin))
    prefix_rows = None if arguments.prefix_rows < 0 else arguments.prefix_rows
    server = Server(models, policy, arguments.rows, arguments.queue, arguments.seconds, prefix_rows, words)
    server.start()
    config = config_of(server.application(), host=arguments.host, port=arguments.port)
    listening = listen(arguments.host, arguments.port)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print_translated(f"serving {', '.join(models)} on http://{shown}:{port}/ ; Ctrl-C ends", to=sys.stderr, flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn ends on these, and raises them once more when it has: then the engines still have to stop.
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        server.stop()
    return 0
