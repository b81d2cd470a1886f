"""Other pipelines over Chinese JSONL, each run in its own Python environment.

    PYTHON tests/benchmarks/clean_filter_peers.py PEER INPUT

INPUT is JSONL with `id` and `text`. Prints `{"version", "kept"}`. This file imports nothing of the project, so that a
peer's environment needs the peer only. No operator that would fetch a model is used."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

PROCESSES = 2


def data_juicer(source: Path) -> int:
    """The cleaning and filter operators of its recipes for Chinese, and its character MinHash."""
    minhash = {"tokenization": "character", "window_size": 5, "num_permutations": 112, "num_bands": 14}
    minhash |= {"num_rows_per_band": 8, "lowercase": True, "ignore_pattern": r"[\W_]"}
    process: list[dict] = [
        {"clean_email_mapper": {}},
        {"clean_links_mapper": {}},
        {"clean_ip_mapper": {}},
        {"fix_unicode_mapper": {}},
        {"chinese_convert_mapper": {"mode": "t2s"}},
        {"whitespace_normalization_mapper": {}},
        {"text_length_filter": {"min_len": 150}},
        {"alphanumeric_filter": {"tokenization": False, "min_ratio": 0.25}},
        {"average_line_length_filter": {"min_len": 10}},
        {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.3}},
        {"special_characters_filter": {"max_ratio": 0.4}},
        {"document_minhash_deduplicator": minhash},
    ]
    with TemporaryDirectory() as folder:
        recipe = {
            "project_name": "benchmark",
            "dataset_path": str(source),
            "export_path": f"{folder}/out.jsonl",
            "np": PROCESSES,
            "work_dir": folder,
            "use_cache": False,
            "process": process,
        }
        Path(folder, "recipe.yaml").write_text(json.dumps(recipe))
        program = Path(sys.executable).parent / "dj-process"
        subprocess.run([program, "--config", f"{folder}/recipe.yaml"], check=True, capture_output=True)
        return len(Path(folder, "out.jsonl").read_bytes().splitlines())


def datatrove(source: Path) -> int:
    """Its filters with FineWeb-2's thresholds for Mandarin (configs/cmn_Hani.yml), as FineWeb-2 runs them. Without
    deduplication, which takes it ten times as long again."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    language = "zho_Hani"
    with TemporaryDirectory() as folder:
        # it hands whole files to its tasks, so a task needs its own
        parts = Path(folder, "in")
        parts.mkdir()
        lines = source.read_bytes().splitlines(keepends=True)
        for task in range(PROCESSES):
            Path(parts, f"{task}.jsonl").write_bytes(b"".join(lines[task::PROCESSES]))
        pipeline = [
            JsonlReader(str(parts)),
            GopherRepetitionFilter(
                dup_line_frac=0.287,
                top_n_grams=((2, 0.256), (3, 0.201), (4, 0.171)),
                dup_n_grams=((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)),
                language=language,
            ),
            FineWebQualityFilter(line_punct_thr=0.106, new_line_ratio=0.178, short_line_thr=999, language=language),
            GopherQualityFilter(
                min_avg_word_length=1,
                max_avg_word_length=5,
                max_non_alpha_words_ratio=0.735,
                min_stop_words=2,
                stop_words=list("的年在月是和日了"),
                language=language,
            ),
            JsonlWriter(f"{folder}/out", compression=None),
        ]
        LocalPipelineExecutor(pipeline, tasks=PROCESSES, workers=PROCESSES, logging_dir=f"{folder}/logs").run()
        return sum(len(path.read_bytes().splitlines()) for path in Path(folder, "out").iterdir())


# name -> (distribution, function)
PEERS: dict[str, tuple[str, Callable[[Path], int]]] = {
    "data-juicer": ("py-data-juicer", data_juicer),
    "datatrove": ("datatrove", datatrove),
}


def main() -> None:
    """Run one peer."""
    distribution, function = PEERS[sys.argv[1]]
    kept = function(Path(sys.argv[2]))
    print(json.dumps({"version": f"{distribution} {version(distribution)}", "kept": kept}))


if __name__ == "__main__":
    main()
