"""Fuzzy deduplication end to end against other tools: `python -m tests.benchmarks.dedup --peer-python PYTHON ...`.

One JSONL file of real documents (where ../shared is, else generated ones) and planted duplicates goes in, the ids of
the kept documents come out. Time is wall time from the start of the command, two processes or threads each except
rensa, which has one. Recall and precision are those of what was planted and of exact Jaccard similarity, the same for
every tool.

    python -m tests.benchmarks.dedup --documents 100000 --peer-python /envs/rensa/bin/python --peers rensa
"""

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.dedup_check.planted_duplicates import FORM, KINDS, Planted, plant
from data_pipeline.kernels import minhash
from data_pipeline.kernels.normal_form import normal_form_table, normalise

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_CORPUS = REPOSITORY.parent / "shared" / "data" / "corpus"
PEERS_SCRIPT = REPOSITORY / "tests" / "benchmarks" / "dedup_peers.py"
PEERS = ("rensa", "text-dedup", "data-juicer", "datatrove")
MODULES = {
    "rensa-signatures": "rensa",
    "datasketch-signatures": "datasketch",
    "text-dedup": "text_dedup",
    "data-juicer": "data_juicer",
}
GRAM = 5
# Its workers are children of a server process that nobody waits for, so their processor time cannot be read.
UNCOUNTED = "datatrove"

Document = tuple[str, str]  # id, text


def corpus(count: int, seed: int = 1) -> list[Document]:
    """`count` documents: real ones, in a seeded order, filled up with generated ones."""
    documents: list[Document] = []
    for path in sorted(SHARED_CORPUS.glob("*.jsonl.gz")):
        with gzip.open(path, "rb") as lines:
            documents += [(record["id"], record["text"]) for record in map(json.loads, lines)]
    random.Random(seed).shuffle(documents)
    missing = max(0, count - len(documents))
    generated = chinese_grammar.documents(missing, seed)
    return documents[:count] + [(f"generated-{i:06}", text) for i, text in enumerate(generated)]


def write_jsonl(documents: list[Document], path: Path) -> Path:
    """Write `{"id", "text"}` a line."""
    with path.open("w", encoding="utf-8") as file:
        for identifier, text in documents:
            file.write(json.dumps({"id": identifier, "text": text}, ensure_ascii=False) + "\n")
    return path


def peer_interpreters(peers: list[str], candidates: list[Path]) -> dict[str, Path]:
    """The first interpreter that can import each peer; says which peers are absent."""
    found = {}
    for peer in peers:
        test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({MODULES.get(peer, peer)!r}) is None)"
        for python in [*candidates, Path(sys.executable)]:
            if subprocess.run([python, "-c", test], capture_output=True).returncode == 0:
                found[peer] = python
                break
        else:
            print(f"{peer}: absent (name an environment that has it with --peer-python)")
    return found


def run_peer(python: Path, peer: str, source: Path, kept: Path) -> dict[str, Any]:
    """Run one peer in its environment: `version`, `seconds` as it states them, and `cpu`, of it and its workers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = _cpu_seconds()
    done = subprocess.run(
        [python, PEERS_SCRIPT, peer, source, kept], env=environment, capture_output=True, text=True, cwd=kept.parent
    )
    if done.returncode:
        raise SystemExit(f"{peer} failed:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "cpu": _cpu_seconds() - before}


def _cpu_seconds() -> float:
    """Processor time of all finished child processes: on a shared machine a fairer measure than the wall."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def deduplicate_file(source: Path, kept: Path, threads: int) -> None:
    """This project's counterpart of a peer: JSONL in, ids out. Runs in a process of its own."""
    import pyarrow.json

    from data_pipeline.stages.dedup.signatures import deduplicate

    pa.set_cpu_count(threads)
    table = pyarrow.json.read_json(source, pyarrow.json.ReadOptions(block_size=16 << 20))
    clusters = deduplicate(table["text"], table["id"].to_numpy(), threads=threads)
    ids = table["id"].filter(pa.array(clusters.kept))
    kept.write_text("".join(f"{identifier}\n" for identifier in ids.to_pylist()), encoding="utf-8")


def run_ours(source: Path, kept: Path, threads: int) -> dict[str, Any]:
    """`deduplicate_file` in a new process, timed from its start."""
    command = [sys.executable, "-m", "tests.benchmarks.dedup", "--own", str(source), str(kept), str(threads)]
    started, before = time.perf_counter(), _cpu_seconds()
    subprocess.run(command, check=True, cwd=REPOSITORY)
    return {"version": "this project", "seconds": time.perf_counter() - started, "cpu": _cpu_seconds() - before}


class Judge:
    """Recall by kind and precision, from the ids that a tool kept."""

    def __init__(self, documents: list[Document], planted: list[Planted], per_kind: int) -> None:
        self.ids = [identifier for identifier, _ in documents]
        self.originals = len(documents) - len(planted)
        self.planted = planted
        self.per_kind = per_kind
        column = pa.array([text for _, text in documents], pa.large_string())
        self.values, self.offsets = normalise(column, normal_form_table())
        self.neighbours = self._neighbours()

    def _neighbours(self) -> dict[int, list[int]]:
        """Documents that share a band of 40 x 3, hence nearly all pairs with a similarity of 0.4 or more."""
        from data_pipeline.stages.dedup.signatures import FuzzySettings, band_rows, candidate_pairs

        settings = FuzzySettings(bands=40, rows=4, seed=99, neighbours=8)
        signature = np.empty((len(self.ids), settings.size), np.uint32)
        minhash.signatures(self.values, self.offsets, GRAM, settings.seed, signature)
        left, right = candidate_pairs(band_rows(signature, settings), settings.neighbours)
        equal = np.empty(left.size, np.uint16)
        minhash.agreements(signature, left, right, equal)
        likely = equal >= 0.35 * settings.size
        neighbours: dict[int, list[int]] = {}
        for a, b in zip(left[likely].tolist(), right[likely].tolist(), strict=True):
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
        return neighbours

    def _jaccard(self, left: list[int], right: list[int]) -> np.ndarray:
        out = np.empty(len(left), np.float32)
        minhash.jaccard(self.values, self.offsets, np.array(left, np.int64), np.array(right, np.int64), GRAM, out)
        return out

    def similarity(self, kind: str) -> float:
        """Mean exact similarity of the planted pairs of a kind."""
        pairs = [
            (self.originals + i, p.origin)
            for i, p in enumerate(self.planted)
            if p.kind == kind and p.origin is not None
        ]
        return float(self._jaccard([a for a, _ in pairs], [b for _, b in pairs]).mean())

    def judge(self, kept: Path) -> tuple[dict[str, float], int, float, int]:
        """Recall by kind, documents removed, share of these with a neighbour of 0.5 or more, forms removed."""
        left = set(kept.read_text(encoding="utf-8").split("\n"))
        gone = [i for i, identifier in enumerate(self.ids) if identifier not in left]
        removed = set(gone)
        recall = {}
        for kind in KINDS:
            # A pair is found when one of the two is gone.
            pairs = [(self.originals + i, p.origin) for i, p in enumerate(self.planted) if p.kind == kind]
            recall[kind] = sum(copy in removed or origin in removed for copy, origin in pairs) / len(pairs)
        sample = random.Random(0).sample(gone, min(3000, len(gone)))
        right = 0
        for document in sample:
            others = self.neighbours.get(document, [])
            right += bool(others) and bool((self._jaccard([document] * len(others), others) >= 0.5).any())
        forms = sum(p.kind == FORM and self.originals + i in removed for i, p in enumerate(self.planted))
        return recall, len(gone), right / max(1, len(sample)), forms


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--own"]:
        deduplicate_file(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, action="append", default=[], metavar="PYTHON")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--documents", type=int, default=20_000, help="all in all, planted ones included")
    parser.add_argument("--planted", type=int, default=250, help="of each kind")
    parser.add_argument("--rounds", type=int, default=1, help="each round runs every tool once")
    arguments = parser.parse_args()
    planted_count = arguments.planted * (len(KINDS) + 1)
    base = corpus(arguments.documents - planted_count)
    planted = plant([text for _, text in base], arguments.planted, seed=7)
    documents = [*base, *((f"planted-{i:06}", item.text) for i, item in enumerate(planted))]
    order = list(range(len(documents)))
    random.Random(3).shuffle(order)
    judge = Judge(documents, planted, arguments.planted)
    peers = peer_interpreters(arguments.peers, arguments.peer_python)
    with tempfile.TemporaryDirectory() as folder:
        source = write_jsonl([documents[i] for i in order], Path(folder, "in.jsonl"))
        size = source.stat().st_size / 1e6
        print(f"{len(documents)} documents, {size:.0f} MB, {arguments.planted} planted of each kind", flush=True)
        kinds = list(KINDS)
        print(
            f"{'':22}{'wall s':>8}{'ratio':>7}{'cpu s':>8}{'ratio':>7}{'removed':>9}{'J>=.5':>7}{'forms':>6}  recall: "
            + ", ".join(kinds)
        )
        print(f"{'mean similarity':74}  " + " ".join(f"{judge.similarity(kind):.2f}" for kind in kinds), flush=True)
        run_ours(source, Path(folder, "kept"), 1)  # compiles the kernels where they are not yet
        for _ in range(arguments.rounds):
            ours = run_ours(source, Path(folder, "kept"), 2)
            _print_row(ours, ours, judge, Path(folder, "kept"))
            for peer, python in peers.items():
                measured = run_peer(python, peer, source, Path(folder, "kept"))
                _print_row(measured, ours, judge, Path(folder, "kept"))


def _print_row(measured: dict[str, Any], ours: dict[str, Any], judge: Judge, kept: Path) -> None:
    recall, removed, precision, forms = judge.judge(kept)
    uncounted = measured["version"].startswith(UNCOUNTED)
    cpu = "" if uncounted else f"{measured['cpu']:8.2f}{measured['cpu'] / ours['cpu']:7.1f}"
    print(
        f"{measured['version']:22}{measured['seconds']:8.2f}{measured['seconds'] / ours['seconds']:7.1f}"
        f"{cpu:15}{removed:9}"
        f"{precision:7.3f}{forms:6}  " + " ".join(f"{value:.3f}" for value in recall.values()),
        flush=True,
    )


if __name__ == "__main__":
    main()
