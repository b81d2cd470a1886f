"""The documents in the forms of other tools: JSON lines, a Hugging Face dataset, Megatron's indexed dataset; and the
scores of classifiers that others have published.
"""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from data_pipeline.recipe import Recipe
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl
from tests.data_pipeline.test_language import SOFTMAX, model_bytes

READ = {"read": {"shard_bytes": 4000, "item_bytes": 8000}}


class IndexedDataset:
    """Megatron-LM's reader of its indexed dataset, as megatron/core/datasets/indexed_dataset.py defines the files."""

    def __init__(self, prefix: Path):
        data = prefix.with_suffix(".idx").read_bytes()
        assert data[:9] == b"MMIDIDX\x00\x00"
        version, code, count, documents = struct.unpack("<QBQQ", data[9:34])
        assert version == 1 and documents == count + 1
        self.kind = {8: np.uint16, 4: np.int32}[code]
        self.lengths = np.frombuffer(data, np.int32, count, 34)
        self.pointers = np.frombuffer(data, np.int64, count, 34 + 4 * count)
        self.documents = np.frombuffer(data, np.int64, documents, 34 + 12 * count)
        assert len(data) == 34 + 12 * count + 8 * documents
        self.bin = prefix.with_suffix(".bin").read_bytes()

    def __getitem__(self, number: int) -> np.ndarray:
        return np.frombuffer(self.bin, self.kind, self.lengths[number], self.pointers[number])


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    rows = [{"id": f"d{number}", "text": make_text(number, 6), "n": [number]} for number in range(40)]
    rows.append({"id": 12345678901234567890123, "text": make_text(41, 6), "n": 98765432109876543210987})
    write_jsonl(tmp_path / "a.jsonl", rows)
    return [{"name": "a", "paths": "a.jsonl"}]


def test_json_lines_and_a_dataset_with_a_card(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    settings = {"formats": ["jsonl", "jsonl.gz", "jsonl.zst", "datasets"], "title": "语料", "license": "cc-by-4.0"}
    for workers in (1, 2):
        run_recipe(recipe_at(sources, [READ, {"export": settings}], workers=workers), tmp_path / f"out-{workers}")
    assert contents(tmp_path / "out-1", "export") == contents(tmp_path / "out-2", "export")
    folder = tmp_path / "out-1" / "export"
    plain = b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl")))
    packed = b"".join(gzip.decompress(path.read_bytes()) for path in sorted(folder.glob("*.gz")))
    opened = zstandard.ZstdDecompressor()
    zipped = b"".join(opened.stream_reader(path.read_bytes()).read() for path in sorted(folder.glob("*.zst")))
    assert plain == packed == zipped
    rows = [json.loads(line) for line in plain.splitlines()]
    assert len(rows) == 41 and {"id", "text", "source", "meta"} == rows[0].keys()
    assert {row["id"] for row in rows} >= {"d0", "d39", "12345678901234567890123"}
    assert any(row["meta"] == {"n": 98765432109876543210987} for row in rows)
    # the files are called as `datasets` wants them, and hold the same texts
    parts = sorted((folder / "data").glob("train-*.parquet"))
    assert len(parts) > 1 and parts[-1].name == f"train-{len(parts) - 1:05d}-of-{len(parts):05d}.parquet"
    assert [row["text"] for part in parts for row in pq.read_table(part).to_pylist()] == [row["text"] for row in rows]
    card = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert card["dataset_info"]["splits"][0]["num_examples"] == 41 and card["license"] == "cc-by-4.0"


def test_megatron_reads_what_pack_packs(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], tokenizer_directory: Path
) -> None:
    stages = [READ, {"tokenizer": {"use": str(tokenizer_directory)}}]
    stages += [{"pack": {"seq_length": 32, "outputs": ["parquet"], "heldout_fraction": 0.2}}]
    stages += [{"megatron": {"heldout_fraction": 0.2}}]
    out = tmp_path / "out"
    summary = run_recipe(recipe_at(sources, stages, workers=2), out)
    splits = json.loads((out / "packed/packed.json").read_text())["splits"]
    for split in ("train", "heldout"):
        dataset = IndexedDataset(out / "megatron" / split)
        packed = [
            np.concatenate(pq.read_table(out / "packed" / file).column("input_ids").to_pylist())
            for file in splits[split]["files"]
        ]
        ids = np.concatenate([dataset[number] for number in range(len(dataset.lengths))])
        assert len(dataset.lengths) == splits[split]["documents"] == summary["megatron"].details[f"{split}_documents"]
        assert np.array_equal(ids, np.concatenate(packed)[: len(ids)]) and len(ids) == splits[split]["tokens"]
        assert dataset.documents.tolist() == list(range(len(dataset.lengths) + 1))


def test_published_classifiers_label_and_drop_nothing(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    for seed in (1, 2):
        (tmp_path / f"{seed}.bin").write_bytes(model_bytes(SOFTMAX, seed=seed))
    settings = {"quality": ["1.bin", "2.bin"], "domain": "1.bin", "good_labels": ["zh", "__label__wuu"]}
    rows = {}
    for combine in ("mean", "maximum"):
        out = tmp_path / combine
        run_recipe(recipe_at(sources, [READ, {"label": {**settings, "combine": combine}}], workers=2), out)
        rows[combine] = pq.read_table(out / "documents").to_pylist()
    assert len(rows["mean"]) == 41
    for mean, most in zip(rows["mean"], rows["maximum"], strict=True):
        score, bucket = (mean["signals"][name] for name in ("quality_score", "quality_bucket"))
        assert 0 <= score <= most["signals"]["quality_score"] <= 1 and bucket == min(int(score * 20), 19)
        assert mean["signals"]["toxicity_score"] is None
        meta = json.loads(mean["meta"])
        assert meta["domain"] in ("zh", "en", "ja", "ko", "wuu") and "n" in meta
    with pytest.raises(UserError, match=r"label.quality: .*3.bin: no such file"):
        Recipe.load(recipe_at(sources, ["read", {"label": {"quality": ["3.bin"]}}]))
    with pytest.raises(UserError, match=r"label.good_labels: .*1.bin has none of them; its labels are"):
        run_recipe(recipe_at(sources, [READ, {"label": {"quality": ["1.bin"]}}]), tmp_path / "none")
