"""One command line for all three packages: verbs, one line for a mistake, exit codes, and terminals of any encoding."""

import argparse
import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pangu.foundation import command_line
from pangu.foundation.errors import UserError
from tests.conftest import REPOSITORY

PACKAGES = ("pangu", "parallel_strategy", "data_pipeline")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one verb, `greet`, that does what its argument says."""
    commands = tmp_path / "example_package" / "commands"
    commands.mkdir(parents=True)
    (tmp_path / "example_package" / "__init__.py").write_text('"""An example."""\n')
    (commands / "__init__.py").write_text("")
    (commands / "greet.py").write_text(
        '''"""Greet somebody.

python -m example_package greet
"""
import os
from pangu.foundation.errors import UserError


def add_arguments(parser):
    parser.add_argument("what")
    parser.add_argument("--colour", choices=("red", "green"))
    parser.add_argument("--json", action="store_true")


def run(arguments):
    match arguments.what:
        case "mistake":
            raise UserError("file.yaml:3: field 'a.b': is unknown; did you mean 'c'?")
        case "late-mistake":
            print("so far")
            raise UserError("wrong")
        case "two-lines":
            raise UserError("first\\nsecond")
        case "missing-file":
            open("/no/such/file")
        case "missing-module":
            import no_such_module_at_all
        case "broken":
            raise BrokenPipeError
        case "interrupt":
            raise KeyboardInterrupt
        case "bug":
            raise OSError(11, "our own mistake")
    print(arguments.what)
    return 0
'''
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("example_package")]:
        monkeypatch.delitem(sys.modules, name)
    __import__("example_package")
    return "example_package"


VERBS = {"greet": "say something", "measure": "another"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["greet", "mistake"], "error: file.yaml:3: field 'a.b': is unknown; did you mean 'c'?"),
        (["greet", "two-lines"], "error: first second"),
        (["greet", "missing-file"], "error: /no/such/file: No such file or directory"),
        (["greet", "missing-module"], "error: the Python module 'no_such_module_at_all' is missing"),
        (
            ["grete", "x"],
            "error: unknown verb 'grete'; did you mean 'greet'?; `python -m example_package",
        ),
        (["zzz"], "error: unknown verb 'zzz'; `python -m example_package --help` lists them"),
        ([], "error: example_package: the following arguments are required: VERB; `python -m example_package --help`"),
        (
            ["greet", "x", "--color", "red"],
            "error: example_package greet: unrecognized arguments: --color red;",
        ),
        (
            ["greet", "x", "--colour", "gren"],
            "did you mean 'green'?; `python -m example_package greet --help`",
        ),
        (["greet"], "error: example_package greet: the following arguments are required: what"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(example: str, argv: list[str], said: str, capsys) -> None:
    assert command_line.main(example, VERBS, argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(said.split("did you mean 'green'")[0]) and said in err and err.count("\n") == 1, err


def test_other_exit_codes(example: str, capsys) -> None:
    assert command_line.main(example, VERBS, ["greet", "hello"]) == 0
    assert command_line.main(example, VERBS, ["greet", "interrupt"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(OSError, match="our own"):  # a fault of the program keeps its traceback
        command_line.main(example, VERBS, ["greet", "bug"])


def test_a_caller_that_reads_json_gets_mistakes_as_json(example: str, capsys) -> None:
    assert command_line.main(example, VERBS, ["greet", "mistake", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": "file.yaml:3: field 'a.b': is unknown; did you mean 'c'?",
        "file": "file.yaml", "line": 3, "field": "a.b",
    }  # fmt: skip
    assert err.count("\n") == 1
    assert command_line.main(example, VERBS, ["greet", "missing-file", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": "/no/such/file: No such file or directory"}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, capture_output=True, env={**os.environ, **environment}, timeout=120
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_help_and_version_show_on_every_terminal(package: str) -> None:
    for encoding in ("ascii", "gbk", "latin-1"):
        done = run("-m", package, "--help", PYTHONIOENCODING=encoding)
        assert done.returncode == 0 and b"VERB" in done.stdout, done.stderr
    done = run("-m", package, "--help", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    done = run("-m", package, "--version")
    assert done.stdout.decode().startswith(f"{package} ") and done.returncode == 0


def test_what_a_terminal_cannot_show_becomes_plain() -> None:
    program = (
        "from pangu.foundation.command_line import show_everything; show_everything();"
        "print('α −13 × 新闻 \\udce9'); import rich; rich.print('a → 万')"
    )
    assert run("-c", program, PYTHONIOENCODING="ascii").stdout == b"alpha -13 x ?? ?\na -> ?\n"
    assert run("-c", program, PYTHONIOENCODING="gbk").stdout.decode("gbk") == "α -13 × 新闻 ?\na → 万\n"
    assert run("-c", program, PYTHONIOENCODING="utf-8").stdout.decode() == "α −13 × 新闻 ?\na → 万\n"


def test_a_reader_that_goes_is_no_error() -> None:
    words = f"{shlex.quote(sys.executable)} -m pangu sizes | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], cwd=REPOSITORY, capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stderr == b""


def test_a_reader_of_a_table_that_goes_is_no_error() -> None:
    program = """
import sys
from pangu.commands import sizes
from pangu.foundation import command_line
from pangu.foundation.terminal import console
def run(arguments):
    shown = console()
    while True:
        shown.print("x" * 10_000, soft_wrap=True, highlight=False)
sizes.run = run
sys.exit(command_line.main("pangu", {"sizes": ""}, ["sizes"]))
"""
    words = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], cwd=REPOSITORY, capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stderr == b""


@pytest.mark.parametrize(("closed", "words", "code"), [("<", "sizes", 0), (">", "sizes", 0), ("2>", "siz", 2)])
def test_a_stream_that_is_closed_is_no_error_and_nothing_goes_elsewhere(closed: str, words: str, code: int) -> None:
    command = f"{shlex.quote(sys.executable)} -m pangu {words} {closed}&-"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, timeout=120)
    assert done.returncode == code and done.stderr == b""
    assert bool(done.stdout) == (closed == "<")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "--version", "--print-completion bash", "sizes", "sizes --help"])
def test_a_full_disk_is_one_line_whatever_was_to_be_printed(words: str, unbuffered: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m pangu {words} > /dev/full"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "LANG": "C"}
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, env=environment, timeout=120)
    said = b"error: standard output: cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_mistake_is_the_only_line_where_the_disk_is_full(example: str) -> None:
    program = f"import {example}, sys; from pangu.foundation import command_line; "
    program += f"sys.exit(command_line.main({example!r}, {{'greet': ''}}))"
    path = Path(str(sys.modules[example].__file__)).parent.parent
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} greet late-mistake > /dev/full"
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": f"{path}{os.pathsep}{REPOSITORY}"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (2, b"error: wrong\n")


def test_the_help_of_a_package_names_every_exit_code() -> None:
    for package in PACKAGES:
        said = run("-m", package, "--help", LANG="C").stdout.decode()
        codes = {command_line.DONE, command_line.MISTAKE, command_line.DOES_NOT_FIT, command_line.INTERRUPTED}
        assert codes <= {int(word) for word in said.rpartition("exit code:")[2].split() if word.isdigit()}


# What a thing is called in every verb of all three packages, and what it might have been called.
ONE_NAME = {
    "--out": {"--output", "--output-dir", "-o", "--outfile"},
    "--workers": {"--num-workers", "--processes", "--jobs", "-j"},
    "--overwrite": {"--force", "--replace", "-f"},
    "--tp": {"--tensor-parallel", "--mp"},
    "--json": {"--as-json", "--machine-readable"},
    "--seed": {"--random-seed"},
}


def all_arguments() -> Iterator[tuple[str, argparse.Action]]:
    """Yield the verb and each argument of every parser, those of verbs within verbs too."""

    def of(parser: argparse.ArgumentParser, verb: str) -> Iterator[tuple[str, argparse.Action]]:
        for action in parser._actions:
            yield verb, action
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    yield from of(inner, f"{verb} {name}")

    for package in PACKAGES:
        for verb in importlib.import_module(f"{package}.cli").VERBS:
            parser = command_line.Parser(prog=verb)
            importlib.import_module(f"{package}.commands.{verb.replace('-', '_')}").add_arguments(parser)
            yield from of(parser, f"{package} {verb}")


def test_one_thing_has_one_name_in_all_command_lines() -> None:
    for verb, action in all_arguments():
        if action.option_strings:
            for name, others in ONE_NAME.items():
                # An older name may still be understood, behind the right one.
                assert not others & set(action.option_strings) or name in action.option_strings, (verb, name)


def test_every_argument_says_its_default() -> None:
    formatter = command_line.Help("x")
    for verb, action in all_arguments():
        value = action.default
        if action.option_strings and action.nargs != 0 and value not in (None, "", argparse.SUPPRESS) and value != []:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            said = formatter._get_help_string(action) or ""
            assert "default" in said or shown in said, f"{verb}: {action.option_strings}"


def test_the_nearest_word() -> None:
    assert command_line.nearest("trian", ["train", "run"]) == "; did you mean 'train'?"
    assert command_line.nearest("zzz", ["train"]) == ""
    assert issubclass(UserError, Exception)
