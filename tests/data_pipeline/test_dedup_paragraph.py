"""Boilerplate paragraphs by document frequency."""

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.kernels.normal_form import normal_form, normal_form_table
from data_pipeline.kernels.paragraphs import find_paragraphs
from data_pipeline.stages.dedup.paragraph import (
    ParagraphSettings,
    deduplicate_paragraphs,
    frequent_sql,
    paragraph_rows,
    remove_paragraphs,
)
from tests.data_pipeline.references import paragraph_hash_reference

FOOTER = "版权所有：某某新闻网，未经书面授权不得转载、摘编或利用其它方式使用上述作品，违者必究。"
PARAGRAPH = st.text(alphabet="甲乙丙，。A1 \r", max_size=8)
TEXT = st.lists(PARAGRAPH, max_size=6).map("\n".join)


def deduplicate_paragraphs_reference(texts: list[str], settings: ParagraphSettings) -> list[str]:
    """Return the same, plainly."""

    def key(paragraph: str) -> int | None:
        normal = normal_form(paragraph, settings.fold_traditional)
        return paragraph_hash_reference(normal) if len(normal) >= settings.minimum_characters else None

    frequency: dict[int, int] = {}
    for text in texts:
        for found in {key(paragraph) for paragraph in text.split("\n")} - {None}:
            assert found is not None
            frequency[found] = frequency.get(found, 0) + 1
    return [
        "\n".join(part for part in text.split("\n") if frequency.get(key(part) or -1, 0) <= settings.documents)
        for text in texts
    ]


@given(st.lists(TEXT, min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_equals_the_reference(texts, documents, minimum):
    chosen = ParagraphSettings(documents=documents, minimum_characters=minimum)
    removed = deduplicate_paragraphs(pa.array(texts), chosen)
    assert removed.texts.to_pylist() == deduplicate_paragraphs_reference(texts, chosen)
    # What is gone, counted in letters and digits, is what the column says.
    before = [len(normal_form(text)) for text in texts]
    after = [len(normal_form(text)) for text in removed.texts.to_pylist()]
    assert (np.array(before) - after).tolist() == removed.characters.tolist()


@given(st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_paragraphs_are_those_between_line_feeds(texts):
    column = pa.chunked_array([pa.array(["前\n面", *texts])])[1:]
    found = find_paragraphs(column, normal_form_table())
    expected = [(row, part) for row, text in enumerate(texts) for part in text.split("\n")]
    assert found.row.tolist() == [row for row, _ in expected]
    normals = [normal_form(part) for _, part in expected]
    assert found.length.tolist() == [len(normal) for normal in normals]
    assert found.hash.tolist() == [paragraph_hash_reference(normal) for normal in normals]


def test_a_footer_on_eleven_pages_goes_and_one_on_ten_stays():
    bodies = list(chinese_grammar.documents(11, seed=1))
    # Spaces and punctuation differ from page to page.
    pages = [f"{body}\n{FOOTER.replace('，', ' ，' * (i % 3))}" for i, body in enumerate(bodies)]
    removed = deduplicate_paragraphs(pa.array(pages))
    assert removed.texts.to_pylist() == bodies
    assert removed.paragraphs.tolist() == [1] * 11
    assert deduplicate_paragraphs(pa.array(pages[:10])).texts.to_pylist() == pages[:10]


def test_a_paragraph_repeated_inside_one_document_counts_once():
    pages = ["\n".join([FOOTER] * 20), "别的内容"]
    assert deduplicate_paragraphs(pa.array(pages)).texts.to_pylist() == pages


def test_sql_and_batches_give_the_same():
    pages = [f"{body}\n{FOOTER}" for body in chinese_grammar.documents(30, seed=2)]
    chosen = ParagraphSettings()
    halves = [pa.array(pages[:13]), pa.array(pages[13:])]
    rows = [paragraph_rows(halves[0], np.arange(13), chosen), paragraph_rows(halves[1], np.arange(13, 30), chosen)]
    with duckdb.connect() as connection:
        connection.register("paragraphs", pa.concat_tables(rows))
        boilerplate = connection.sql(frequent_sql(chosen)).fetchnumpy()["paragraph"]
    parts = [remove_paragraphs(half, boilerplate, chosen).texts.to_pylist() for half in halves]
    assert parts[0] + parts[1] == deduplicate_paragraphs(pa.array(pages), chosen).texts.to_pylist()
    assert not any(FOOTER in text for part in parts for text in part)


def test_no_rows():
    assert deduplicate_paragraphs(pa.array([], pa.string())).texts.to_pylist() == []
