"""Streams and lines: what comes out does not depend on how it was cut, damage costs what it touches, bombs cost
nothing.
"""

import bz2
import gzip
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.stages.read import compressed_bytes as read_bytes
from data_pipeline.stages.read.compressed_bytes import Damage, Line, lines, read_stream, without_mark

DATA = "".join(f"第{number}行的内容\n" for number in range(20_000)).encode()


def read_all(path: Path, ratio: float = 200) -> tuple[bytes, list[Damage]]:
    blocks = list(read_stream(path, ratio))
    return b"".join(block for block in blocks if isinstance(block, bytes)), [b for b in blocks if isinstance(b, Damage)]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd,
    "bzip2": bz2.compress,
    "none": bytes,
}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("members", [1, 3])
def test_whole_file(tmp_path: Path, kind: str, members: int) -> None:
    path = tmp_path / "named-wrongly.txt"
    path.write_bytes(PACKERS[kind](DATA) * members)
    assert read_all(path) == (DATA * members, [])


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    packed = PACKERS[kind](DATA)
    path = tmp_path / "cut"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    data, damage = read_all(path)
    assert DATA.startswith(data)
    assert [found.reason.partition(":")[0] for found in damage] == [f"truncated_{kind}"]
    if kind == "gzip":
        assert len(data) > len(DATA) // 2


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2"])
@pytest.mark.parametrize("wound", [slice(0, 2), slice(40, 80), slice(-60, -20)])
def test_damage_is_passed_over_up_to_the_next_member(tmp_path: Path, kind: str, wound: slice) -> None:
    """Members small and large, damaged at their beginning, inside and near their end."""
    parts = [DATA[place : place + size] for place in range(0, 60_000, 20_000) for size in (90, 400, 20_000)]
    members = [PACKERS[kind](part) for part in parts]
    for hurt in (1, 5):
        damaged = bytearray(members[hurt])
        damaged[wound] = b"\xff" * len(damaged[wound])
        path = tmp_path / "damaged"
        path.write_bytes(b"".join([*members[:hurt], bytes(damaged), *members[hurt + 1 :]]))
        data, damage = read_all(path)
        assert data.startswith(b"".join(parts[:hurt]))
        assert data.endswith(b"".join(parts[hurt + 1 :]))
        assert damage and all(found.reason.startswith(f"damaged_{kind}") for found in damage)


def test_rubbish_after_gzip(tmp_path: Path) -> None:
    path = tmp_path / "padded.gz"
    path.write_bytes(gzip.compress(DATA) + b"\0" * 512)
    assert read_all(path) == (DATA, [])
    path.write_bytes(gzip.compress(DATA) + b"rubbish" * 50)
    data, damage = read_all(path)
    assert data == DATA
    assert [found.reason.partition(":")[0] for found in damage] == ["damaged_gzip"]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2"])
def test_bomb(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_bytes, "FREE_BYTES", 4 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(PACKERS[kind](bytes(64 << 20)))
    tracemalloc.start()
    size = 0
    damage = []
    for block in read_stream(path, 200):
        if isinstance(block, Damage):
            damage.append(block.reason.partition(":")[0])
        else:
            size += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert damage == ["decompression_bomb"]
    assert size <= 16 << 20
    assert peak < 48 << 20


@given(st.binary(max_size=400), st.lists(st.integers(1, 50)), st.integers(1, 60))
def test_lines_do_not_depend_on_blocks(data: bytes, cuts: list[int], maximum: int) -> None:
    blocks, place = [], 0
    for cut in cuts:
        blocks.append(data[place : place + cut])
        place += cut
    blocks.append(data[place:])
    found = list(lines(iter(blocks), maximum))
    offset = 0
    expected: list[tuple[int, bytes | None]] = []
    for row in data.split(b"\n"):
        expected.append((offset, row if len(row) <= maximum else None))
        offset += len(row) + 1
    if expected[-1][1] == b"":
        expected.pop()
    assert [(line.offset, line.data if isinstance(line, Line) else None) for line in found] == expected


def test_endless_line_is_skipped(tmp_path: Path) -> None:
    def stream():
        yield b"first\n" + b"x" * 10
        for _ in range(300):
            yield bytes(1 << 20)
        yield b"\nlast\n"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = list(lines(stream(), 1 << 20))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    assert [line.data for line in found if isinstance(line, Line)] == [b"first", b"last"]
    assert [line.offset for line in found if isinstance(line, Damage)] == [6]


@pytest.mark.parametrize("name", ["utf-8-sig", "utf-16", "utf-32"])
def test_marks(name: str) -> None:
    encoded = DATA.decode().encode(name)
    skipped, stream = without_mark(iter([encoded[:7], encoded[7:1000], encoded[1000:]]))
    assert b"".join(block for block in stream if isinstance(block, bytes)) == DATA
    assert skipped == (3 if name == "utf-8-sig" else 0)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "zstd", "bzip2"]), st.integers(0, 300), st.binary(max_size=20))
def test_no_damage_raises(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str, place: int, patch: bytes
) -> None:
    packed = bytearray(PACKERS[kind](data))
    packed[place : place + len(patch)] = patch
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(packed)
    for block in read_stream(path, 200):
        assert isinstance(block, bytes | Damage)
