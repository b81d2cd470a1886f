"""One reader of YAML for all three packages: what a file means, and one line for whatever is wrong in it."""

import argparse
import io
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from pangu.foundation.errors import UserError
from pangu.foundation.field_arguments import add_flags, add_set, changes_of, commented, words_of
from pangu.foundation.settings import Section, SettingsFile, changed, checked, field_paths
from pangu.foundation.yaml_document import parse_document, parse_value, read_document
from tests.conftest import REPOSITORY


class Rate(Section):
    """The learning rate."""

    peak: float = Field(default=1e-4, gt=0, description="highest rate")
    warmup: int = Field(default=10, ge=0)


class Example(SettingsFile):
    """Everything a file may hold."""

    written_by = "python -m example init"

    name: str = Field(description="what the run is called")
    steps: int = Field(default=10, gt=0)
    share: float = Field(default=0.5, ge=0, le=1)
    is_fast: bool = False
    mode: Literal["local", "spark"] = "local"
    workers: Literal["auto"] | int = "auto"
    rate: Rate = Rate()
    rates: dict[str, Rate] = Field(default={})
    tags: list[str] = Field(default=[])
    parts: list[Rate] = Field(default=[])
    global_: int = Field(default=4, alias="global")

    @model_validator(mode="after")
    def check_steps(self) -> "Example":
        if self.steps % 2:
            raise ValueError(f"steps {self.steps} must be even; nearest: {self.steps + 1}")
        return self


def complaint(text: str | bytes, tmp_path: Path) -> str:
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        Example.load(path)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 600 and said.startswith(str(path)), said
    return said.removeprefix(str(tmp_path) + "/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # a field that is unknown, missing or of another type
        ("name: a\nstepz: 2\n", "file.yaml:2: field 'stepz': is unknown; did you mean 'steps'?"),
        ("name: a\nrate:\n  peek: 2\n", "file.yaml:3: field 'rate.peek': is unknown; did you mean 'peak'?"),
        ("name: a\nrates: {x: {peek: 2}}\n", "file.yaml:2: field 'rates.x.peek': is unknown; did you mean 'peak'?"),
        ("name: a\nparts:\n- {}\n- peek: 2\n", "file.yaml:4: field 'parts.1.peek': is unknown; did you mean 'peak'?"),
        ("name: a\nglobel: 2\n", "file.yaml:2: field 'globel': is unknown; did you mean 'global'?"),
        ("steps: 2\n", "file.yaml:1: field 'name': is missing; what the run is called"),
        ("name: a\nsteps: many\n", "file.yaml:2: field 'steps': 'many' is not a whole number"),
        ("name: a\nsteps: 2.5\n", "file.yaml:2: field 'steps': 2.5 is not a whole number; nearest: 2"),
        ("name: a\nsteps: 1e3\n", "file.yaml:2: field 'steps': '1e3' is not a whole number; write 1000"),
        ("name: a\nrate: 3\n", "file.yaml:2: field 'rate': 3 is not a mapping of fields to values"),
        ("name: a\ntags: x\n", "file.yaml:2: field 'tags': 'x' is not a list"),
        ("name: a\nmode: lokal\n", "field 'mode': 'lokal' is not one of local, spark; did you mean 'local'?"),
        ("name: a\nworkers: many\n", "file.yaml:2: field 'workers': 'many' is not auto or a whole number"),
        # a number out of range, or that is none
        ("name: a\nsteps: 0\n", "file.yaml:2: field 'steps': 0 is out of range; nearest: 1"),
        ("name: a\nshare: 1.5\n", "file.yaml:2: field 'share': 1.5 is out of range; nearest: 1"),
        ("name: a\nrate: {peak: 0.0}\n", "field 'rate.peak': 0.0 is out of range; it must be above 0"),
        ("name: a\nshare: .inf\n", "file.yaml:2: field 'share': .inf is not a finite number"),
        ("name: a\nshare: .nan\n", "file.yaml:2: field 'share': .nan is not a finite number"),
        ("name: a\nshare: inf\n", "file.yaml:2: field 'share': 'inf' is not a finite number"),
        ("name: a\nshare: 1.0e+999\n", "file.yaml:2: field 'share': 1.0e+999 is not a finite number"),
        (f"name: a\nsteps: {'9' * 5000}\n", "file.yaml:2: field 'steps': is larger than any size"),
        (f"name: a\nsteps: {'9' * 30}\n", f"field 'steps': {'9' * 30} is larger than any size; nearest: 10000000"),
        # what YAML 1.1 reads as another thing than a person does
        ("name: a\nsteps: 010\n", "file.yaml:2: field 'steps': YAML reads 010 in base 8, as 8; write 10, or 8"),
        ("name: 12:30\n", "file.yaml:1: field 'name': YAML reads 12:30 in base 60, as 750; write '12:30', or 750"),
        ("name: no\n", "file.yaml:1: field 'name': no is not text; YAML reads no as false: quote it: 'no'"),
        ("name: 7\n", "file.yaml:1: field 'name': 7 is not text; YAML reads 7 as a number: quote it: '7'"),
        ("name: 2020-01-02\n", "field 'name': 2020-01-02 is not text; YAML reads 2020-01-02 as a date: quote it"),
        ("name: a\nrate: {warmup: yes}\n", "file.yaml:2: field 'rate.warmup': yes is not a number; nearest: 1"),
        ("name: a\nshare: on\n", "file.yaml:2: field 'share': on is not a number; nearest: 1"),
        ("name: a\nmode: off\n", "field 'mode': off is not one of local, spark; YAML reads off as false: quote it"),
        ("name: 2020-99-99\n", "file.yaml:1: field 'name': 2020-99-99 is not a date"),
        # rules that join two fields
        ("name: a\nsteps: 3\n", "file.yaml:2: field 'steps': 3 must be even; nearest: 4"),
        # what is no mapping, or no YAML, or no text
        ("", "file.yaml: is empty; must be a YAML mapping of fields to values; `python -m example init` writes one"),
        ("# nothing\n", "file.yaml: is empty"),
        ("- a\n", "file.yaml:1: must be a YAML mapping of fields to values"),
        ("text", "file.yaml:1: must be a YAML mapping of fields to values"),
        ("name: [\n", "file.yaml:2: is not YAML: "),
        (
            "name: a\nrate:\n\tpeak: 1\n",
            "file.yaml:3: is not YAML: a tab indents this line; YAML is indented by blanks",
        ),
        ("name: a\nname: b\n", "file.yaml:2: the key 'name' stands twice; keep one"),
        ("name: a\nrate: {peak: 1.0, peak: 2.0}\n", "file.yaml:2: the key 'peak' stands twice; keep one"),
        ("name: a\n---\nname: b\n", "single document"),
        ("? [a]\n: 1\n", "is not YAML: "),
        ("name: !!python/object/apply:os.system ['true']\n", "file.yaml:1: is not YAML: could not determine a constr"),
        ("name: \0\n", "file.yaml:1: is not YAML: "),
        (b"name: a\ntags: [\xff]\n", "file.yaml:2: cannot be read: byte 15 is not UTF-8 text (no text)"),
        ("name: 新闻\n".encode("gb18030"), "is not UTF-8 text (perhaps GB18030); save the file as UTF-8"),
        ("name: a\n".encode("utf-16"), "file.yaml:1: cannot be read: byte 0 is not UTF-8 text (UTF-16)"),
        (b"#" * (17 << 20), "file.yaml: cannot be read: is larger than 16 MiB; settings are small"),
        # what unfolds without end
        ("name: a\ntags: &x [*x]\n", "holds more than 100,000 values, or one that holds itself"),
        ("[" * 5000, "nest"),
        (f"name: {'[' * 60}{']' * 60}", "file.yaml:1: is not YAML of settings: nested more than 50 levels deep"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
                for old, new in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "holds more than 100,000 values",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place_and_what_is_right(text: str | bytes, message: str, tmp_path) -> None:
    assert message in complaint(text, tmp_path)


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    for name, said in (
        ("none.yaml", "No such file or directory; `python -m example init` writes one"),
        (".", "Is a directory"),
        ("a\0b", "null"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            Example.load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_what_was_right_stays_right(tmp_path: Path) -> None:
    text = (
        "\ufeffname: 'no'\nsteps: '8'\nis_fast: yes\nshare: true\nrate: &r {peak: 1e-3}\nrates: {a: *r}\nworkers: 2\n"
    )
    (tmp_path / "file.yaml").write_text(text, encoding="utf-8")
    read = Example.load(tmp_path / "file.yaml")
    assert (read.name, read.steps, read.is_fast, read.share, read.workers) == ("no", 8, True, 1.0, 2)
    assert read.rates["a"].peak == read.rate.peak == 1e-3
    assert Example.parse(read.dump(), "dump") == read
    assert parse_document("a: {<<: {x: 1}, y: 2}\nb: 0x1F\nc: 1_000\nd: 2020-01-02", "x").data["a"] == {"x": 1, "y": 2}


def test_every_shipped_file_means_what_plain_yaml_says() -> None:
    packages = ("pangu", "parallel_strategy", "data_pipeline")
    files = [path for package in packages for path in (REPOSITORY / package).rglob("*.yaml")]
    assert len(files) > 40
    for path in files:
        assert read_document(path).data == yaml.safe_load(path.read_text(encoding="utf-8")), path


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.dictionaries(st.text(max_size=6), x)))
def test_no_content_breaks_the_reader(fields: object) -> None:
    for text in (yaml.safe_dump(fields, allow_unicode=True), str(fields)):
        try:
            Example.parse(text, "file.yaml")
        except UserError as error:
            assert "\n" not in str(error) and str(error).startswith("file.yaml")


@given(st.text(alphabet="ab: -[]{}&*!|>'\"%@`#?,\t\n~0.e+\0é", max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        data = parse_document(text, "file.yaml").data
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert data == yaml.load(io.StringIO(text), yaml.SafeLoader)


def test_a_field_that_the_command_line_sets_is_named_as_it_is_there() -> None:
    document = parse_document("name: a\nparts: [{}]\n", "file.yaml")
    changes = [("steps", "4"), ("rate.peak", "1e-3"), ("rates.x.peak", "2"), ("parts.0.warmup", "3"), ("tags", "[b]")]
    read = checked(Example, changed(document, changes))
    assert (read.steps, read.rate.peak, read.rates["x"].peak, read.parts[0].warmup) == (4, 1e-3, 2.0, 3)
    for change, said in (
        (("stepz", "4"), "--set stepz: is unknown; did you mean 'steps'?"),
        (("rate.peak", "-1"), "--set rate.peak: -1 is out of range; it must be above 0|--set rate.peak: -1 is out of"),
        (("rate", "3"), "--set rate: 3 is not a mapping"),
        (("name.first", "x"), "--set name.first: name has no part 'first'"),
        (("parts.7.peak", "1"), "--set parts.7.peak: parts has no part '7'"),
        (("steps", "["), "--set steps: is not YAML"),
        (("steps", "0123"), "--set steps: YAML reads 0123 in base 8, as 83; write 123, or 83"),
        (("steps", "null"), "--set steps: null is not a whole number"),
        (("steps", ""), "--set steps: null is not a whole number"),
        (("name", "yes"), "--set name: yes is not text; YAML reads yes as true: quote it: 'yes'"),
        (("name", "2024-01-02"), "--set name: 2024-01-02 is not text; YAML reads 2024-01-02 as a date: quote it"),
        (("mode", "yes"), "--set mode: yes is not one of local, spark"),
        (("mode", "C:\\x"), "--set mode: 'C:\\x' is not one of local, spark"),
        (("steps", "{a: [null, true, 2024-01-02]}"), "--set steps: {a: [null, true, 2024-01-02]} is not a whole"),
        (("rate", "{peak: 1, peak: 2}"), "--set rate: the key 'peak' stands twice; keep one"),
        (("rates", "{x: {peak: a}}"), "--set rates: field 'x.peak': 'a' is not a number"),
        (("tags.0", "a"), "--set tags.0: {0: 'a'} is not a list"),
        (("steps", "1\nname: b"), "--set steps"),
        (("steps", "3"), "--set steps: 3 must be even; nearest: 4"),
    ):
        document = parse_document("name: a\nparts: [{}]\n", "file.yaml")
        with pytest.raises(UserError) as caught:
            checked(Example, changed(document, [change]))
        assert any(one in str(caught.value) for one in said.split("|")), str(caught.value)
    assert parse_value("[1, {a: 2}]", "--set x") == [1, {"a": 2}]


def test_the_fields_that_can_be_set_are_those_of_the_types() -> None:
    paths = field_paths(Example)
    assert {"name", "rate", "rate.peak", "global", "rate.warmup"} <= set(paths)
    assert len(set(paths)) == len(paths)


def arguments_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser, Example, ("name", "steps", "mode"))
    add_set(parser)
    return parser.parse_args(words)


def test_flags_come_from_the_fields_and_set_reaches_all_others(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("name: a\nsteps: 6\n", encoding="utf-8")
    given = arguments_of("--name", "no", "--steps", "4", "--mode", "spark", "--set", "rate.peak", "1e-3")
    changes = changes_of(given, Example, ("name", "steps", "mode"))
    read = Example.load(path, changes)
    assert (read.name, read.steps, read.mode, read.rate.peak) == ("no", 4, "spark", 1e-3)
    again = arguments_of(*words_of(changes))  # what another process is given
    assert Example.load(path, changes_of(again, Example, ("name", "steps", "mode"))) == read
    with pytest.raises(UserError, match=r"^--steps: '1e3' is not a whole number; write 1000$"):
        Example.load(path, changes_of(arguments_of("--steps", "1e3"), Example, ("name", "steps", "mode")))
    with pytest.raises(UserError, match=r"^--set steps: 0 is out of range; nearest: 1$"):
        Example.load(path, changes_of(arguments_of("--set", "steps", "0"), Example))


def test_commented_settings_are_read_back_and_say_what_the_fields_mean() -> None:
    example = Example(name="no: 'x'", tags=["a", "b: c"], rates={"x": Rate()}, workers=3)
    text = commented(example)
    assert Example.parse(text, "text") == example
    assert "# what the run is called" in text and "rate:  # The learning rate\n  peak: 0.0001  # highest rate" in text
