"""Exact repeats of 50 characters or more."""

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.stages.dedup.substring import (
    LATER_SQL,
    REPEATED_SQL,
    SubstringSettings,
    cut,
    deduplicate_substrings,
    fingerprint_rows,
    window_rows,
)

SHORT = SubstringSettings(length=8)
# Few letters, so that repeats, also overlapping and periodic ones, are frequent.
TEXT = st.one_of(st.text(alphabet="甲乙", max_size=60), st.text(alphabet="甲a𠮷\0\n", max_size=60))


def deduplicate_substrings_reference(texts: list[str], length: int) -> list[str]:
    """Return the same, plainly: every window in order, and a set of those seen."""
    seen: set[str] = set()
    kept = []
    for text in texts:
        repeated = [False] * len(text)
        for position in range(len(text) - length + 1):
            window = text[position : position + length]
            if window in seen:
                repeated[position : position + length] = [True] * length
            seen.add(window)
        kept.append("".join(character for character, gone in zip(text, repeated, strict=True) if not gone))
    return kept


@given(st.lists(TEXT, max_size=6))
@settings(max_examples=150, deadline=None)
def test_equals_the_reference(texts):
    result = deduplicate_substrings(pa.array(texts, pa.string()), SHORT)
    expected = deduplicate_substrings_reference(texts, SHORT.length)
    assert result.texts.to_pylist() == expected
    assert result.characters.tolist() == [len(a) - len(b) for a, b in zip(texts, expected, strict=True)]


def test_a_quotation_of_fifty_characters_is_cut_and_one_of_forty_nine_stays():
    first, second, third = chinese_grammar.documents(3, seed=8, median=2000)
    quotation = first[100:150]
    assert len(quotation) == 50
    texts = [first, second + quotation + "完", third + quotation[1:] + "终"]
    result = deduplicate_substrings(pa.array(texts)).texts.to_pylist()
    assert result == [first, second + "完", texts[2]]


def test_sql_and_batches_give_the_same():
    bodies = list(chinese_grammar.documents(20, seed=3))
    texts = [body + bodies[(i + 7) % 20][:120] for i, body in enumerate(bodies)]
    chosen = SubstringSettings()
    numbers = np.arange(20) * 10
    parts = [(pa.array(texts[:9]), numbers[:9]), (pa.array(texts[9:]), numbers[9:])]
    with duckdb.connect() as connection:
        connection.register("fingerprints", pa.concat_tables([fingerprint_rows(part, chosen) for part, _ in parts]))
        repeated = connection.sql(REPEATED_SQL).fetchnumpy()["fingerprint"]
        rows = [window_rows(part, document, repeated, chosen) for part, document in parts]
        connection.register("windows", pa.concat_tables(rows))
        later = connection.sql(LATER_SQL).to_arrow_table()
    result = [text for part, document in parts for text in cut(part, document, later, chosen).texts.to_pylist()]
    assert result == deduplicate_substrings_reference(texts, 50)
    assert result != texts


def test_few_fingerprints_travel():
    texts = pa.array(list(chinese_grammar.documents(50, seed=1)))
    characters = sum(map(len, texts.to_pylist()))
    assert fingerprint_rows(texts, SubstringSettings()).num_rows < characters / 10


def test_no_rows_and_nulls():
    assert deduplicate_substrings(pa.array([], pa.string())).texts.to_pylist() == []
    assert deduplicate_substrings(pa.array([None, "短"])).texts.to_pylist() == [None, "短"]
