"""How cost and memory grow with the corpus: `python -m tests.benchmarks.scale --megabytes 10 100`.

Generated corpora (seeded, so that anybody has the same ones) go through one recipe. For each size: wall time, processor
time of all processes, MB/s, and the most memory that the processes had together (proportional set size, shared pages
counted once) and that one of them had. Cost grows linearly where processor time for a MB stays the same; memory is flat
where it stops growing. A last line says how the time of each stage splits.

    python -m tests.benchmarks.scale --megabytes 10 100 500 --memory 2GB --engine local
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from data_pipeline.dedup_check import chinese_grammar

REPOSITORY = Path(__file__).resolve().parents[2]
SENTENCES = 60_000
DUPLICATES = 0.1
STAGES = [
    "read",
    {"clean": {"minimum_characters": 60}},
    {"filter": {"preset": "poetry-safe"}},
    "dedup_exact",
    "dedup_fuzzy",
    "dedup_paragraph",
]


def texts(seed: int) -> Iterator[str]:
    """Documents without end: sentences of the grammar in a new order, lengths log-normal, one in ten a near copy."""
    randomness = random.Random(seed)
    sentences = [chinese_grammar.sentence(randomness) for _ in range(SENTENCES)]
    recent: list[str] = []
    while True:
        if recent and randomness.random() < DUPLICATES:
            yield randomness.choice(recent) + randomness.choice(sentences)
            continue
        count = max(3, int(18 * randomness.lognormvariate(0, 0.8)))
        chosen = randomness.choices(sentences, k=count)
        text = "\n".join("".join(chosen[start : start + 5]) for start in range(0, count, 5))
        recent = [*recent[-99:], text]
        yield text


def write_corpus(folder: Path, megabytes: int) -> Path:
    """JSONL files of about 50 MB."""
    folder.mkdir(parents=True)
    written, number, source = 0, 0, texts(seed=1)
    while written < megabytes * 1_000_000:
        with open(folder / f"{written // 50_000_000:04d}.jsonl", "ab") as file:
            for _ in range(2000):
                record = {"id": str(number), "text": next(source)}
                written += file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                number += 1
    return folder


@dataclass
class Cost:
    """What a run took."""

    seconds: float
    cpu: float
    together: int
    largest: int
    stages: dict[str, float]
    documents: int


class MemoryWatch(threading.Thread):
    """Samples the memory of a process and its children, ten times a second."""

    def __init__(self, process: psutil.Process):
        super().__init__(daemon=True)
        self.process, self.together, self.largest = process, 0, 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.1):
            sizes = []
            try:
                for one in (self.process, *self.process.children(recursive=True)):
                    sizes.append(one.memory_full_info().pss)
            except psutil.Error:
                continue
            self.together = max(self.together, sum(sizes))
            self.largest = max(self.largest, *sizes)


def measure(corpus: Path, memory: str, engine: str, workers: int) -> Cost:
    """One run from nothing, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:
        recipe = Path(folder) / "recipe.yaml"
        content = {"sources": [{"name": "generated", "paths": str(corpus)}], "stages": STAGES, "workers": workers}
        recipe.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", f"{folder}/out", "--json"]
        command += ["--memory", memory, "--engine", engine, "--workers", str(workers)]
        before, start = _cpu_seconds(), time.perf_counter()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        watch = MemoryWatch(psutil.Process(process.pid))
        watch.start()
        output, _ = process.communicate()
        seconds = time.perf_counter() - start
        watch.ended.set()
        if process.returncode:
            raise SystemExit(f"the run failed with exit code {process.returncode}")
        stages = json.loads(output.splitlines()[-1])["stages"]
        return Cost(
            seconds,
            _cpu_seconds() - before,
            watch.together,
            watch.largest,
            {stage["name"]: stage["seconds"] for stage in stages},
            stages[-1]["documents"],
        )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--engine", default="local", choices=("local", "spark"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(f"engine {arguments.engine}, {arguments.workers} workers, --memory {arguments.memory}")
    print("     MB  documents  wall s  cpu s   cpu s/GB  MB/s/core  all processes  largest  ", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in arguments.megabytes:
            corpus = write_corpus(Path(folder) / str(megabytes), megabytes)
            cost = measure(corpus, arguments.memory, arguments.engine, arguments.workers)
            size = sum(path.stat().st_size for path in corpus.iterdir()) / 1e6
            print(
                f"{size:7.1f}{cost.documents:11,}{cost.seconds:8.1f}{cost.cpu:7.1f}{1000 * cost.cpu / size:11.0f}"
                f"{size / cost.cpu:11.2f}{cost.together / 1e9:12.2f} GB{cost.largest / 1e9:6.2f} GB",
                flush=True,
            )
            total = sum(cost.stages.values())
            print("        " + ", ".join(f"{name} {100 * s / total:.0f} %" for name, s in cost.stages.items()))


if __name__ == "__main__":
    main()
