"""MinHash signatures on one core against rensa and datasketch.

    python -m tests.benchmarks.minhash --peer-python PYTHON

The same 2,500 Chinese documents, 112 numbers a signature, character 5-grams without punctuation. The time is that of
turning texts in memory into signatures, interpreter start and reading left out. Runs are interleaved.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.stages.dedup.signatures import FuzzySettings, sketch
from tests.benchmarks.dedup import corpus, peer_interpreters, run_peer, write_jsonl


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, action="append", default=[], metavar="PYTHON")
    parser.add_argument("--documents", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    settings = FuzzySettings(bands=14, rows=8)
    documents = corpus(arguments.documents)
    column = pa.array([text for _, text in documents], pa.large_string())
    megabytes = column.nbytes / 1e6
    sketch(column[:2], settings)
    peers = peer_interpreters(["rensa-signatures", "datasketch-signatures"], arguments.peer_python)
    seconds: dict[str, list[float]] = {"this project": []}
    with tempfile.TemporaryDirectory() as folder:
        source = write_jsonl(documents, Path(folder, "in.jsonl"))
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            sketch(column, settings)
            seconds["this project"].append(time.perf_counter() - started)
            for peer, python in peers.items():
                measured = run_peer(python, peer, source, Path(folder, "out"))
                seconds.setdefault(measured["version"], []).append(measured["seconds"])
    print(f"{len(documents)} documents, {megabytes:.1f} MB, {settings.size} numbers, best of {arguments.rounds}")
    ours = min(seconds["this project"])
    for name, runs in seconds.items():
        ratios = np.array(runs) / np.array(seconds["this project"])
        spread = f"pairwise {ratios.min():.1f} to {ratios.max():.1f}"
        print(f"{name:22}{megabytes / min(runs):10.1f} MB/s{min(runs) / ours:8.1f}x  ({spread})")


if __name__ == "__main__":
    main()
