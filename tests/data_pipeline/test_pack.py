"""Packing: nothing lost, nothing twice, every piece traced, the same bytes however the work is cut."""

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline import record
from data_pipeline.engine.preview import preview
from data_pipeline.engine.run_files import checksum
from data_pipeline.engine.shard import ShardWriter
from data_pipeline.engine.steps import Context, InputFile
from data_pipeline.recipe import Recipe
from data_pipeline.stages.pack import stage as pack
from data_pipeline.stages.pack.stage import Settings
from pangu.foundation.errors import UserError
from pangu.tokenizer import Tokenizer
from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl


def input_files(folder: Path) -> list[InputFile]:
    return [InputFile(path, checksum(path)) for path in sorted(folder.rglob("*")) if path.is_file()]


def write_shards(root: Path, texts: Sequence[str], cuts: Sequence[int]) -> list[InputFile]:
    """Documents with numbers from 1 as record shards; `cuts` are their sizes."""
    schema = record.schema(["bytes"])
    files = []
    place = 0
    for number, size in enumerate([*cuts, len(texts)]):
        rows = [
            dict.fromkeys(schema.names)
            | {
                "doc_id": place + index + 1,
                "source": "s",
                "path": "p",
                "offset": 0,
                "text": text,
                "signals": {"bytes": 1.0},
            }
            | {"id": f"own-{place + index + 1}"}
            for index, text in enumerate(texts[place : place + size])
        ]
        place += size
        if rows:
            writer = ShardWriter(root, f"documents/{number:05d}", schema, "kept")
            writer.write(pa.RecordBatch.from_pylist(rows, schema=schema))
            (output,) = writer.close()
            files.append(InputFile(root / output.path, output.checksum, output.rows))
    return files


def pack_here(root: Path, chosen: Settings, documents: list[InputFile], tokenizer: list[InputFile]) -> Path:
    """The steps of the stage, one after the other, in this process."""

    def context(name: str, **inputs: list[InputFile]) -> Context:
        directory = root / name
        directory.mkdir(parents=True)
        return Context(chosen, inputs, directory, root / "scratch", 1, 1 << 28, lambda documents, size: None)

    for item in pack.token_items(context("unused", documents=documents, tokenizer=tokenizer)):
        pack.write_tokens(item.payload, context(f"tokens/{item.name}", tokenizer=tokenizer))
    tokens = input_files(root / "tokens")
    pack.write_layout(context("layout", tokens=tokens))
    layout = input_files(root / "layout")
    inputs = {"tokens": tokens, "layout": layout, "tokenizer": tokenizer}
    (root / "packed").mkdir()
    for item in pack.sample_items(context("unused-2", **inputs)):
        made = context(f"samples/{item.name}", **inputs)
        pack.write_samples(item.payload, made)
        for path in made.directory.iterdir():
            path.rename(root / "packed" / path.name)
    pack.write_index(context("index", layout=layout, tokenizer=tokenizer))
    (root / "index" / "packed.json").rename(root / "packed" / "packed.json")
    return root / "packed"


def samples_of(packed: Path, split: str) -> np.ndarray:
    """int32[samples, seq_length + 1] of a split, from its Parquet files."""
    index = json.loads((packed / "packed.json").read_text())
    tables = [pq.read_table(packed / name) for name in index["splits"][split]["files"]]
    rows = [row for table in tables for row in table.column("input_ids").to_pylist()]
    assert len(rows) == index["splits"][split]["samples"]
    return np.array(rows, np.int32).reshape(len(rows), index["seq_length"] + 1)


TEXTS = st.lists(st.text("中文的，。ab \n😀", min_size=1, max_size=60), min_size=1, max_size=12)


@given(
    texts=TEXTS,
    cuts=st.lists(st.integers(1, 5), max_size=3),
    seq_length=st.integers(1, 40),
    samples_per_file=st.integers(1, 7),
    overlap=st.sampled_from([0, 1]),
    fraction=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 3),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_directory: Path,
    texts: list[str],
    cuts: list[int],
    seq_length: int,
    samples_per_file: int,
    overlap: Literal[0, 1],
    fraction: float,
    seed: int,
) -> None:
    chosen = Settings(
        seq_length=seq_length,
        overlap=overlap,
        samples_per_file=samples_per_file,
        heldout_fraction=fraction,
        outputs=("parquet",),
        seed=seed,
    )
    tokenizer = Tokenizer.load(tokenizer_directory)
    end, pad = tokenizer.special.end_of_document, tokenizer.special.pad
    files = input_files(tokenizer_directory)
    root = tmp_path_factory.mktemp("pack")
    packed = pack_here(root / "cut", chosen, write_shards(root, texts, cuts), files)
    index = json.loads((packed / "packed.json").read_text())
    expected = {number: [*tokenizer.encode(text), end] for number, text in enumerate(texts, 1)}
    seen: dict[int, str] = {}
    for split, about in index["splits"].items():
        samples = samples_of(packed, split)
        # the row of ids, from the samples: each but the first without the ids it shares with the one before
        row = np.concatenate([samples[:1].ravel(), samples[1:, overlap:].ravel()]).tolist()
        row, padding = row[: about["tokens"]], row[about["tokens"] :]
        assert set(padding) <= {pad} and len(padding) < seq_length + 1
        documents = " ".join(map(str, row)).split(f" {end}") if row else []
        assert about["documents"] == len(documents) - bool(documents)
        # the pieces say which documents these are, and where each id is from
        rebuilt: dict[int, dict[int, int]] = {}
        base = 0
        for name in about["files"]:
            pieces = pq.read_table(packed / f"{Path(name).stem}.documents.parquet").to_pylist()
            used = np.zeros_like(samples[base : base + samples_per_file], bool)
            for piece in pieces:
                place = slice(piece["offset"], piece["offset"] + piece["length"])
                ids = samples[base + piece["sample"], place].tolist()
                assert len(ids) == piece["length"] > 0
                assert piece["id"] == f"own-{piece['doc_id']}"
                assert not used[piece["sample"], place].any()
                used[piece["sample"], place] = True
                assert expected[piece["doc_id"]][piece["document_offset"] :][: len(ids)] == ids
                own = rebuilt.setdefault(piece["doc_id"], {})
                own.update(enumerate(ids, piece["document_offset"]))
            assert ((samples[base : base + samples_per_file] != pad) <= used).all()
            base += len(used)
        for number, ids in rebuilt.items():
            assert [ids[place] for place in range(len(ids))] == expected[number]
            assert number not in seen
            seen[number] = split
        assert about["tokens"] == sum(len(expected[number]) for number in rebuilt)
        assert about["bytes_of_text"] == sum(len(texts[number - 1].encode()) for number in rebuilt)
    assert sorted(seen) == sorted(expected)
    # equal texts never stand on both sides
    sides = {text: {seen[number] for number, other in enumerate(texts, 1) if other == text} for text in texts}
    assert all(len(side) == 1 for side in sides.values())
    if fraction and len(set(texts)) > 1:
        assert set(seen.values()) == {"train", "heldout"}
    # how the corpus was cut into shards does not matter
    again = pack_here(root / "whole", chosen, write_shards(root / "w", texts, []), files)
    assert contents(packed, ".") == contents(again, ".")


def test_seed_changes_the_order_alone(tmp_path: Path, tokenizer_directory: Path) -> None:
    texts = [make_text(number) for number in range(30)]
    files = input_files(tokenizer_directory)
    documents = write_shards(tmp_path, texts, [10, 10])
    rows = []
    for seed in (1, 2):
        chosen = Settings(seq_length=16, heldout_fraction=0, outputs=("parquet",), seed=seed)
        rows.append(samples_of(pack_here(tmp_path / str(seed), chosen, documents, files), "train").ravel())
    assert not np.array_equal(rows[0], rows[1])
    assert sorted(rows[0]) == sorted(rows[1])


def test_no_documents(tmp_path: Path, tokenizer_directory: Path) -> None:
    with pytest.raises(UserError, match="no document is left to pack"):
        pack_here(tmp_path, Settings(), [], input_files(tokenizer_directory))


def test_ids_outside_the_vocabulary(tmp_path: Path, tokenizer_directory: Path) -> None:
    documents = write_shards(tmp_path, ["文"], [])
    with pytest.raises(UserError, match=r"pack.pad_id: 99999 is outside the 4"):
        pack_here(tmp_path / "p", Settings(pad_id=99999), documents, input_files(tokenizer_directory))


def test_a_library_that_is_missing_is_said_before_anything_runs_and_only_where_it_is_needed(
    tmp_path: Path, recipe_at: Callable[..., Path], tokenizer_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def version_without_mindspore(name: str) -> str:
        if name == "mindspore":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", version_without_mindspore)
    write_jsonl(tmp_path / "a.jsonl", [{"id": "1", "text": make_text(1)}])
    for kind in ("mindrecord", "parquet"):
        pack_settings = {"seq_length": 16, "outputs": [kind], "heldout_fraction": 0}
        stages = ["read", {"tokenizer": {"use": str(tokenizer_directory)}}, {"pack": pack_settings}]
        recipe, out = recipe_at([{"name": "a", "paths": "a.jsonl"}], stages), tmp_path / kind
        if kind == "parquet":
            assert run_recipe(recipe, out)["pack"].details["train_samples"] > 0
            continue
        for work in (run_recipe, lambda path, root: preview(Recipe.load(path), root)):
            with pytest.raises(ModuleNotFoundError) as caught:
                work(recipe, out)
            assert caught.value.name == "mindspore" and not (out / "stages").exists()


def test_mindrecord(tmp_path: Path, recipe_at: Callable[..., Path], tokenizer_directory: Path) -> None:
    """Written by workers, read back by MindSpore; the same bytes for 1 and 3 workers; equal to the Parquet output."""
    from mindspore.mindrecord import FileReader

    write_jsonl(tmp_path / "a.jsonl", [{"id": str(number), "text": make_text(number)} for number in range(40)])
    outcomes = []
    for workers, item_bytes in ((1, 10**6), (3, 4000)):
        stages = [
            {"read": {"item_bytes": item_bytes}},
            {"tokenizer": {"use": str(tokenizer_directory)}},
            {
                "pack": {
                    "seq_length": 64,
                    "outputs": ["mindrecord", "parquet"],
                    "heldout_fraction": 0.1,
                    "samples_per_file": 40,
                }
            },
        ]
        recipe = recipe_at([{"name": "a", "paths": "a.jsonl"}], stages, workers=workers)
        out = tmp_path / f"out-{workers}"
        run_recipe(recipe, out)
        outcomes.append(contents(out, "packed", "tokenizer"))
    assert outcomes[0] == outcomes[1]
    names = [name for name in outcomes[0] if name.endswith(".mindrecord")]
    assert len([name for name in names if "train" in name]) > 1
    for name in names:
        reader = FileReader(str(out / name), num_consumer=1)
        ids = [row["input_ids"] for row in reader.get_next()]
        reader.close()
        parquet = pq.read_table((out / name).with_suffix(".parquet")).column("input_ids").to_pylist()
        assert np.array_equal(np.array(ids), np.array(parquet))
        assert ids[0].dtype == np.int32
