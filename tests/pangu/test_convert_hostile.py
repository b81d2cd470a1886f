"""Damaged and hostile files: one line that names the file, never a traceback, nothing executed, no memory eaten."""

import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pangu.formats.open_source import open_source
from pangu.formats.torch_pickle import PickleError, read_views
from pangu.foundation.errors import UserError
from tests.pangu.convert_files import (
    checkpoint_pb2,
    pickled_state,
    pickled_text,
    random_weights,
    torch_weights,
    write_ckpt,
    write_torch,
)

SMALL = {"backbone.layernorm.gamma": np.arange(4, dtype=np.float32), "backbone.layernorm.beta": np.ones(4, np.float32)}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 1000
    return message


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_pickle_that_would_run_a_command(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / "pytorch_model.bin"
    write_torch(path, {}, pickle.dumps({"a": Evil(f"touch {mark}")}, protocol))
    assert "data.pkl is refused" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cposix\nsystem\n" + pickled_text("true") + b"\x85R.",
        b"(" + pickled_text("true") + b"ios\nsystem\n.",
        b"cbuiltins\neval\n(" + pickled_text("1") + b"tR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + pickled_text("x") + b"tR.",
        b"ccollections\nOrderedDict\n}" + pickled_text("__setstate__") + b"Nsb.",
        b"ccollections\nOrderedDict\n)R" + pickled_text("a") + b"]" + pickled_text("b") + b"ss.",
        b"}K\x01K\x02s.",
        b"Nr\xff\xff\xff\x7f.",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"N" + b"\x85" * 200_000 + b".",
        b"}N" + b"\x85" * 200_000 + b"Ns.",
        b"jaaaa.",
        b"0.",
        b"t.",
        b"(((",
        b"",
        b"\x8a\xff" + b"\xff" * 255 + b".",
        b"X\xff\xff\xff\xff",
    ],
)
def test_programs_that_no_file_of_weights_needs(program: bytes) -> None:
    with pytest.raises(PickleError):
        read_views(b"\x80\x02" + program)


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, 700),
    tail=st.binary(max_size=20),
    flips=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=3),
)
def test_damaged_pickles_are_refused_or_read(cut: int, tail: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(pickled_state(SMALL)[:cut] + tail)
    for place, value in flips:
        if place < len(damaged):
            damaged[place] = value
    try:
        read_views(bytes(damaged))
    except PickleError as error:
        assert "\n" not in str(error)


def test_zips_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    assert "compressed or encrypted" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/other", b"")
    assert "0 entries NAME/data.pkl" in refusal(path)
    tensors = {"a": np.zeros(1000, np.float32)}
    write_torch(path, {"a": np.zeros(3, np.float32)}, pickled_state(tensors))
    assert "'a' of shape [1000] does not fit into its 12 bytes" in refusal(path)
    write_torch(path, {}, pickled_state(tensors))
    assert "'a' has no data" in refusal(path)
    write_torch(path, tensors)
    path.write_bytes(path.read_bytes()[:-30])
    assert "truncated or damaged" in refusal(path)
    path.write_bytes(pickle.dumps(1))
    assert "is not a zip as torch.save writes it" in refusal(path)
    write_torch(path, tensors, pickled_state(tensors).replace(b"FloatStorage", b"QUInt8Storag"))
    assert "a tensor of type QUInt8Storag" in refusal(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_of_every_kind_are_one_line(data: st.DataObject) -> None:
    """Truncated anywhere, with bytes changed anywhere: read, or refused in one line."""
    kind = data.draw(st.sampled_from(["ckpt", "safetensors", "bin"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"in.{kind}"
        {"ckpt": write_ckpt, "bin": write_torch, "safetensors": lambda p, t: save_file(t, p)}[kind](path, SMALL)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            with open_source(path) as source:
                for name, info in source.tensors.items():
                    if info.data_type:
                        assert source.read(name).shape == info.shape
        except UserError as error:
            assert "\n" not in str(error) and str(error).startswith(folder)


def test_checkpoints_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "in.ckpt"

    def write(*tensors: tuple[str, list[int], str, bytes]) -> None:
        message = checkpoint_pb2.Checkpoint()
        for tag, dims, type_name, content in tensors:
            value = message.value.add()
            value.tag, value.tensor.tensor_type, value.tensor.tensor_content = tag, type_name, content
            value.tensor.dims.extend(dims)
        path.write_bytes(message.SerializeToString())

    write(("a", [1 << 40, 1 << 40], "Float32", b"1234"))
    assert "'a' of shape [1099511627776, 1099511627776] and type Float32 has 4 bytes instead of" in refusal(path)
    write(("a", [-1], "Float32", b"1234"))
    assert "'a' has the shape [-1]" in refusal(path)
    write(("a", [1], "Float32", b"1234"), ("b", [1], "Float32", b"1234"), ("a", [1], "Float32", b"1234"))
    assert "'a' is there twice" in refusal(path)
    write(("a", [2], "Float32", b"1234"), ("a", [1], "Float32", b"1234"))
    assert "pieces of 'a'" in refusal(path)
    write(("", [1], "Float32", b"1234"))
    assert "without a name" in refusal(path)
    write(("a", [1], "Float32", b"1234"))
    path.write_bytes(path.read_bytes() + b"crc_num" + bytes(10))
    assert "checksum is wrong" in refusal(path)
    path.write_bytes(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(20))
    assert "claims" in refusal(path)
    path.write_bytes(b"\xff" * 40)
    assert "no number at byte 0" in refusal(path)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 16]}}, "wrong place or size"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, "not a whole number"),
        ({"a": {"dtype": "F32", "shape": [2, True], "data_offsets": [0, 8]}}, "not a whole number"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 50]}}, "wrong place or size"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "truncated?"),
        ({"a": 1}, "header is damaged"),
        ([], "header is damaged"),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: object, expected: str) -> None:
    path = tmp_path / "in.safetensors"
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(16))
    assert expected in refusal(path)


def test_safetensors_bombs(tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + bytes(100))
    assert "is not a safetensors file" in refusal(path)
    nested = b"[" * 1_000_000
    path.write_bytes(len(nested).to_bytes(8, "little") + nested)
    assert "header is damaged" in refusal(path)
    twice = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    path.write_bytes(len(twice).to_bytes(8, "little") + twice + bytes(4))
    assert "a name is there twice" in refusal(path)


def test_an_index_that_points_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"")
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.safetensors.index.json"
    for content in ('{"weight_map": {"a": "../secret.safetensors"}}', '{"weight_map": {"a": 3}}', "[]", "[" * 100_000):
        path.write_text(content)
        assert "is not an index of weights" in refusal(path)
    path.write_text('{"weight_map": {"a": "absent.safetensors"}}')
    assert "absent.safetensors: cannot be opened" in refusal(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for kind in ("ckpt", "safetensors", "bin"):
        os.mkfifo(tmp_path / f"in.{kind}")
        assert "must be a regular file" in refusal(tmp_path / f"in.{kind}")


def test_a_file_cut_after_it_was_indexed(tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    save_file(random_weights(), path)
    with open_source(path) as source:
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(UserError, match="bytes too early"):
            for name in source.tensors:
                source.read(name)


def test_hand_made_torch_files_are_what_python_unpickles(tmp_path: Path) -> None:
    """The test's own writer is right: Python's unpickler reads the same structure from it."""

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            return {"OrderedDict": dict, "_rebuild_tensor_v2": lambda *parts: parts}.get(name, name)

        def persistent_load(self, identifier: object) -> object:
            return identifier

    state = torch_weights(random_weights())
    read = Reader(io.BytesIO(pickled_state(state))).load()
    assert list(read) == list(state)
    for name, (storage, offset, shape, _, _, _) in read.items():
        assert storage[0] == "storage" and storage[4] == state[name].size
        assert offset == 0 and shape == state[name].shape
