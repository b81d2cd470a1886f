"""Packed samples: a damaged file is known before it is read, and named in one line."""

import json
from pathlib import Path

import pytest

from data_pipeline.stages.pack import stage as pack
from pangu.foundation.errors import UserError
from pangu.training import data as data_module
from pangu.training.data import PackedData, reason_in
from tests.pangu import packed_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A packed corpus with the checksums that packing writes."""
    packed = packed_corpus.write(tmp_path / "packed", samples=12)
    for file in packed.glob("*.mindrecord"):
        pack.write_checksums([file, file.with_name(f"{file.name}.db")], file.with_suffix(pack.CHECKSUMS))
    return packed


def test_the_two_packages_name_the_checksums_alike() -> None:
    assert data_module.CHECKSUMS == pack.CHECKSUMS


@pytest.mark.parametrize("victim", ["train-00000.mindrecord", "heldout-00000.mindrecord", "train-00000.mindrecord.db"])
@pytest.mark.parametrize("damage", ["a bit", "cut"])
def test_a_damaged_file_is_named(corpus: Path, victim: str, damage: str) -> None:
    PackedData.load(corpus).verify()
    content = bytearray((corpus / victim).read_bytes())
    content[len(content) // 2] ^= 4
    (corpus / victim).write_bytes(content if damage == "a bit" else content[:-100])
    with pytest.raises(UserError, match=rf"{victim}: is damaged: its sha256 is not what packing wrote"):
        PackedData.load(corpus).verify()


def test_of_many_samples_only_what_has_changed_is_read_again(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    notes, read = tmp_path / "notes.json", []
    check_file = data_module.check_file
    monkeypatch.setattr(data_module, "ALWAYS_COMPARED", 0)
    monkeypatch.setattr(data_module, "check_file", lambda *given: read.append(given[0].name) or check_file(*given))
    for expected in (4, 4):  # nothing is kept of the first: there is no place for it
        PackedData.load(corpus).verify(tmp_path / "absent/notes.json")
        assert len(read) == expected and not read.clear()
    for content, expected in ((None, 4), (None, 0), ("[1]", 4), ("{", 4)):
        if content is not None:
            notes.write_text(content)
        PackedData.load(corpus).verify(notes)
        assert len(read) == expected and not read.clear()
    victim = corpus / "train-00000.mindrecord"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="is damaged"):
        PackedData.load(corpus).verify(notes)
    assert read == [victim.name]
    victim.unlink()
    with pytest.raises(UserError, match="train-00000"):
        PackedData.load(corpus).verify(notes)


def test_a_corpus_without_checksums_is_taken(tmp_path: Path) -> None:
    PackedData.load(packed_corpus.write(tmp_path / "packed", samples=4)).verify()


def test_the_message_of_the_reader_is_its_reason() -> None:
    framed = (
        "Exception thrown from dataset pipeline. Refer to 'Dataset Pipeline Error Message'. \n\n"
        "------------------------------------------------------------------\n"
        "- Dataset Pipeline Error Message: \n"
        "------------------------------------------------------------------\n"
        "Invalid file, failed to open file: a.mindrecord, error: the header is wrong.\n\n"
        "- C++ Call Stack: (For framework developers) \n"
    )
    assert reason_in(framed) == "Invalid file, failed to open file: a.mindrecord, error: the header is wrong."


def test_a_file_that_is_no_mindrecord_is_one_line(tmp_path: Path) -> None:
    import numpy as np

    packed = packed_corpus.write(tmp_path / "packed", samples=4)
    (packed / "train-00000.mindrecord").write_bytes(b"text" * 5000)
    split = PackedData.load(packed).split("train")
    with pytest.raises(UserError) as told:
        list(split.read(np.arange(4), 2))
    assert "cannot be read as MindRecord: " in str(told.value) and "Refer to" not in str(told.value)
    assert json.dumps(str(told.value)).count("\\n") == 0
