"""The filter's signals: compiled against plain, and on text whose signals are known."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.kernels.text_signals import _PART_KEYS, NAMES, SIGNALS, text_signals
from tests.data_pipeline.references import text_signals_reference

TEXT = st.one_of(
    st.text(st.characters(max_codepoint=0x33FF), max_size=80),
    st.text(alphabet="的了是在年好，。…. \n烫屯锟aＡ１1·-かナ한\u200b\ufffd\ue000一二", max_size=120),
    st.lists(st.sampled_from(["目录", "第一章 总则。", "- 第一章", "更多...", "", "  "]), max_size=12).map("\n".join),
)


def measured(text: str) -> dict[str, float]:
    return {name: float(column[0]) for name, column in text_signals(pa.array([text])).items()}


def test_a_huge_text_equals_the_reference() -> None:
    """One whose n-grams are dealt into several parts."""
    documents = list(chinese_grammar.documents(60, seed=3))
    text = "\n".join(documents * 2)
    assert len(text) > 2 * _PART_KEYS
    expected = text_signals_reference(text)
    assert measured(text) == {name: pytest.approx(expected[name]) for name in NAMES}


@given(st.lists(TEXT, max_size=5))
@settings(max_examples=100, deadline=None)
def test_equals_the_reference(texts):
    signals = text_signals(pa.array(texts, pa.string()))
    assert tuple(signals) == NAMES == tuple(SIGNALS)
    for row, text in enumerate(texts):
        expected = text_signals_reference(text)
        for name in NAMES:
            assert signals[name][row] == pytest.approx(expected[name]), (name, text)


def test_every_character_has_the_class_that_python_gives_it():
    """One text of all letters, digits and spaces of planes 0 and 1 in blocks: a wrong table would shift a share."""
    texts = ["".join(map(chr, range(first, first + 256))) for first in range(0, 0x20000, 256) if first // 0x800 != 27]
    signals = text_signals(pa.array(texts))
    for row, text in enumerate(texts):
        assigned = text_signals_reference(text)
        for name in ("han_share", "kana_share", "hangul_share", "latin_share", "digit_share", "mojibake_share"):
            assert signals[name][row] == pytest.approx(assigned[name]), (name, hex(ord(text[0])))


def test_of_ordinary_prose():
    signals = measured("".join(chinese_grammar.documents(1, seed=1, median=3000)))
    assert signals["han_share"] > 0.8
    assert signals["punctuated_line_share"] > 0.8
    assert signals["duplicate_10_gram_share"] == 0
    assert signals["mojibake_share"] == 0
    assert signals["short_term_share"] < 0.3


def test_of_junk():
    assert measured("烫烫烫烫")["mojibake_share"] == 1
    assert measured("烫烫手的山芋")["mojibake_share"] == 0
    assert measured("锛屾垜")["mojibake_share"] > 0
    keywords = measured("上海搬家、北京搬家、搬家公司、长途搬家、搬家价格、搬家电话")
    assert keywords["short_term_share"] == 1
    assert keywords["function_word_share"] == 0
    repeated = measured("点击这里立即购买，限时优惠不要错过。" * 30)
    assert repeated["repeated_13_gram_share"] == 1
    assert repeated["duplicate_10_gram_share"] > 0.9
    assert repeated["repetition_10"] > 0.2


def test_of_nothing():
    for text in ("", " \n\t", None):
        assert not any(column[0] for column in text_signals(pa.array([text], pa.string())).values())


def test_rows_do_not_depend_on_each_other():
    texts = list(chinese_grammar.documents(20, seed=2))
    together = text_signals(pa.array(texts))
    for row, text in enumerate(texts):
        alone = text_signals(pa.array([text]))
        assert all(np.array_equal(together[name][row], alone[name][0]) for name in NAMES)
