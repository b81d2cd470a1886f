"""Reviewing by hand: the sample, the file, the HTTP server, the page in a browser, and what becomes of the verdicts."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cli import main
from data_pipeline.quality.documents import SourcedDocument, examples, read_documents
from data_pipeline.review.server import ReviewServer
from data_pipeline.review.session import KINDS, ReviewItem, Session, draw, load, wilson
from pangu.foundation.errors import UserError
from tests.browser import chromium
from tests.data_pipeline.conftest import make_text, write_jsonl


def documents(count: int) -> list[SourcedDocument]:
    return [SourcedDocument(n, f"d{n}", "web", None, None, f"第{n}篇\n<b>正文</b>", None, {}) for n in range(count)]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    session = Session(tmp_path / "reviewed.jsonl", draw(documents(50), 10, seed=1))
    session.save()
    return session


@pytest.fixture
def server(session: Session) -> Iterator[ReviewServer]:
    with ReviewServer(session, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(
    server: ReviewServer, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, dict | str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} if data is not None else {}
    connection.request(
        method, path, data, {**kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    )
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, json.loads(content) if answer.getheader("Content-Type") == "application/json" else content


@given(st.permutations(range(30)), st.integers(1, 40), st.integers(0, 5))
def test_the_sample_does_not_depend_on_the_order(order: list[int], count: int, seed: int) -> None:
    every = documents(30)
    drawn = draw((every[n] for n in order), count, seed)
    assert [item.doc_id for item in drawn] == [item.doc_id for item in draw(every, count, seed)]
    assert len({item.doc_id for item in drawn}) == len(drawn) == min(count, 30)


def test_the_sample_depends_on_the_seed_and_skips_empty_documents() -> None:
    samples = {tuple(item.doc_id for item in draw(documents(50), 10, seed)) for seed in range(5)}
    assert len(samples) == 5
    twice = [*documents(3), *documents(3)]  # two files of one name
    assert sorted(item.doc_id for item in draw(twice, 6, 1)) == [0, 0, 1, 1, 2, 2]
    assert len(draw(twice, 3, 1)) == 3
    empty = SourcedDocument(7, None, "web", None, None, " \n", None, {})
    assert draw([empty], 3, 1) == []


def test_requests(server: ReviewServer, session: Session) -> None:
    status, state = request(server, "GET", "/review")
    assert status == 200 and isinstance(state, dict)
    assert (state["items"], state["judged"], state["first_open"], state["kinds"]) == (10, 0, 0, KINDS)
    status, item = request(server, "GET", "/items/3")
    assert status == 200 and isinstance(item, dict)
    assert item["text"] == session.items[3].text and item["doc_id"] == str(session.items[3].doc_id)
    status, page = request(server, "GET", "/")
    assert status == 200 and isinstance(page, str) and "<title>review</title>" in page
    assert "http://" not in page and "https://" not in page  # nothing from elsewhere

    for number, verdict in enumerate(["keep", "junk", "unsure", "junk"]):
        kind = "spam" if number == 1 else None
        assert request(server, "POST", f"/items/{number}", {"verdict": verdict, "kind": kind})[0] == 200
        # it is on the disk before the answer comes
        assert [item.verdict for item in load(session.path).items][number] == verdict
    _, state = request(server, "GET", "/review")
    assert isinstance(state, dict)
    assert state["first_open"] == 4 and state["kinds_seen"] == {"spam": 1, "other": 1}
    assert state["junk"]["junk"] == 2 and state["junk"]["of"] == 3
    assert request(server, "POST", "/items/1", {"verdict": None})[0] == 200
    assert load(session.path).items[1].verdict is None


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/items/10", None, {}, 404),
        ("GET", "/items/-1", None, {}, 404),
        ("GET", "/items/%D9%A1", None, {}, 404),
        ("GET", "/../../etc/passwd", None, {}, 404),
        ("GET", "/review", None, {"Host": "evil.example"}, 403),
        ("POST", "/items/0", {"verdict": "keep"}, {"Host": "evil.example"}, 403),
        ("POST", "/items/0", {"verdict": "keep"}, {"Origin": "http://evil.example"}, 403),
        ("POST", "/items/0", {"verdict": "keep"}, {"Origin": "null"}, 403),
        ("POST", "/items/0", {"verdict": "keep"}, {"Content_Type": "text/plain"}, 415),
        ("POST", "/items/99", {"verdict": "keep"}, {}, 404),
        ("POST", "/items/0", {"verdict": "splendid"}, {}, 400),
        ("POST", "/items/0", {"verdict": "keep", "kind": "spam"}, {}, 400),
        ("POST", "/items/0", {"verdict": "junk", "kind": "bad"}, {}, 400),
        ("POST", "/items/0", {"verdict": ["junk"]}, {}, 400),
        ("POST", "/items/0", {"text": "other"}, {}, 400),
        ("POST", "/items/0", b"{", {}, 400),
        ("POST", "/items/0", b"\xff\xfe", {}, 400),
        ("POST", "/items/0", b"[" * 4000, {}, 400),
        ("POST", "/items/0", b" " * 5000, {}, 400),
        ("PUT", "/items/0", b"{}", {}, 501),
    ],
)
def test_bad_requests_change_nothing(
    server: ReviewServer, session: Session, method: str, path: str, body: object, headers: dict, status: int
) -> None:
    before = session.path.read_bytes()
    found, _ = request(server, method, path, body, **headers)
    assert found == status
    assert session.path.read_bytes() == before
    assert request(server, "GET", "/review")[0] == 200


def test_a_full_disk_is_said_and_loses_nothing(
    server: ReviewServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise UserError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr("data_pipeline.review.session.write_whole", full)
    status, answer = request(server, "POST", "/items/0", {"verdict": "keep"})
    assert status == 500 and isinstance(answer, dict) and "No space left" in answer["error"]
    monkeypatch.undo()
    assert session.items[0].verdict is None
    assert request(server, "POST", "/items/1", {"verdict": "keep"})[0] == 200
    assert [item.verdict for item in load(session.path).items[:2]] == [None, "keep"]


def test_a_browser_and_its_keys(server: ReviewServer, session: Session, tmp_path: Path) -> None:
    session.items[0].text = "<script>document.title = 'run'</script><img src=x onerror=alert(1)>\n" + "长" * 5000
    with chromium(tmp_path / "profile") as browser:
        browser.open(server.url)
        place = "document.getElementById('place')?.textContent"
        browser.wait(f"{place} === '1 / 10'")
        assert browser.evaluate("document.getElementById('text').textContent") == session.items[0].text
        assert browser.evaluate("document.querySelectorAll('#text *').length") == 0
        for number, key in enumerate(["k", "j", "2", "u", "ArrowRight", "9"], 2):
            browser.press(key)
            browser.wait(f"{place} === '{number} / 10'")
        assert [(item.verdict, item.kind) for item in load(session.path).items[:6]] == [
            ("keep", None),
            ("junk", None),
            ("junk", "spam"),
            ("unsure", None),
            (None, None),
            ("junk", "other"),
        ]
        browser.press("n")
        browser.wait(f"{place} === '5 / 10'")
        browser.press("ArrowLeft")
        browser.wait(f"{place} === '4 / 10'")
        browser.press("Backspace")
        browser.wait("document.getElementById('verdict').textContent === 'not judged'")
        assert load(session.path).items[3].verdict is None
        assert browser.evaluate("document.title") == "4 of 10 judged"
        # the whole page fits: nothing but the text and the side bar scrolls
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        (tmp_path / "page.png").write_bytes(picture := browser.picture())
        assert len(picture) > 10_000


def test_the_command_stops_resumes_and_feeds_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{"id": f"r{n}", "text": make_text(n)} for n in range(60)]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    out = tmp_path / "reviewed.jsonl"
    command = [sys.executable, "-m", "data_pipeline", "review", str(source), "--out", str(out), "--count", "50"]
    for verdict, ends in (("keep", signal.SIGINT), ("junk", signal.SIGKILL)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.rsplit(":", 1)[1].strip(" /\n"))
        judged = 25 if verdict == "junk" else 0
        assert f"50 documents to judge, {judged} judged" in line
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for number in range(judged, judged + 25):
            body = json.dumps({"verdict": verdict})
            connection.request("POST", f"/items/{number}", body, {"Content-Type": "application/json"})
            assert connection.getresponse().read()
        os.kill(process.pid, ends)
        assert process.wait(30) == (0 if ends == signal.SIGINT else -signal.SIGKILL)
        process.stdout.close()
    assert main(["review", "--out", str(out), "--summary"]) == 0
    assert "all: 25 of 50 are junk, 50.0%" in capsys.readouterr().out
    read = list(read_documents([out]))
    assert len(list(examples(read, "positives"))) == len(list(examples(read, "negatives"))) == 25
    assert main(["quality", "train", str(tmp_path / "m"), "--positives", str(out), "--negatives", str(out)]) == 0
    assert "trained on 25 good and 25 bad texts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl", "--out", "out"], "none.jsonl: no such file"),
        (["--out", "out"], "out: no such review; name what to review"),
        (["a.jsonl", "--out", "out", "--count", "0"], "--count 0: nearest: 1"),
        (["a.jsonl", "--out", "damaged"], "damaged line 2: no line of a review"),
        (["a.jsonl", "--out", "empty"], "empty: is empty"),
        (["a.jsonl", "--out", "out", "--reason", "spam"], "a.jsonl: no document dropped for 'spam' to review"),
        (["a.jsonl", "--out", "out", "--port", "99999"], "--port 99999"),
        (["a.jsonl", "--out", "no/such/out"], "no/such/out: cannot be written"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("a.jsonl"), [{"text": "一"}])
    Path("damaged").write_text(ReviewItem(1, None, "a", None, None, "一", None).line() + '{"doc_id": 1}\n')
    Path("empty").touch()
    assert main(["review", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_of_a_share(hits: int, count: int) -> None:
    hits = min(hits, count)
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert wilson(count - hits, count) == pytest.approx((1 - high, 1 - low))


def test_documents_that_nobody_has_judged_are_no_examples(tmp_path: Path) -> None:
    items = draw(documents(12), 12, 1)
    for number, item in enumerate(items[:4]):
        item.verdict, item.kind = ("keep", None) if number % 2 else ("junk", "spam")
    Session(tmp_path / "reviewed.jsonl", items).save()
    sides = {
        side: list(examples(read_documents([tmp_path / "reviewed.jsonl"]), side)) for side in ("positives", "negatives")
    }
    assert [len(texts) for texts in sides.values()] == [2, 2]
    write_jsonl(tmp_path / "law.jsonl", [{"text": "判决书全文", "verdict": None}])
    assert len(list(examples(read_documents([tmp_path / "law.jsonl"]), "positives"))) == 1
