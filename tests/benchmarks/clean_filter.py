"""Clean, filter and deduplicate Chinese JSONL against other pipelines, from the start of the command to its end.

    python -m tests.benchmarks.clean_filter --peer-python data-juicer=/envs/juicer/bin/python \\
        --peer-python datatrove=/envs/datatrove/bin/python

One JSONL file of real documents (where ../shared is, else generated ones) goes in; ours cleans with every rule,
filters with the preset `strict` and deduplicates, exactly and fuzzily. data-juicer runs the operators of its recipes
for Chinese and its MinHash; datatrove runs its filters with FineWeb-2's thresholds for Chinese and no deduplication.
Two processes each, turn by turn; the ratios are those of the same turn, of wall time and of the processor time of all
processes, which says more on a machine with other work. Peers: `pip install py-data-juicer==1.6.1
aiohttp`, `pip install 'datatrove[processing]==0.10.1' spacy jieba lxml_html_clean orjson`, each in an environment of
its own."""

import argparse
import ctypes
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


def run_peer(name: str, python: str, source: Path) -> tuple[float, float, int, str]:
    """(seconds, seconds of processors, documents kept, version)."""
    before, started = processor_seconds(), time.perf_counter()
    done = subprocess.run(
        [python, str(PEERS_SCRIPT), name, str(source)], capture_output=True, env={**os.environ, **ONE_THREAD}, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return seconds, processor_seconds() - before, answer["kept"], answer["version"]


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends first, as datatrove's workers and their server do."""
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER of Linux


def processor_seconds() -> float:
    """User and system time of all processes that have ended so far; waits for those that still end."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
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
        # compiles the kernels, once for a machine
        subprocess.run([sys.executable, "-m", "data_pipeline", "warm"], check=True, capture_output=True, cwd=REPOSITORY)
        adopt_orphans()
        ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
        for turn in range(arguments.turns):
            before = processor_seconds()
            seconds, kept = run_ours(source, Path(folder))
            processor = processor_seconds() - before
            print(
                f"turn {turn + 1}: ours {seconds:.2f} s ({processor:.1f} s of processors), {size / seconds:.2f} MB/s,"
                f" {kept:,} kept",
                flush=True,
            )
            for name, python in peers.items():
                peer_seconds, peer_processor, peer_kept, label = run_peer(name, python, source)
                ratios[name].append((peer_seconds / seconds, peer_processor / processor))
                print(
                    f"turn {turn + 1}: {label} {peer_seconds:.2f} s ({peer_processor:.1f} s of processors),"
                    f" {size / peer_seconds:.2f} MB/s, {peer_kept:,} kept; ours is {peer_seconds / seconds:.1f} times"
                    f" as fast, {peer_processor / processor:.1f} times by processors",
                    flush=True,
                )
        for name, found in ratios.items():
            wall, processors = (statistics.median(values) for values in zip(*found, strict=True))
            print(f"{name}: {wall:.1f} times, {processors:.1f} times by processors; medians of {len(found)} turns")


if __name__ == "__main__":
    main()
