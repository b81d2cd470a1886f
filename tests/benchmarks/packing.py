"""How fast and in how much memory documents are packed, beside the tokenizer alone in the same run.

    python -m tests.benchmarks.packing [--corpus FILE.jsonl.gz ...] [--megabytes 20] [--rounds 3]

Each round encodes the documents with the tokenizer alone in one process, then packs the same documents with one
worker (encode, order, write MindRecord), and compares their CPU time, which a busy machine disturbs least. Memory is
the largest resident size of any process of a run, on the corpus and on four times as much: flat once a corpus is
larger than a shard (64 MB of text). Without --corpus the documents come from the seeded grammar."""

import argparse
import importlib.metadata
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from data_pipeline.dedup_check.chinese_grammar import documents
from data_pipeline.engine.progress import Quiet
from data_pipeline.engine.run_recipe import run
from data_pipeline.recipe import Recipe
from data_pipeline.stages.tokenizer.training_process import train_tokenizer
from pangu.tokenizer import Tokenizer

GROWTH = 4


class PeakMemory:
    """The largest resident size of this process's children, sampled in a thread."""

    def __enter__(self) -> "PeakMemory":
        self.bytes = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self.is_over.wait(0.05):
            for process in own.children(recursive=True):
                try:
                    self.bytes = max(self.bytes, process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def take(texts: Iterator[str], size: int) -> list[str]:
    """Texts of about `size` bytes together."""
    taken, total = [], 0
    for text in texts:
        taken.append(text)
        total += len(text.encode())
        if total >= size:
            break
    return taken


def corpus_texts(files: list[Path]) -> Iterator[str]:
    """The texts of JSONL files, read by the pipeline's own reader."""
    from data_pipeline.recipe import Source
    from data_pipeline.stages.read.stage import Settings, items, read

    class Progress:
        def at(self, number: int) -> bool:
            return True

        def done(self, documents: int, size: int) -> None: ...

    settings = Settings()
    source = Source(name="corpus", paths=tuple(str(file.absolute()) for file in files))
    for item in items([source], settings, Path()):
        for batch in read(item.payload, settings, Progress()):
            for row in batch.select(["text", "drop_reason"]).to_pylist():
                if row["drop_reason"] is None:
                    yield row["text"]


def pack(folder: Path, texts: list[str], tokenizer: Path, copies: int) -> tuple[float, float]:
    """(CPU seconds of the pack stage in its worker, largest resident MiB) for `copies` times the texts."""
    folder.mkdir()
    for copy in range(copies):
        pq.write_table(pa.table({"text": texts}), folder / f"{copy}.parquet", row_group_size=2000)
    stages: list[Any] = ["read", {"tokenizer": {"use": str(tokenizer)}}, {"pack": {"seq_length": 1024}}]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"sources": [{"name": "a", "paths": "*.parquet"}], "stages": stages, "workers": 1}))
    recipe = Recipe.load(path)
    run(recipe, folder / "out", Quiet(), until="tokenizer")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with PeakMemory() as peak:
        run(recipe, folder / "out", Quiet())
    return cpu_seconds(before), peak.bytes / (1 << 20)


def cpu_seconds(before: resource.struct_rusage) -> float:
    """What the child processes that ended since have used."""
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime


def import_seconds() -> float:
    """CPU seconds of a process that imports MindSpore's writer and nothing else."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import mindspore.mindrecord"], check=True, capture_output=True)
    return cpu_seconds(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, help="default: one of 8,000 pieces trained on the texts")
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    source = corpus_texts(arguments.corpus) if arguments.corpus else documents(10**9, seed=1)
    texts = take(source, arguments.megabytes << 20)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        directory = (arguments.tokenizer or root / "tokenizer").absolute()
        if arguments.tokenizer is None:
            train_tokenizer(texts[:2000], directory, vocab_size=8000, model_type="bpe", threads=2)
        tokenizer = Tokenizer.load(directory)
        tokenizer.encode_batch(texts[:20])
        rows = []
        for number in range(arguments.rounds):
            start = time.process_time()
            for first in range(0, len(texts), 500):
                tokenizer.encode_batch(texts[first : first + 500])
            alone = time.process_time() - start
            packing, peak = pack(root / f"round-{number}", texts, directory, 1)
            rows.append((alone, packing, import_seconds(), peak))
        _, large_peak = pack(root / "large", texts, directory, GROWTH)
    libraries = ("mindspore", "sentencepiece", "pyarrow", "duckdb")
    print(", ".join(f"{library} {importlib.metadata.version(library)}" for library in libraries))
    print(f"{len(texts):,} documents, {megabytes:.1f} MB; CPU seconds of one process")
    print("round  tokenizer alone  packing  of it the import of MindSpore  tokenizer / rest of packing")
    ratios = [alone / (packing - loading) for alone, packing, loading, _ in rows]
    for number, ((alone, packing, loading, _), ratio) in enumerate(zip(rows, ratios, strict=True), 1):
        print(f"{number:>5}  {alone:>15.2f}  {packing:>7.2f}  {loading:>29.2f}  {ratio:>27.2f}")
    print(
        f"median ratio {statistics.median(ratios):.2f}; the tokenizer takes {megabytes / rows[-1][0]:.1f} MB/s of CPU"
    )
    small, large = max(peak for *_, peak in rows), GROWTH * megabytes
    print(f"largest process: {small:.0f} MiB on {megabytes:.0f} MB, {large_peak:.0f} MiB on {large:.0f} MB")


if __name__ == "__main__":
    main()
