"""A rank reads of a checkpoint what it holds, and no more: counted in bytes, for every layout that hypothesis draws."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.checkpoint.open import TrainingState, open_checkpoint
from pangu.checkpoint.save import save_checkpoint
from pangu.cli import main
from pangu.config import ModelConfig
from pangu.distributed.process_group import ALONE
from pangu.distributed.sharded_checkpoint import part_of
from pangu.distributed.stored import StoredCheckpoint, stored_checkpoint
from pangu.formats.parameter_layout import region
from pangu.formats.regular_file import OpenFiles
from pangu.formats.strategy_checkpoint import read_stages
from pangu.foundation.errors import UserError
from tests.pangu.convert_files import random_weights, released_layouts
from tests.pangu.test_reshard import ours, with_moments, write_layouts


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    """One checkpoint three times: whole, in 4 x 2 shards, and in 2 x 4."""
    folder = tmp_path_factory.mktemp("stored")
    weights = random_weights(hidden=64, ffn=256)
    tensors = with_moments(weights)
    model = ModelConfig(num_layers=3, hidden_size=64, num_heads=8, ffn_hidden_size=256, seq_length=6, vocab_size=11)
    moments = {name: array for name, array in tensors.items() if name.startswith("adam_")}
    state = TrainingState(7, 1.0, 0, 0, 99, 2.5)
    whole = save_checkpoint(folder / "run", state, weights, moments, model, {})
    for data, tensor in ((4, 2), (2, 4)):
        write_layouts(folder / f"{data}x{tensor}.ckpt", ours(released_layouts(weights, data, tensor)))
        words = [str(whole), "--to", str(folder / f"{data}x{tensor}.ckpt"), "--out", str(folder / f"{data}x{tensor}")]
        assert main(["reshard", *words]) == 0
    whole.rename(folder / "whole")
    return folder, tensors


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Bytes read of each file, beside the headers."""
    read: dict[str, int] = {}
    real = OpenFiles.read_into

    def counting(files: OpenFiles, path: Path, offset: int, view: memoryview) -> None:
        if path.suffix == ".safetensors":
            read[path.parent.name] = read.get(path.parent.name, 0) + len(view)
        real(files, path, offset, view)

    with monkeypatch.context() as patch:
        patch.setattr(OpenFiles, "read_into", counting)
        yield read


def open_stored(path: Path, rank: int) -> StoredCheckpoint:
    return StoredCheckpoint(open_checkpoint(path), rank)


@pytest.mark.parametrize("rank", [0, 3, 7])
def test_under_its_own_layout_a_rank_reads_its_own_shard_alone(saved, rank: int, monkeypatch) -> None:
    folder, tensors = saved
    layouts = read_stages([folder / "4x2.ckpt"])[0]
    with counted(monkeypatch) as read, open_stored(folder / "4x2", rank) as stored:
        held = {
            n: part_of(layouts[n], rank, whole)
            for some in (stored.weights, stored.moments)
            for n, whole in some.items()
        }
    assert held.keys() == tensors.keys()
    for name, part in held.items():
        layout = layouts[name]
        expected = tensors[name][region(layout.cell(rank), layout.part_shape(tensors[name].shape))]
        np.testing.assert_array_equal(part, expected)
    assert read == {f"rank_{rank}": sum(part.nbytes for part in held.values())}


@pytest.mark.parametrize("source", ["whole", "2x4"])
def test_under_another_layout_it_reads_only_rows_that_it_holds(saved, source: str, monkeypatch) -> None:
    folder, tensors = saved
    layouts = read_stages([folder / "4x2.ckpt"])[0]
    total = sum(array.nbytes for array in tensors.values())
    with open_stored(folder / source, 5) as stored:
        stored.weights, stored.all  # noqa: B018 - what is read to know the files is not counted
        with counted(monkeypatch) as read:
            for some in (stored.weights, stored.moments):
                for name, whole in some.items():
                    layout = layouts[name]
                    expected = tensors[name][region(layout.cell(5), layout.part_shape(tensors[name].shape))]
                    np.testing.assert_array_equal(part_of(layout, 5, whole), expected)
    # Of matrices that tensor parallelism splits by columns a row is read for half of it.
    assert sum(read.values()) < 0.3 * total


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_slice_is_what_it_would_be_in_memory(saved, data) -> None:
    folder, tensors = saved
    source = data.draw(st.sampled_from(["whole", "2x4", "4x2"]))
    name = data.draw(st.sampled_from(sorted(tensors)))
    index = []
    for length in tensors[name].shape[: data.draw(st.integers(1, tensors[name].ndim))]:
        first = data.draw(st.integers(0, length))
        index.append(slice(first, data.draw(st.integers(first, length))))
    with open_stored(folder / source, data.draw(st.integers(0, 9))) as stored:
        some = stored.moments if name.startswith("adam_") else stored.weights
        np.testing.assert_array_equal(some[name][tuple(index)], tensors[name][tuple(index)])
        np.testing.assert_array_equal(np.asarray(some[name]), tensors[name])
        assert some[name].shape == tensors[name].shape
        assert "no such" not in some and len(stored.weights) * 3 == len(tensors)


def test_the_newest_of_a_run_or_none(saved, tmp_path: Path) -> None:
    folder, tensors = saved
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step-00000007").symlink_to(folder / "2x4")
    for path in (tmp_path / "run", folder / "whole"):
        with stored_checkpoint(path, ALONE) as stored:
            name = "backbone.layernorm.gamma"
            np.testing.assert_array_equal(np.asarray(stored.weights[name]), tensors[name])
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        stored_checkpoint(tmp_path, ALONE)


def test_a_checkpoint_is_written_from_the_memory_that_is_trained() -> None:
    """No second copy of the state is made on a CPU: at 350M parameters it would take 4 GiB."""
    from pangu.model.network import build, values_of
    from pangu.training.optimizer import AdamW

    sizes = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "ffn_hidden_size": 32, "vocab_size": 40}
    network = build(ModelConfig.from_fields({**sizes, "compute_dtype": "fp32"}, "test"))
    optimizer = AdamW(network.trainable_params(), 0.9, 0.95)
    for told, parameters in (
        (values_of(network.trainable_params()), network.trainable_params()),
        (optimizer.states(), [*optimizer.first, *optimizer.second]),
    ):
        assert all(np.shares_memory(told[one.name], one.asnumpy()) for one in parameters)
