"""The released form: 512 shards with the structure of the real strategy files; sets of shards that are not whole."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pangu.cli import main
from pangu.formats.open_source import open_source
from pangu.foundation.errors import UserError
from tests.pangu.convert_files import random_weights, released_layouts, write_ckpt, write_released, write_strategy

DATA, MODEL = 4, 2


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# 512 is the smallest hidden size that 8 × 64 ranks can share.
@pytest.mark.parametrize(
    ("strategy", "blocks", "dtype"),
    [("pangu_alpha_2.6B_ckpt_strategy.ckpt", 31, "float32"), ("pangu_alpha_13B_cktp_strategy.ckpt", 39, "float16")],
)
def test_real_strategy_of_512_ranks(shared: Path, tmp_path: Path, strategy: str, blocks: int, dtype: str) -> None:
    weights = random_weights(blocks, hidden=512, ffn=1024, dtype=dtype)
    shards, out = tmp_path / "checkpoint_file", tmp_path / "model.safetensors"
    write_released(shards, weights)
    before = listing(shards)
    arguments = [str(shards), "--strategy", str(shared / "released" / strategy), "--to", "safetensors"]
    assert main(["convert", *arguments, "--out", str(out)]) == 0
    assert_equal(load_file(out), weights)
    assert listing(shards) == before
    for path in shards.iterdir():
        path.unlink()


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A small model in 8 shards, in the directory tree of the original."""
    weights = random_weights()
    write_released(tmp_path / "checkpoint_file", weights, DATA, MODEL)
    (tmp_path / "strategy_load_ckpt").mkdir()
    layouts = released_layouts(weights, DATA, MODEL)
    layouts |= {f"adam_{moment}.{name}": layout for moment in "mv" for name, layout in layouts.items()}
    write_strategy(tmp_path / "strategy_load_ckpt" / "strategy.ckpt", layouts)
    return tmp_path / "checkpoint_file"


def problem(released: Path, **arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        open_source(released, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and len(message) < 2000
    return message


def test_original_tree_needs_no_flags(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(released), "--to", "safetensors", "--out", str(out)]) == 0
    assert_equal(load_file(out), random_weights())


@pytest.mark.parametrize("prefix", ["filtered", "filitered"])
def test_other_spellings_of_the_shards(released: Path, tmp_path: Path, prefix: str) -> None:
    for rank in range(DATA * MODEL):
        (released / f"filerted_{rank}.ckpt").rename(released / f"{prefix}_{rank}.ckpt")
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(released), "--to", "safetensors", "--out", str(out)]) == 0
    assert_equal(load_file(out), random_weights())


def test_folders_of_ranks_and_links(released: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    for rank in range(DATA * MODEL):
        (folder / f"rank_{rank}").mkdir(parents=True)
        (folder / f"rank_{rank}" / "any.ckpt").symlink_to(released / f"filerted_{rank}.ckpt")
    out = tmp_path / "model.safetensors"
    strategy = str(tmp_path / "strategy_load_ckpt" / "strategy.ckpt")
    places = ["--strategy", strategy, "--embeddings", str(released)]
    assert main(["convert", str(folder), *places, "--to", "safetensors", "--out", str(out)]) == 0
    assert_equal(load_file(out), random_weights())


def test_few_open_files_are_enough(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (4, 4))
    with open_source(released) as source:
        for name, array in random_weights().items():
            np.testing.assert_array_equal(source.read(name), array)
            assert len(source.open_files.descriptors) <= 3


def test_every_bad_shard_is_named(released: Path, tmp_path: Path) -> None:
    before = (released / "filerted_0.ckpt").read_bytes()
    (released / "filerted_1.ckpt").unlink()
    (released / "filerted_2.ckpt").write_bytes(before[:-3])
    (released / "filerted_3.ckpt").write_bytes(b"not a checkpoint")
    (released / "filerted_4.ckpt").write_bytes(b"")
    (released / "filerted_5.ckpt").write_bytes((released / "filerted_6.ckpt").read_bytes())
    (released / "filerted_8.ckpt").write_bytes(before)
    (released / "filerted_06.ckpt").write_bytes(before)
    message = problem(released)
    assert "1 missing (filerted_N.ckpt, N = 1)" in message
    assert "3 unreadable: filerted_2.ckpt" in message and "filerted_3.ckpt" in message and "filerted_4.ckpt" in message
    assert "1 of no rank of the strategy: filerted_8.ckpt" in message
    assert "there twice: filerted_6.ckpt (rank 6, as filerted_06.ckpt)" in message
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(released), "--to", "safetensors", "--out", str(out)]) == 2
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_copies_are_found(released: Path) -> None:
    (released / "filerted_5.ckpt").write_bytes((released / "filerted_2.ckpt").read_bytes())
    assert "1 copies of another rank's shard: filerted_5.ckpt (as filerted_2.ckpt)" in problem(released)


def test_shards_of_another_size_or_step_are_found(released: Path, tmp_path: Path) -> None:
    write_released(tmp_path / "larger", random_weights(ffn=64), DATA, MODEL)
    write_released(tmp_path / "other", random_weights(seed=1), DATA, MODEL)
    (released / "filerted_3.ckpt").write_bytes((tmp_path / "larger" / "filerted_3.ckpt").read_bytes())
    (released / "filerted_7.ckpt").write_bytes((tmp_path / "other" / "filerted_7.ckpt").read_bytes())
    message = problem(released)
    assert "1 unlike the others: filerted_3.ckpt (" in message and "instead of" in message
    assert "1 of another model or training step: filerted_7.ckpt (" in message


def test_shards_without_a_parameter_are_found(released: Path) -> None:
    write_ckpt(released / "filerted_0.ckpt", {"backbone.layernorm.gamma": np.ones(16, np.float32)})
    assert "1 unlike the others: filerted_0.ckpt (lacks " in problem(released)


def test_a_parameter_in_no_shard_is_named(released: Path) -> None:
    names = {name: array for name, array in random_weights().items() if "dense2.bias" not in name}
    write_released(released, names, DATA, MODEL)
    assert "3 parameters of strategy.ckpt are in no shard: backbone.blocks.0.attention.dense2.bias" in problem(released)


def test_strategy_of_another_model(released: Path, tmp_path: Path) -> None:
    weights = random_weights()
    layouts = released_layouts(weights, DATA, MODEL)
    del layouts["backbone.layernorm.gamma"]
    write_strategy(tmp_path / "foreign.ckpt", layouts)
    message = problem(released, strategy=[tmp_path / "foreign.ckpt"])
    assert "1 parameters of the shards are not in foreign.ckpt: backbone.layernorm.gamma" in message


def test_missing_strategy_and_embeddings(released: Path, tmp_path: Path) -> None:
    (released / "word_embedding.npy").unlink()
    assert "word_embedding.npy missing" in problem(released)
    (tmp_path / "strategy_load_ckpt" / "strategy.ckpt").unlink()
    assert "give it by --strategy" in problem(released)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not a NumPy array"),
        (b"PK\x03\x04" + bytes(100), "is not a NumPy array"),
        (np.lib.format.magic(1, 0) + b"\xff\xff{'descr'", "is not a NumPy array"),
    ],
)
def test_bad_embeddings(released: Path, content: bytes, expected: str) -> None:
    (released / "position_embedding.npy").write_bytes(content)
    assert f"position_embedding.npy: {expected}" in problem(released)


def test_embeddings_of_wrong_kinds(released: Path) -> None:
    table = released / "position_embedding.npy"
    np.save(table, np.array([[{"a": 1}]]), allow_pickle=True)
    assert "position_embedding.npy: must be a row-major matrix" in problem(released)
    np.save(table, np.zeros((6, 16), np.float32, order="F"))
    assert "position_embedding.npy: must be a row-major matrix" in problem(released)
    np.save(table, np.zeros((6, 16), np.float32))
    table.write_bytes(table.read_bytes()[:-1])
    assert "position_embedding.npy: truncated or damaged: 383 bytes of numbers instead of 384" in problem(released)


def test_embedding_of_another_width(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(released / "top_query_embedding.npy", np.zeros((6, 8), np.float32))
    assert main(["convert", str(released), "--to", "safetensors", "--dry-run"]) == 2
    assert "top_query_embedding.embedding_table [6, 8]" in capsys.readouterr().err


def test_a_pipe_or_a_folder_is_no_shard(released: Path) -> None:
    (released / "filerted_1.ckpt").unlink()
    os.mkfifo(released / "filerted_1.ckpt")
    (released / "filerted_2.ckpt").unlink()
    (released / "filerted_2.ckpt").mkdir()
    (released / "filerted_3.ckpt").unlink()
    (released / "filerted_3.ckpt").symlink_to("nowhere")
    message = problem(released)
    assert "filerted_1.ckpt: must be a regular file" in message
    assert "filerted_2.ckpt: must be a regular file" in message
    assert "filerted_3.ckpt: cannot be opened" in message
