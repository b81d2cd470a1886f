"""The tokenizer: equal to the released one; lossless where it says so; clear about mistakes."""

import json
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jieba
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.stages.tokenizer.training_process import train_tokenizer
from pangu.foundation.errors import UserError
from pangu.tokenizer import Tokenizer
from tests.conftest import REPOSITORY
from tests.pangu.strange_text import strange_lines, strange_texts

WHITE_SPACE = {ord(" "): "▂", ord("\n"): "▃"}
any_text = st.one_of(strange_texts, st.text(st.characters(exclude_categories=["Cs"])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers trained on generated text."""
    jieba.setLogLevel(60)
    root = tmp_path_factory.mktemp("tokenizers")
    lines = list(strange_lines(seed=5, size=300_000))
    for style in ("lossless", "released"):
        for model_type in ("unigram", "bpe"):
            train_tokenizer(lines, root / f"{style}-{model_type}", vocab_size=2000, style=style, model_type=model_type)
    return root


@pytest.fixture(scope="module", params=["lossless-unigram", "lossless-bpe"])
def lossless(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    return Tokenizer.load(folder / request.param)


@pytest.fixture(scope="module", params=["released-unigram", "released-bpe", "the released one"])
def released(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    if request.param == "the released one":
        return Tokenizer.load(request.getfixturevalue("shared") / "released" / "vocab.model")
    return Tokenizer.load(folder / request.param)


def original(tokenizer: Tokenizer) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    """Encoding and decoding as the original's code does them."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)

    def encode(text: str) -> list[int]:
        return processor.encode(" ".join(word.translate(WHITE_SPACE) for word in jieba.cut(text)))

    def decode(ids: list[int]) -> str:
        return processor.decode(ids).replace(" ", "").replace("▂", " ").replace("▃", "\n")

    return encode, decode


def test_the_samples_of_the_original(shared: Path) -> None:
    tokenizer = Tokenizer.load(shared / "released" / "vocab.model")
    oracle = json.loads((shared / "oracle" / "tokenizer_samples.json").read_text())
    assert tokenizer.vocab_size == oracle["vocab_size"]
    for sample in oracle["samples"]:
        assert tokenizer.encode(sample["text"]) == sample["ids"]
        assert tokenizer.decode(sample["ids"]) == sample["decoded"]
    special = tokenizer.special
    assert (special.end_of_document, special.pad, special.space, special.newline, special.unknown) == (9, 6, 4, 3, 0)


def test_strange_text_as_the_original(released: Tokenizer) -> None:
    encode, decode = original(released)

    @given(any_text)
    @settings(max_examples=300, deadline=None)
    def check(text: str) -> None:
        ids = encode(text)
        assert released.encode(text) == ids
        assert released.decode(ids) == decode(ids)

    check()


def test_every_character_as_the_original(released: Tokenizer) -> None:
    encode, _ = original(released)
    points = (*range(0x10000), *range(0x1D400, 0x1F700, 3), *range(0x2F800, 0x30000, 5))
    texts = [f"{chr(point)}天{chr(point)} {chr(point)}" for point in points if not 0xD800 <= point < 0xE000]
    texts = ["".join(texts[i : i + 16]) for i in range(0, len(texts), 16)] + texts[::50]
    for text, ids in zip(texts, released.encode_batch(texts), strict=True):
        assert ids.tolist() == encode(text), repr(text)


def test_a_text_whose_score_leaves_the_range_of_float32_steps(released: Tokenizer) -> None:
    """SentencePiece brings the running sum back to zero below -100,000."""
    encode, _ = original(released)
    text = "".join(strange_lines(seed=11, size=300_000))
    assert released.encode(text) == encode(text)


def test_decoding_any_ids_as_the_original(released: Tokenizer) -> None:
    _, decode = original(released)
    generator = random.Random(0)
    for _ in range(200):
        ids = [generator.randrange(released.vocab_size) for _ in range(generator.randrange(20))]
        assert released.decode(ids) == decode(ids)


def test_lossless_tokenizers_lose_nothing_and_never_write_control_ids(lossless: Tokenizer) -> None:
    @given(any_text)
    @settings(max_examples=500, deadline=None)
    def check(text: str) -> None:
        ids = lossless.encode(text)
        assert lossless.decode(ids) == text
        assert not {0, 1, 2, 4, 5, 6, 7, 8, 9} & set(ids)
        assert ids.count(lossless.special.newline) == text.count("\n")

    check()


def test_lossless_unigram_as_sentencepiece(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder / "lossless-unigram")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    for line in strange_lines(seed=2, size=200_000):
        line = re.sub("[▁▂▃\n]", "", line)
        assert tokenizer.encode(line) == processor.encode(line), repr(line)


@pytest.mark.parametrize("name", ["lossless-unigram", "released-unigram"])
def test_the_first_texts_of_a_process_need_no_numba(folder: Path, name: str) -> None:
    texts = list(strange_lines(seed=4, size=1500))
    program = (
        "import json, sys; from pangu.tokenizer import Tokenizer; tokenizer = Tokenizer.load(sys.argv[1]);"
        "ids = [tokenizer.encode(text) for text in json.loads(sys.argv[2])];"
        "print(json.dumps([ids, 'numba' in sys.modules]))"
    )
    tokenizer = Tokenizer.load(folder / name)
    expected = [tokenizer.encode(text) for text in texts]  # and with that the dictionary lies on disk
    command = [sys.executable, "-c", program, str(folder / name), json.dumps(texts)]
    result = subprocess.run(command, capture_output=True, cwd=REPOSITORY, check=True)
    assert json.loads(result.stdout) == [expected, False]
    assert not result.stderr


def test_a_space_and_a_newline_are_one_id_each(lossless: Tokenizer) -> None:
    assert lossless.encode(" ") == [lossless.special.space]
    assert lossless.encode("\n") == [lossless.special.newline] == [3]
    assert lossless.encode("") == []


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_streamed_pieces_join_to_the_whole(lossless: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, lossless.vocab_size - 1) | st.integers(10, 265)))
    stream = lossless.stream_decoder()
    assert "".join(map(stream.push, ids)) + stream.finish() == lossless.decode(ids)


@given(text=any_text)
@settings(max_examples=200, deadline=None)
def test_streaming_never_gives_out_half_a_character(lossless: Tokenizer, text: str) -> None:
    stream = lossless.stream_decoder()
    pieces = [stream.push(token_id) for token_id in lossless.encode(text)] + [stream.finish()]
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_batches_and_processes_change_nothing(lossless: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pangu.tokenizer.tokenizer.GROUP_CHARACTERS", 5000)
    texts = list(strange_lines(seed=9, size=60_000))
    one_by_one = [lossless.encode(text) for text in texts]
    for processes in (1, 2):
        batch = lossless.encode_batch(texts, processes=processes)
        assert all(ids.dtype == np.int32 for ids in batch)
        assert [ids.tolist() for ids in batch] == one_by_one
    assert lossless.encode_batch([]) == []


def test_saving_loading_and_sending(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder / "released-unigram")
    tokenizer.save(tmp_path / "copy")
    for other in (Tokenizer.load(tmp_path / "copy"), pickle.loads(pickle.dumps(tokenizer))):
        assert other.special == tokenizer.special
        assert other.fingerprint == tokenizer.fingerprint
        assert other.encode("天 a\n") == tokenizer.encode("天 a\n")
    assert tokenizer.fingerprint != Tokenizer.load(folder / "released-bpe").fingerprint


def test_settings_override_what_the_pieces_tell(folder: Path, tmp_path: Path) -> None:
    before = Tokenizer.load(folder / "lossless-unigram")
    before.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"special": {"end_of_document": 8}}')
    after = Tokenizer.load(tmp_path / "vocab.model")
    assert after.special.end_of_document == 8
    assert after.special.pad == before.special.pad
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"special": 3}',
        '{"speical": {}}',
        '{"special": {"pad": "6"}}',
        '{"special": {"padding": 6}}',
        '{"special": {"pad": 99999999}}',
        '{"special": {"pad": -1}}',
        '{"special": {"pad": true}}',
        '{"segmenter": "jieba"}',
    ],
)
def test_mistakes_in_the_settings_are_named(folder: Path, tmp_path: Path, content: str) -> None:
    Tokenizer.load(folder / "lossless-unigram").save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_read_are_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "lossless-unigram" / "vocab.model").read_bytes()
    damaged = {
        "empty": b"",
        "cut": whole[:-3],
        "text": "不是模型".encode(),
        "head": whole[100:],
        "noise": bytes(range(256)),
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.model"
        path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            Tokenizer.load(path)
    with pytest.raises(UserError, match="No such file"):
        Tokenizer.load(tmp_path / "absent.model")
    with pytest.raises(UserError, match=r"vocab\.model"):
        Tokenizer.load(tmp_path)


def test_models_of_other_makes_are_refused(tmp_path: Path) -> None:
    lines = [line for line in strange_lines(seed=1, size=20_000) if line]
    layout = ["▃", "▂", "<sep>", "<pad>", "<mask>", "<eod>", "<eot>"]
    foreign: dict[str, dict[str, Any]] = {
        "plain": {},
        "characters": {"model_type": "char", "user_defined_symbols": layout},
        "bytes": {"byte_fallback": True},
        "bytes-and-nfkc": {"byte_fallback": True, "user_defined_symbols": layout},
        "control": {"control_symbols": layout},
    }
    for name, more in foreign.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(tmp_path / name),
            vocab_size=3000,
            hard_vocab_limit=False,
            character_coverage=0.98,
            minloglevel=3,
            **more,
        )
        with pytest.raises(UserError, match=rf"{name}\.model"):
            Tokenizer.load(tmp_path / f"{name}.model")


def test_what_has_no_meaning_is_refused(lossless: Tokenizer) -> None:
    for ids in ([-1], [lossless.vocab_size], np.array([0, lossless.vocab_size + 5])):
        with pytest.raises(UserError, match="outside the vocabulary"):
            lossless.decode(ids)
    with pytest.raises(UserError, match="outside the vocabulary"):
        lossless.stream_decoder().push(-1)
    with pytest.raises(UserError, match=r"lone surrogate, the last character of '.*.ud800'"):
        lossless.encode("天地\ud800")
    with pytest.raises(UserError, match="lone surrogate"):
        lossless.encode_batch(["好", "天地\udfff"])


def test_the_known_damage_of_the_released_model_is_repaired(shared: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(shared / "released" / "vocab.model")
    for name, model in {
        "whole": tokenizer.model,
        "damaged": tokenizer.model.replace(b"/home/yands/tmp/vocab10", b"/home/yandstmp/vocab10"),
    }.items():
        path = tmp_path / f"{name}.model"
        path.write_bytes(model)
        assert Tokenizer.load(path).fingerprint == tokenizer.fingerprint
