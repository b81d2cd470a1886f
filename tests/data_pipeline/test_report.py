"""The report: what it counts, that nothing in a record can do anything, and that a real browser shows it as it is."""

import http.server
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cli import main
from data_pipeline.report.collect import Amounts, collect
from data_pipeline.report.escape import text
from tests.data_pipeline.conftest import make_text, run_recipe, write_jsonl
from tests.http_server import serve

PASSAGE = "战国无双三是由光荣开发的战国无双系列的正统第三续作，以三大故事为主轴，分别是关东三国志与战国三杰。"
SECTIONS = (
    "overview",
    "funnel",
    "rules",
    "sources",
    "languages",
    "signals",
    "samples",
    "duplicates",
    "decontamination",
    "settings",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "headless_shell")


class _Requests(http.server.BaseHTTPRequestHandler):
    paths: list[str] = []  # noqa: RUF012 (one server at a time)

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that nothing may ask anything."""
    with serve(_Requests) as address:
        yield f"http://{address}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, server: str) -> Path:
    """A run with hostile records, duplicates, contamination and a mixture."""
    folder = tmp_path_factory.mktemp("report")
    hostile = (
        f"<script>fetch('{server}/script')</script><img src={server}/image.png onerror=alert(1)><style>@import url"
        f"({server}/style)</style></title></style>\"'`><svg onload=alert(2)>&lt;b&gt;\u202e反\0\x07{{{{}}}}"
    )
    rows = [{"id": f"a{i}", "text": make_text(i, 12)} for i in range(40)]
    rows += [{"id": f"short{i}", "text": f"短文{i}，{hostile}"} for i in range(4)]
    rows += [
        {"id": f"copy{i}<b>", "text": make_text(i, 12).replace("春天", "夏天") + "。" + hostile[:20]} for i in range(6)
    ]
    rows += [{"id": "same", "text": make_text(3, 12)}, {"id": "leak", "text": make_text(90, 12) + "\n" + PASSAGE}]
    rows += [{"id": "hostile", "text": make_text(91, 12) + "\n" + hostile}]
    write_jsonl(folder / "a.jsonl", rows)
    write_jsonl(folder / "b.jsonl", [{"id": f"b{i}", "text": make_text(200 + i, 9)} for i in range(10)])
    write_jsonl(folder / "eval.json", [{"context": PASSAGE}])
    recipe = {
        "sources": [{"name": "<i>a</i>", "paths": "a.jsonl"}, {"name": "b", "paths": "b.jsonl"}],
        "stages": [
            "read",
            {"clean": {"minimum_characters": 100}},
            {"filter": {"preset": None, "rules": {"numbers": {"signal": "digit_share", "maximum": 0.06}}}},
            "dedup_exact",
            "dedup_fuzzy",
            {"decontaminate": {"evaluation": ["eval.json"]}},
            {"mix": {"epochs": {"<i>a</i>": 1, "b": 1.5}}},
        ],
        "workers": 1,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False))
    run_recipe(folder / "recipe.yaml", folder / "out")
    assert main(["report", str(folder / "out")]) == 0
    return folder / "out"


def test_figures_agree_with_the_run(corpus: Path) -> None:
    report = collect(corpus, Amounts())
    rows = {row.name: row for row in report.sources}
    assert rows["<i>a</i>"].documents_in == 53 and rows["b"].documents_in == 10
    published = Counter(row["source"] for path in (corpus / "documents").glob("*.parquet") for row in _rows(path))
    assert {name: row.documents_out for name, row in rows.items()} == published
    dropped: Counter = Counter()
    for row in report.sources:
        dropped.update(row.dropped)
    expected = {f"{one.name}: {reason}": count for one in report.summaries for reason, count in one.dropped.items()}
    assert dropped == expected
    for sample in report.samples:
        assert expected[f"{sample.stage}: {sample.rule}"] == sample.count
        assert len(sample.dropped) == min(sample.count, 5) and len(sample.kept) == 5
        assert all(row["drop_reason"].startswith(sample.rule) for row in sample.dropped)
    digits = next(one for one in report.histograms if one.signal == "digit_share")
    filtered = next(one for one in report.summaries if one.name == "filter")
    assert digits.kept.sum() == filtered.documents and digits.dropped.sum() == filtered.dropped.get("numbers", 0)
    assert [rule.maximum for rule in digits.thresholds] == [0.06]
    assert sum(report.cluster_sizes.values()) >= 6 and any(cluster.representative for cluster in report.clusters)
    assert report.hits[0]["evaluation_text"] == PASSAGE[:-1] and report.hits[0]["id"] == "leak"


def _rows(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=["source"]).to_pylist()


class _Elements(HTMLParser):
    """Counts elements and collects attributes that could fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter = Counter()
        self.suspects: list[tuple[str, str, str | None]] = []
        self.classes: Counter = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "class":
                self.classes.update((value or "").split())
            is_own = name == "href" and (value or "").startswith(("#", "data:"))
            if (name in ("src", "href", "srcset", "action", "style") or name.startswith("on")) and not is_own:
                self.suspects.append((tag, name, value))


def test_nothing_in_a_record_becomes_markup(corpus: Path) -> None:
    page = (corpus / "report.html").read_text(encoding="utf-8")
    found = _Elements()
    found.feed(page)
    assert found.suspects == []
    assert {"script", "img", "i", "b", "iframe"} & (set(found.tags) - {"i", "b"}) == set()
    assert "<i>a</i>" not in page and "&lt;i&gt;a&lt;/i&gt;" in page
    assert not re.search("[\0-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]", page)
    assert found.classes["histogram"] >= 5 and found.classes["funnel"] == 1 and found.classes["threshold"] >= 2
    assert found.tags["mark"] >= 2 and found.tags["ins"] >= 1
    for section in SECTIONS:
        assert f'<section id="{section}">' in page


@given(st.text(max_size=40))
def test_escaped_text_is_text(value: str) -> None:
    shown = text(value)
    parser = _Elements()
    parser.feed(f'<p title="{shown}">{shown}</p>')
    assert parser.tags == {"p": 1} and parser.suspects == []
    assert not re.search("[\0-\x08\u200b-\u200f\u202a-\u202e]", shown)


def test_the_size_is_bounded_and_the_page_the_same_each_time(corpus: Path, tmp_path: Path, capsys) -> None:
    pages = [tmp_path / name for name in ("one.html", "two.html", "small.html")]
    assert main(["report", str(corpus), "--out", str(pages[0])]) == 0
    assert main(["report", str(corpus), "--out", str(pages[1])]) == 0
    assert pages[0].read_bytes() == pages[1].read_bytes() == (corpus / "report.html").read_bytes()
    whole = pages[0].stat().st_size
    assert main(["report", str(corpus), "--out", str(pages[2]), "--maximum", str(whole * 3 // 4), "--json"]) == 0
    assert pages[2].stat().st_size <= whole * 3 // 4
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["samples"] < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "not the output directory of a run"),
        (["RUN", "--maximum", "9kB"], "without any sample"),
        (["RUN", "--maximum", "big"], "is not a size"),
        (["RUN", "--samples", "-1"], "nearest: 0"),
        (["RUN", "--out", "/nowhere/report.html"], "does not exist"),
    ],
)
def test_mistakes_are_one_line(corpus: Path, arguments: list[str], message: str, capsys) -> None:
    assert main(["report", *[str(corpus) if word == "RUN" else word for word in arguments]]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here ({', '.join(BROWSERS)}); Debian: apt-get install chromium")
    return found


def open_page(browser: str, page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
        "--enable-logging=stderr", "--hide-scrollbars", "--window-size=1280,1600", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=120)


def test_a_real_browser_shows_it(corpus: Path, browser: str, tmp_path: Path) -> None:
    page = corpus / "report.html"
    seen = open_page(browser, page, tmp_path / "profile", "--dump-dom")
    dom = seen.stdout.decode()
    console = [line for line in seen.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    assert seen.returncode == 0 and console == []
    assert dom.count("<svg") == page.read_text(encoding="utf-8").count("<svg") >= 10
    assert dom.count("<section") == 11 and "<script" not in dom
    assert _Requests.paths == []
    shot = tmp_path / "report.png"
    open_page(browser, page, tmp_path / "profile", f"--screenshot={shot}")
    assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 50_000


def test_the_browser_test_would_see_a_request(browser: str, server: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<script>console.error('seen')</script><img src='{server}/asked'>")
    seen = open_page(browser, page, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" in seen.stderr.decode(errors="replace") and "/asked" in _Requests.paths
    _Requests.paths.clear()
