"""Other deduplicators, each run in its own Python environment.

    PYTHON tests/benchmarks/dedup_peers.py PEER INPUT OUTPUT

INPUT is JSONL with `id` and `text`; the ids of the kept documents go to OUTPUT, one a line (for a signature peer,
nothing). Prints `{"version", "seconds"}`; the seconds of a signature peer are those of its signatures alone. This file
imports nothing of the project, so that a peer's environment needs the peer only. Settings are those nearest to
character 5-grams and 14 bands of 8 rows that the peer has.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

BANDS, ROWS, GRAM = 14, 8, 5
PROCESSES = 2
_PUNCTUATION = re.compile(r"[\W_]+")


def _documents(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _grams(text: str) -> list[str]:
    text = _PUNCTUATION.sub("", text.lower())
    return [text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1))]


def _write_ids(path: Path, ids: list[str]) -> None:
    path.write_text("".join(f"{identifier}\n" for identifier in ids), encoding="utf-8")


def rensa_signatures(source: Path, kept: Path) -> float:
    """RMinHash, the faster of rensa's two."""
    from rensa import RMinHash

    texts = [document["text"] for document in _documents(source)]
    started = time.perf_counter()
    for text in texts:
        RMinHash(num_perm=BANDS * ROWS, seed=1).update(_grams(text))
    return time.perf_counter() - started


def datasketch_signatures(source: Path, kept: Path) -> float:
    """datasketch.MinHash with its default hash."""
    from datasketch import MinHash

    texts = [document["text"] for document in _documents(source)]
    started = time.perf_counter()
    for text in texts:
        MinHash(num_perm=BANDS * ROWS, seed=1).update_batch([gram.encode() for gram in _grams(text)])
    return time.perf_counter() - started


def rensa(source: Path, kept: Path) -> float:
    """A loop that keeps a document when the index holds nothing like it."""
    from rensa import RMinHash, RMinHashLSH

    started = time.perf_counter()
    index = RMinHashLSH(threshold=0.7, num_perm=BANDS * ROWS, num_bands=BANDS)
    ids = []
    for key, document in enumerate(_documents(source)):
        signature = RMinHash(num_perm=BANDS * ROWS, seed=1)
        signature.update(_grams(document["text"]))
        if not index.query(signature):
            ids.append(document["id"])
            index.insert(key, signature)
    _write_ids(kept, ids)
    return time.perf_counter() - started


def text_dedup(source: Path, kept: Path) -> float:
    """Its MinHash command with its own splitter (`\\W`)."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "text_dedup.minhash", "--path", "json", "--data_files", str(source)]
        command += [
            "--split",
            "train",
            "--column",
            "text",
            "--output",
            f"{folder}/out",
            "--cache_dir",
            f"{folder}/cache",
        ]
        command += ["--num_perm", str(BANDS * ROWS), "--b", str(BANDS), "--r", str(ROWS), "--ngram", str(GRAM)]
        command += ["--num_proc", str(PROCESSES)]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        from datasets import load_from_disk

        _write_ids(kept, load_from_disk(f"{folder}/out")["id"])
    return seconds


def datatrove(source: Path, kept: Path) -> float:
    """Its four MinHash steps with the Chinese word tokenizer, as FineWeb-2 runs them."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=GRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    with TemporaryDirectory() as folder:
        # It hands whole files to its tasks, so a task needs its own.
        parts = Path(folder, "in")
        parts.mkdir()
        lines = source.read_bytes().splitlines(keepends=True)
        for task in range(PROCESSES):
            Path(parts, f"{task}.jsonl").write_bytes(b"".join(lines[task::PROCESSES]))
        del lines
        work = [f"{folder}/signatures", f"{folder}/buckets", f"{folder}/remove"]
        steps = [
            ([JsonlReader(str(parts)), MinhashDedupSignature(work[0], config, language="zho_Hani")], PROCESSES),
            ([MinhashDedupBuckets(work[0], work[1], config=config)], BANDS),
            ([MinhashDedupCluster(work[1], work[2], config=config)], 1),
            (
                [JsonlReader(str(parts)), MinhashDedupFilter(work[2]), JsonlWriter(f"{folder}/out", compression=None)],
                PROCESSES,
            ),
        ]
        started = time.perf_counter()
        for number, (pipeline, tasks) in enumerate(steps):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=PROCESSES, logging_dir=f"{folder}/logs{number}").run()
        seconds = time.perf_counter() - started
        _write_ids(kept, [document["id"] for path in Path(folder, "out").iterdir() for document in _documents(path)])
    return seconds


def data_juicer(source: Path, kept: Path) -> float:
    """`dj-process` with its character MinHash."""
    with TemporaryDirectory() as folder:
        operator = {"tokenization": "character", "window_size": GRAM, "num_permutations": BANDS * ROWS}
        operator |= {"num_bands": BANDS, "num_rows_per_band": ROWS, "ignore_pattern": r"[\W_]"}
        recipe = {
            "project_name": "benchmark",
            "dataset_path": str(source),
            "export_path": f"{folder}/out.jsonl",
            "np": PROCESSES,
            "work_dir": folder,
            "use_cache": False,
            "process": [{"document_minhash_deduplicator": operator}],
        }
        Path(folder, "recipe.yaml").write_text(json.dumps(recipe))
        program = Path(sys.executable).parent / "dj-process"
        started = time.perf_counter()
        subprocess.run([program, "--config", f"{folder}/recipe.yaml"], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        _write_ids(kept, [document["id"] for document in _documents(Path(folder, "out.jsonl"))])
    return seconds


# name -> (distribution, function)
PEERS: dict[str, tuple[str, Callable[[Path, Path], float]]] = {
    "rensa-signatures": ("rensa", rensa_signatures),
    "datasketch-signatures": ("datasketch", datasketch_signatures),
    "rensa": ("rensa", rensa),
    "text-dedup": ("text-dedup", text_dedup),
    "data-juicer": ("py-data-juicer", data_juicer),
    "datatrove": ("datatrove", datatrove),
}


def main() -> None:
    """Run one peer and print what it took."""
    name, source, kept = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    distribution, function = PEERS[name]
    seconds = function(source, kept)
    print(json.dumps({"version": f"{distribution} {version(distribution)}", "seconds": seconds}))


if __name__ == "__main__":
    main()
