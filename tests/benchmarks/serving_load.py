"""The server under load: time to the first token and between tokens, errors, continuous against static batches, memory.

    python -m tests.benchmarks.serving_load                          # all parts, minutes on two quiet cores
    python -m tests.benchmarks.serving_load --part memory --requests 10000
    python -m tests.benchmarks.serving_load --part streams --streams 32 --clients 200

A model of random weights (`--layers`, `--hidden`) is served by `python -m pangu serve` in a process of its own. Lengths
are drawn from an exponential distribution, as answers' lengths are: most are short, some are long.

streams   `--clients` requests, `--streams` at a time: p50 and p99 to the first token and between tokens, errors.
static    the same requests, in groups of `--rows` that wait for their slowest, as a server without continuous batching
          answers: tokens a second of both. The groups pay no HTTP.
queue     1,000 clients at once on a queue of 16: how many are answered, how many get 429, and how fast.
memory    `--requests` short ones: resident memory of the server as they go by.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pangu.tokenizer import Tokenizer
from tests.pangu import small_model

PARTS = ("streams", "static", "queue", "memory")


@dataclass
class Told:
    """What one request measured, in seconds."""

    status: int
    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    whole: float = 0.0


@contextlib.contextmanager
def served(folder: Path, *words: str) -> Iterator[tuple[int, psutil.Process]]:
    """`pangu serve` -> (port, process)."""
    command = [sys.executable, "-m", "pangu", "serve", str(folder / "weights.safetensors"), "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        for line in process.stderr:
            found = re.search(r"http://[^:]+:(\d+)/", line)
            if found:
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def ask(port: int, body: dict[str, Any]) -> Told:
    """Ask for a stream, and measure it."""
    start = time.perf_counter()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        client.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = client.getresponse()
        told, last = Told(answer.status), start
        if answer.status != 200 or not body.get("stream"):
            text = answer.read()
            told.tokens = json.loads(text)["usage"]["completion_tokens"] if answer.status == 200 else 0
        else:
            for line in answer:
                if line.startswith(b"data: {"):
                    now = time.perf_counter()
                    if told.tokens:
                        told.gaps.append(now - last)
                    else:
                        told.first = now - start
                    told.tokens, last = told.tokens + 1, now
        told.whole = time.perf_counter() - start
        return told
    except OSError:
        return Told(0)
    finally:
        client.close()


def requests_of(count: int, mean: int, most: int, end: int) -> list[dict[str, Any]]:
    """Requests whose lengths are exponential; the end of a document never comes, so that lengths are those."""
    random = np.random.default_rng(5)
    lengths = np.clip(random.exponential(mean, count).astype(int), 1, most)
    prompts = ["今天天气很好", "北京是中国的首都", "人", "他说：“你好！”然后就走了。" * 4]
    return [
        {
            "prompt": prompts[number % 4],
            "max_tokens": int(length),
            "seed": number,
            "logit_bias": {str(end): -100},
            "stream": True,
            "logprobs": 0,  # an event for every token, also where its text is held back
        }
        for number, length in enumerate(lengths)
    ]


def percentiles(values: list[float]) -> str:
    if not values:
        return "-"
    return f"p50 {np.percentile(values, 50) * 1e3:.1f} ms, p99 {np.percentile(values, 99) * 1e3:.1f} ms"


def run_streams(port: int, asked: list[dict[str, Any]], streams: int) -> float:
    """Ask, so many at a time -> tokens a second of all."""
    start = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        found = list(pool.map(lambda body: ask(port, body), asked))
    seconds, tokens = time.perf_counter() - start, sum(one.tokens for one in found)
    print(f"streams: {len(asked)} requests, {streams} at a time, {tokens} tokens in {seconds:.1f} s")
    print(f"  {tokens / seconds:,.0f} tokens/s; answers by status {dict(Counter(one.status for one in found))}")
    print(f"  first token {percentiles([one.first for one in found if one.tokens])}")
    print(f"  next token {percentiles([gap for one in found for gap in one.gaps])}")
    return tokens / seconds


def run_static(folder: Path, asked: list[dict[str, Any]], rows: int) -> float:
    """Answer in groups that wait for their slowest -> tokens a second of all."""
    import pangu
    from pangu.generation import GenerationOptions

    model = pangu.load(folder / "weights.safetensors", tokenizer=folder / "tokenizer", batch_size=rows)
    options = [
        GenerationOptions(max_new_tokens=one["max_tokens"], seed=one["seed"], temperature=1.0, top_k=0) for one in asked
    ]
    ids = [model.ids(one["prompt"]) for one in asked]
    model.generator.generate(ids[:rows], options[:rows])  # compiles
    start = time.perf_counter()
    groups = range(0, len(asked), rows)
    found = [model.generator.generate(ids[at : at + rows], options[at : at + rows]) for at in groups]
    seconds, tokens = time.perf_counter() - start, sum(len(one.ids) for group in found for one in group)
    print(f"static: groups of {rows}, {tokens} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s")
    return tokens / seconds


def run_queue(port: int) -> None:
    """1,000 clients at once."""
    body = {"prompt": "人", "max_tokens": 20, "stream": False}
    with ThreadPoolExecutor(1000) as pool:
        found = list(pool.map(lambda number: ask(port, body | {"seed": number}), range(1000)))
    refused = [one.whole for one in found if one.status == 429]
    print(f"queue: 1000 clients at once, by status {dict(Counter(one.status for one in found))}")
    print(f"  429 after {percentiles(refused)}; the server lives: {ask(port, body | {'seed': 1}).status == 200}")


def run_memory(port: int, server: psutil.Process, count: int) -> None:
    """Many short requests; memory every tenth of them."""
    sizes, random = [], np.random.default_rng(9)
    with ThreadPoolExecutor(8) as pool:
        for tenth in range(11):
            bodies = [
                {"prompt": "天气" * int(random.integers(1, 40)), "max_tokens": int(random.integers(1, 6)), "seed": one}
                for one in range(max(1, count // 10) if tenth else 200)
            ]
            statuses = Counter(one.status for one in pool.map(lambda body: ask(port, body), bodies))
            sizes.append(server.memory_info().rss / 2**20)
            assert set(statuses) == {200}, statuses
    shown = ", ".join(f"{size:.0f}" for size in sizes)
    print(f"memory: {count} requests; MiB after 200 and after every tenth: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--clients", type=int, default=96)
    parser.add_argument("--mean", type=int, default=40, help="tokens of an answer on average")
    parser.add_argument("--requests", type=int, default=10_000, help="of the part `memory`")
    given = parser.parse_args()
    parts = given.part or PARTS
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"num_layers": given.layers, "hidden_size": given.hidden, "ffn_hidden_size": 4 * given.hidden}
        small_model.write(folder, seq_length=512, num_heads=max(1, given.hidden // 64), **sizes)
        end = Tokenizer.load(folder / "tokenizer").special.end_of_document
        asked = requests_of(given.clients, given.mean, 400, end)
        words = ("--rows", str(given.rows), "--queue", str(given.clients))
        with served(folder, *words) as (port, server):
            reached = run_streams(port, asked, given.streams) if {"streams", "static"} & set(parts) else 0.0
            if "memory" in parts:
                run_memory(port, server, given.requests)
        if "queue" in parts:
            with served(folder, "--rows", str(given.rows), "--queue", "16") as (port, _):
                run_queue(port)
        if "static" in parts:
            print(f"continuous over static: {reached / run_static(folder, asked, given.rows):.2f}")


if __name__ == "__main__":
    main()
