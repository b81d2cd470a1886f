"""No message without its Chinese: what the sources say, and what the catalogue has."""

import functools
from pathlib import Path

import pytest

from pangu.foundation.catalogue import Catalogue
from tests.tools import catalogue
from tests.tools.templates import messages_of, paragraphs_of, texts_of_html


@functools.cache
def lacking() -> dict[str, tuple[str, str]]:
    return catalogue.missing()


def test_every_message_and_every_line_of_help_has_its_chinese() -> None:
    # `python -m tests.tools.catalogue --missing` numbers them, `--add` takes the Chinese in.
    assert {place: text for text, (_, place) in lacking().items()} == {}


@pytest.mark.parametrize("domain", catalogue.DOMAINS)
def test_a_translation_has_the_fields_of_its_message(domain: str) -> None:
    entries = catalogue.entries(domain)
    assert entries
    for source, target in entries.items():
        assert catalogue.fields_of(source) == catalogue.fields_of(target), source


def test_messages_are_found_where_they_are_made(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '''"""A docstring is no message."""
import re

def mistake(path, count, names):
    """Nor is this one."""
    raise UserError(f"{path}: holds {count} file{'s' if count > 1 else ''}; give {', '.join(names)}")

def other(parser, rows):
    parser.add_argument("--out", help="directory")
    re.compile("these words are no message")
    warn("stopped")
    head = "<h2>A sum</h2>" + empty("No row was read.") + note("a note of it")
    return f"<h2>Loss of rows</h2><p title='a tip'>{len(rows)} rows were {{read}}</p>", {"a key": rows["not shown"]}
''',
        encoding="utf-8",
    )
    assert set(messages_of(module)) == {
        "{path}: holds {count} file; give {join}", "{path}: holds {count} files; give {join}",
        "directory", "stopped", "Loss of rows", "a tip", "{rows} rows were {{read}}",
        "A sum", "No row was read.", "a note of it",
    }  # fmt: skip


def test_a_found_template_matches_what_the_code_says() -> None:
    entries = {"{path}: holds {count} files; give {join}": "{path}：有 {count} 个文件；请给出 {join}"}
    assert Catalogue(entries).translate("a b: holds 3 files; give x, y") == "a b：有 3 个文件；请给出 x, y"


def test_examples_of_a_docstring_are_no_messages() -> None:
    text = "Does a thing.\n\n    python -m x y\n\nexample:\n  z\n\nMore about {it}:\nin two lines.\n"
    assert list(paragraphs_of(text)) == ["Does a thing.", "More about {{it}}: in two lines."]
    assert list(texts_of_html('<p alt="one">two <b>three</b></p><script>four</script>')) == ["one", "two", "three"]
