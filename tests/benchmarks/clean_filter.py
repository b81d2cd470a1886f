"""Clean, filter and deduplicate Chinese JSONL against other pipelines, from the start of the command to its end.

    python -m tests.benchmarks.clean_filter --peer-python data-juicer=/envs/juicer/bin/python \\
        --peer-python datatrove=/envs/datatrove/bin/python

One JSONL file of real documents (where ../shared is, else generated ones) goes in; ours cleans with every rule,
filters with the preset `strict` and deduplicates, exactly and fuzzily. data-juicer runs the operators of its recipes
for Chinese and its MinHash; datatrove runs its filters with FineWeb-2's thresholds for Chinese and no deduplication.
Two processes each, turn by turn; the ratios are those of the same turn. Peers: `pip install py-data-juicer==1.6.1
aiohttp`, `pip install 'datatrove[processing]==0.10.1' spacy jieba lxml_html_clean orjson`, each in an environment of
its own."""

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_pipeline.dedup_check import chinese_grammar

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_CORPUS = REPOSITORY.parent / "shared" / "data" / "corpus"
PEERS_SCRIPT = Path(__file__).with_name("clean_filter_peers.py")
# none of its own processes may use more threads than it has
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def write_corpus(path: Path, size: int) -> int:
    """About `size` bytes of text: the same share of every file of the corpus. Returns the bytes of text."""
    sources = sorted(SHARED_CORPUS.glob("*.jsonl.gz"))
    written = 0
    with path.open("w", encoding="utf-8") as out:
        for source in sources:
            taken = 0
            with gzip.open(source, "rt", encoding="utf-8") as lines:
                for line in lines:
                    record = json.loads(line)
                    taken += len(record["text"].encode())
                    out.write(json.dumps({"id": record["id"], "text": record["text"]}, ensure_ascii=False) + "\n")
                    if taken > size / len(sources):
                        break
            written += taken
        for number, text in enumerate(chinese_grammar.documents(0 if sources else size // 1500, seed=1)):
            written += len(text.encode())
            out.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
    return written


def run_ours(source: Path, folder: Path) -> tuple[float, int]:
    """(seconds, documents kept)."""
    recipe = folder / "recipe.yaml"
    stages = ["read", "clean", {"filter": {"preset": "strict"}}, "dedup_exact", "dedup_fuzzy"]
    content = {"sources": [{"name": "corpus", "paths": [str(source)]}], "stages": stages, "workers": 2}
    recipe.write_text(json.dumps(content))
    out = folder / f"out-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", str(out), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    seconds = time.perf_counter() - started
    return seconds, json.loads(done.stdout.splitlines()[-1])["stages"][-1]["documents"]


def run_peer(name: str, python: str, source: Path) -> tuple[float, int, str]:
    """(seconds, documents kept, version)."""
    started = time.perf_counter()
    done = subprocess.run(
        [python, str(PEERS_SCRIPT), name, str(source)], capture_output=True, env={**os.environ, **ONE_THREAD}, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return seconds, answer["kept"], answer["version"]


def processor_seconds() -> float:
    """User and system time of all processes that have ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", action="append", default=[], metavar="PEER=PYTHON")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    peers = dict(entry.split("=", 1) for entry in arguments.peer_python)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "corpus.jsonl")
        size = write_corpus(source, int(arguments.megabytes * 1e6)) / 1e6
        documents = len(source.read_bytes().splitlines())
        print(f"{size:.1f} MB of text, {documents:,} documents, two processes each; load {os.getloadavg()[0]:.1f}")
        warm = Path(folder, "warm")
        warm.mkdir()
        first = source.read_bytes().splitlines(keepends=True)[:20]
        (warm / "few.jsonl").write_bytes(b"".join(first))
        run_ours(warm / "few.jsonl", warm)  # compiles the kernels, once for a machine
        own: list[float] = []
        others: dict[str, list[float]] = {name: [] for name in peers}
        for turn in range(arguments.turns):
            before = processor_seconds()
            seconds, kept = run_ours(source, Path(folder))
            processor = processor_seconds() - before
            own.append(seconds)
            print(
                f"turn {turn + 1}: ours {seconds:.2f} s ({processor:.1f} s of processors), {size / seconds:.2f} MB/s,"
                f" {kept:,} kept",
                flush=True,
            )
            for name, python in peers.items():
                # without its processor time: datatrove's workers are nobody's children
                peer_seconds, peer_kept, label = run_peer(name, python, source)
                others[name].append(peer_seconds)
                print(
                    f"turn {turn + 1}: {label} {peer_seconds:.2f} s, {size / peer_seconds:.2f} MB/s,"
                    f" {peer_kept:,} kept; ours is {peer_seconds / seconds:.1f} times as fast",
                    flush=True,
                )
        for name, times in others.items():
            ratio = statistics.median(other / ours for other, ours in zip(times, own, strict=True))
            print(f"{name}: {ratio:.1f} times, median of {len(times)} turns")


if __name__ == "__main__":
    main()
