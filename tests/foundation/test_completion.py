"""Completion in shells: written from the parsers, so that no verb, option or legal value is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pangu.cli import VERBS, main
from pangu.foundation.completion import SHELLS


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scripts of `pangu`, one for each shell."""
    import contextlib
    import io

    folder, found = tmp_path_factory.mktemp("completion"), {}
    for shell in SHELLS:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["--print-completion", shell]) == 0
        found[shell] = folder / f"pangu.{shell}"
        found[shell].write_text(printed.getvalue(), encoding="utf-8")
    return found


def test_bash_completes_verbs_options_and_values(scripts: dict[str, Path]) -> None:
    asked = [
        ("pangu tr", {"train"}),
        ("pangu generate --temp", {"--temperature"}),
        ("pangu generate --engine ", {"compiled", "mindspore"}),
        ("pangu convert x --to sa", {"safetensors"}),
        ("pangu generate --file ", set()),
    ]
    lines = [f"source {scripts['bash']}"]
    for words, _ in asked:
        line = words.split(" ")
        lines += [f"COMP_WORDS=({' '.join(repr(word) for word in line)}); COMP_CWORD={len(line) - 1}; COMPREPLY=()"]
        lines += ["_pangu", 'echo "${COMPREPLY[*]}"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    answers = [set(line.split()) for line in done.stdout.splitlines()]
    assert answers == [wanted for _, wanted in asked]


def test_every_shell_is_told_every_verb(scripts: dict[str, Path]) -> None:
    for shell, path in scripts.items():
        text = path.read_text(encoding="utf-8")
        assert all(verb in text for verb in VERBS) and "repetition-penalty" in text, shell
        if shutil.which(shell):
            subprocess.run([shell, "-n", str(path)], check=True, timeout=60)


def test_an_unknown_shell_is_one_line(capsys) -> None:
    assert main(["--print-completion", "bsh"]) == 2
    assert capsys.readouterr().err == (
        "error: --print-completion bsh: is unknown; did you mean 'bash'?; known: bash, zsh, fish\n"
    )
