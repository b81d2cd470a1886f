"""The compiled kernels of near-duplicate search against their plain references."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.kernels import minhash
from data_pipeline.kernels.components import components
from data_pipeline.kernels.normal_form import normal_form, normal_form_table, normalise, string_column, text_buffers
from tests.data_pipeline.references import gram_set, signature_reference

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CHINESE = st.text(alphabet="的一是在不了有和人这，。中大为上个国我以Ａａ１2 \n𠮷鬥", max_size=300)


def components_reference(nodes: int, edges: list[tuple[int, int]]) -> list[int]:
    """The least node of each component, plainly: lower labels until nothing changes."""
    labels = list(range(nodes))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            least = min(labels[a], labels[b])
            changed |= labels[a] != least or labels[b] != least
            labels[a] = labels[b] = least
    return labels


def rows(codes) -> list[str]:
    return ["".join(map(chr, codes.values[a:b])) for a, b in zip(codes.offsets, codes.offsets[1:], strict=False)]


@given(st.lists(st.one_of(TEXT, CHINESE, st.none()), max_size=8))
@settings(max_examples=150, deadline=None)
def test_normal_forms_equal_the_reference(texts):
    for kind in (pa.string(), pa.large_string()):
        expected = [normal_form(text or "") for text in texts]
        assert rows(normalise(pa.array(texts, kind), normal_form_table())) == expected
        # A slice of a chunked column has offsets that do not start at 0.
        column = pa.chunked_array([pa.array(["前面", *texts], kind)])[1:]
        assert rows(normalise(column, normal_form_table())) == expected


def test_normal_form_of_what_chinese_pages_differ_in():
    assert normal_form("　ＰａｎＧｕ－α，３月！\r\n“盘古”。") == "panguα3月盘古"
    assert normal_form("😀—…\u200b") == ""
    assert normal_form("機器學習", fold_traditional=True) == normal_form("机器学习", fold_traditional=True)
    assert normal_form("機器學習") != normal_form("机器学习")


@given(st.lists(TEXT, max_size=5))
def test_a_column_survives_its_buffers(texts):
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    assert string_column(data.copy(), offsets).to_pylist() == texts


@given(
    st.lists(CHINESE, min_size=1, max_size=4),
    st.sampled_from([1, 8, 120]),
    st.integers(1, 7),
    st.integers(0, 2**63 - 1),
)
@settings(max_examples=60, deadline=None)
def test_signatures_equal_the_reference(texts, size, gram, seed):
    codes = normalise(pa.array(texts), normal_form_table())
    signatures = np.empty((len(texts), size), np.uint32)
    minhash.signatures(codes.values, codes.offsets, gram, seed, signatures)
    expected = [signature_reference(normal_form(text), size, gram, seed) for text in texts]
    assert signatures.tolist() == expected


@pytest.mark.parametrize(
    "text", ["".join(chr(0x4E00 + i * i % 20_000) for i in range(5000)), "哈" * 5000, "一二三" * 3000]
)
def test_a_document_longer_than_a_block_equals_the_reference(text):
    codes = normalise(pa.array([text]), normal_form_table())
    signatures = np.empty((1, 112), np.uint32)
    minhash.signatures(codes.values, codes.offsets, 5, 3, signatures)
    assert signatures[0].tolist() == signature_reference(text, 112, 5, 3)


@pytest.mark.parametrize("length", [40, 400, 4000])
def test_agreement_estimates_jaccard_without_bias_at_every_length(length):
    """The mean of 200 pairs lies within four standard errors of the truth, also where slots outnumber n-grams."""
    generator = np.random.default_rng(length)
    pairs = 200
    size = 120
    base = generator.integers(0x4E00, 0x9000, (pairs, length)).astype(np.uint32)
    other = base.copy()
    other[:, length // 2 : length // 2 + length // 8] = generator.integers(0x4E00, 0x9000, (pairs, length // 8))
    values = np.concatenate([base, other]).ravel()
    offsets = np.arange(2 * pairs + 1, dtype=np.int64) * length
    signatures = np.empty((2 * pairs, size), np.uint32)
    minhash.signatures(values, offsets, 5, 1, signatures)
    equal = np.empty(pairs, np.uint16)
    left, right = np.arange(pairs), np.arange(pairs) + pairs
    minhash.agreements(signatures, left, right, equal)
    exact = np.empty(pairs, np.float32)
    minhash.jaccard(values, offsets, left, right, 5, exact)
    truth = float(exact.mean())
    assert 0.55 < truth < 0.85
    standard_error = np.sqrt(truth * (1 - truth) / size / pairs)
    assert abs(equal.mean() / size - truth) < 4 * standard_error
    # No more spread than independent permutations have.
    assert (equal / size - exact).std() < 1.2 * np.sqrt(truth * (1 - truth) / size)


@given(st.lists(CHINESE, min_size=2, max_size=5), st.integers(1, 6), st.data())
@settings(max_examples=60, deadline=None)
def test_jaccard_equals_the_sets(texts, gram, data):
    index = st.integers(0, len(texts) - 1)
    pairs = sorted(data.draw(st.lists(st.tuples(index, index), min_size=1, max_size=6)))
    codes = normalise(pa.array(texts), normal_form_table())
    out = np.empty(len(pairs), np.float32)
    left, right = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    minhash.jaccard(codes.values, codes.offsets, left, right, gram, out)
    sets = [gram_set(normal_form(text), gram) for text in texts]
    expected = [len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b])) for a, b in pairs]
    np.testing.assert_allclose(out, np.array(expected, np.float32))


def test_a_band_key_depends_on_its_band_and_its_numbers_only():
    signatures = np.array([[1, 2, 1, 2], [1, 2, 3, 4]], np.uint32)
    keys = np.empty((2, 2), np.uint64)
    minhash.band_keys(signatures, 2, keys)
    assert keys[0, 0] == keys[1, 0]
    assert len(np.unique(keys)) == 3


@given(st.integers(1, 12), st.data())
@settings(deadline=None)
def test_components_equal_the_reference_in_any_order_of_edges(nodes, data):
    node = st.integers(0, nodes - 1)
    edges = data.draw(st.lists(st.tuples(node, node), max_size=15))
    expected = components_reference(nodes, edges)
    for order in (edges, [(b, a) for a, b in reversed(edges)]):
        sides = np.array(order, np.int64).reshape(-1, 2)
        assert components(nodes, sides[:, 0], sides[:, 1]).tolist() == expected


def test_kernels_run_where_no_folder_for_machine_code_can_be_written(tmp_path):
    """A read-only install used by somebody without a home."""
    package = tmp_path / "site" / "data_pipeline"
    (package / "kernels").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in (f"kernels/{module}.py" for module in ("compiled", "first_use", "machine_code", "minhash")):
        source = REPOSITORY / "data_pipeline" / name
        (package / name).write_bytes(source.read_bytes() if source.exists() else b"")
    (package / "kernels" / "__pycache__").write_text("a file, so that no folder can be made here even by root")
    code = (
        "import numpy as np; from data_pipeline.kernels.minhash import band_keys; keys = np.empty((1, 1), np.uint64);"
        "band_keys(np.array([[1, 2]], np.uint32), 2, keys); print(bool(keys[0, 0]))"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/dev/null",
        "XDG_CACHE_HOME": "/dev/null",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr
