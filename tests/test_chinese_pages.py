"""The Chinese pages say what the English ones say: the same commands, the same figures, links that lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = sorted((REPOSITORY / "docs/zh").glob("*.md"))
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\w,]*\d)", re.ASCII)
LINK = re.compile(r"\]\(([^)#\s]+)\)")
# Numbers that Chinese writes otherwise.
CHINESE_NUMBERS = {"120", "250"}  # of 亿


def blocks(text: str) -> list[str]:
    """Return the fenced and the indented blocks of a page, in order."""
    found: list[str] = []
    lines = text.split("\n")
    place = 0
    while place < len(lines):
        end = place + 1
        if lines[place].startswith("```"):
            while not lines[end].startswith("```"):
                end += 1
            found.append("\n".join(lines[place : end + 1]))
            end += 1
        elif lines[place].startswith("    ") and (not place or not lines[place - 1].strip()):
            while end < len(lines) and lines[end].startswith("    "):
                end += 1
            found.append("\n".join(lines[place:end]))
        place = end
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_chinese_page_has_the_blocks_and_figures_of_the_english_one(path: Path) -> None:
    chinese = path.read_text(encoding="utf-8")
    english = (REPOSITORY / "docs" / path.name).read_text(encoding="utf-8")
    # The commands are those of the English page, in its order, so the tests that run its blocks run these.
    rest = iter(blocks(english))
    assert [block for block in blocks(chinese) if block not in rest] == []
    assert set(NUMBER.findall(chinese)) - set(NUMBER.findall(english)) <= CHINESE_NUMBERS
    assert chinese.count("\n## ") <= english.count("\n## ")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_links_of_a_chinese_page_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


def test_a_link_of_a_chinese_page_leads_to_the_chinese_page_where_there_is_one() -> None:
    names = {path.name for path in PAGES}
    for path in (*PAGES, REPOSITORY / "README_CN.md"):
        for link in LINK.findall(path.read_text(encoding="utf-8")):
            if Path(link).name in names:
                assert (path.parent / link).resolve().parent == REPOSITORY / "docs/zh", f"{path.name}: {link}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_chinese_page_has_the_tables_and_parts_of_the_english_one(path: Path) -> None:
    english = (REPOSITORY / "docs" / path.name).read_text(encoding="utf-8")
    chinese = path.read_text(encoding="utf-8")
    for mark in ("## ", "### ", "| "):
        counts = [sum(line.startswith(mark) for line in text.split("\n")) for text in (english, chinese)]
        assert counts[0] == counts[1], mark


def test_every_page_for_users_has_its_chinese() -> None:
    english = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert english - {path.stem for path in PAGES} == set()
