"""The segmenter gives the words of `jieba.cut`, on any text."""

import gzip
import itertools
import json
import logging
from pathlib import Path

import jieba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.tokenizer.segmentation import segment
from pangu.tokenizer.segmentation.dictionary_arrays import load_tables
from pangu.tokenizer.segmentation.kernels import mark_token_ends
from tests.pangu.strange_text import HAN, strange_lines, strange_texts


@pytest.fixture(scope="module", autouse=True)
def quiet_jieba() -> None:
    jieba.setLogLevel(logging.CRITICAL)
    jieba.initialize()


@given(strange_texts)
@settings(max_examples=400, deadline=None)
def test_strange_text(text: str) -> None:
    assert segment(text) == list(jieba.cut(text))


@given(st.text(st.characters()))
@settings(max_examples=200, deadline=None)
def test_any_text_even_with_lone_surrogates(text: str) -> None:
    assert segment(text) == list(jieba.cut(text))


@given(st.text(st.sampled_from(HAN), max_size=60))
@settings(max_examples=300, deadline=None)
def test_runs_of_han_that_only_the_hidden_markov_model_can_cut(text: str) -> None:
    assert segment(text) == list(jieba.cut(text))


@given(st.text("1a%._-甲&", max_size=12))
@settings(max_examples=300, deadline=None)
def test_ascii_inside_blocks(text: str) -> None:
    assert segment(text) == list(jieba.cut(text))


def test_a_million_bytes_of_strange_lines() -> None:
    for line in strange_lines(seed=7, size=1_000_000):
        assert segment(line) == list(jieba.cut(line)), repr(line)


def test_every_character_of_the_basic_plane_between_words() -> None:
    for begin in range(0, 0x10000, 64):
        text = "".join(f"{chr(point)}天{chr(point)}a" for point in range(begin, begin + 64))
        assert segment(text) == list(jieba.cut(text)), hex(begin)


def test_a_block_without_an_end() -> None:
    text = "".join(itertools.islice(strange_lines(seed=3, size=10**9), 3000))
    text = "".join(character for character in text if "\u4e00" <= character <= "\u9fd5" or character.isalnum())
    assert segment(text) == list(jieba.cut(text))


def test_python_and_machine_code_agree() -> None:
    """The first characters of a process are cut without numba."""
    text_stops = np.array([0])
    for line in strange_lines(seed=13, size=4000):
        points = np.frombuffer(line.encode("utf-32-le"), np.uint32)
        text_stops[0] = len(points)
        arguments = points, text_stops, load_tables()
        expected = mark_token_ends.interpreted(*arguments)
        assert np.array_equal(mark_token_ends(*arguments), expected)


def test_nothing() -> None:
    assert segment("") == []


def test_real_documents(shared: Path) -> None:
    for path in sorted((shared / "corpus").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = "".join(json.loads(row)["text"] for row in itertools.islice(file, 60))[:30_000]
        assert segment(text) == list(jieba.cut(text)), path.name
