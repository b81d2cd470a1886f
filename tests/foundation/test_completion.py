"""Completion in shells: written from the parsers, so that no verb, option or legal value is missing."""

import contextlib
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pangu.cli import VERBS, main
from pangu.foundation.command_line import SHELLS

# What is typed before Tab -> what is offered, or a part of it where files stand beside it.
OFFERED = [
    ("pangu tr", {"train"}),
    ("pangu --ver", {"--version"}),
    ("pangu --lang ", {"en", "zh"}),
    ("pangu --lang zh tr", {"train"}),
    ("pangu --print-completion f", {"fish"}),
    ("pangu generate --temp", {"--temperature"}),
    ("pangu generate --engine ", {"compiled", "mindspore"}),
    ("pangu generate --engine=co", {"compiled"}),
    ("pangu convert x --to sa", {"safetensors"}),
    ("pangu generate train --dra", {"--draft", "--draft-tokens"}),
    ("pangu generate --file a", {"a file.txt"}),
    ("pangu train a", {"a file.txt"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scripts of `pangu`, one for each shell."""
    folder, found = tmp_path_factory.mktemp("completion"), {}
    for shell in SHELLS:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["--print-completion", shell]) == 0
        found[shell] = folder / f"pangu.{shell}"
        found[shell].write_text(printed.getvalue(), encoding="utf-8")
    (folder / "files").mkdir()
    (folder / "files/a file.txt").touch()
    return found


def answers(words: list[str], script: Path, text: str = "") -> list[str]:
    """Run a shell beside `a file.txt` without the settings of whoever runs the test; return its lines."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    home = script.parent / "home"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        words, cwd=script.parent / "files", env=environment, input=text, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.splitlines()


def bash_line(typed: str) -> str:
    """Return what calls the function as readline does, which takes `=` for a word."""
    words = " ".join(repr(word) for word in typed.replace("=", " = ").split(" "))
    return (
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _pangu; echo ${{COMPREPLY[*]}}"
    )


def test_bash_completes_verbs_options_and_values(scripts: dict[str, Path]) -> None:
    lines = [f"source {scripts['bash']}", *(bash_line(typed) for typed, _ in OFFERED)]
    found = [set(line.split()) for line in answers(["bash", "-c", "\n".join(lines)], scripts["bash"])]
    # Where nothing is offered, readline completes files (`complete -o default`).
    assert found == [wanted if "a file.txt" not in wanted else set() for _, wanted in OFFERED]


def test_fish_completes_verbs_options_values_and_files(scripts: dict[str, Path]) -> None:
    lines = [f"source {scripts['fish']}"]
    lines += [f"echo '> {typed}'; complete -C '{typed}'" for typed, _ in OFFERED]
    found: list[set[str]] = []
    for line in answers(["fish", "--no-config", "-c", "\n".join(lines)], scripts["fish"]):
        if line.startswith("> "):
            found.append(set())
        else:
            found[-1].add(line.partition("\t")[0].rpartition("=")[2].replace("\\ ", " "))
    assert found == [wanted for _, wanted in OFFERED]


ZSH = """
zmodload zsh/zpty
for typed in "$@[2,-1]"; do
  zpty asked zsh -f -i
  zpty -w asked "source $1"
  zpty -w asked "$typed"$'\\t'
  zpty -r -m asked line '*END*' && print -r -- "> $typed" && cat $OFFERS
  zpty -d asked
done
"""
# In the inner shell: what is offered goes into a file, and END onto the terminal when all of it is there.
ZSH_INNER = """
PROMPT=
autoload compinit && compinit -u -D
source {script}
compadd() {{
  if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return; fi
  local -a offers
  builtin compadd -A offers "$@"
  print -rl -- $offers >> {offers}
  builtin compadd "$@"
}}
finished() {{ print E''ND }}
comppostfuncs=(finished)
bindkey '^I' complete-word
: > {offers}
"""


def test_zsh_completes_verbs_options_values_and_files(scripts: dict[str, Path]) -> None:
    folder = scripts["zsh"].parent
    offers, inner = folder / "offers", folder / "inner.zsh"
    inner.write_text(ZSH_INNER.format(script=scripts["zsh"], offers=offers), encoding="utf-8")
    outer = ZSH.replace("$OFFERS", str(offers))
    found: list[set[str]] = []
    for line in answers(
        ["zsh", "-f", "-c", outer, "zsh", str(inner), *(typed for typed, _ in OFFERED)], scripts["zsh"]
    ):
        if line.startswith("> "):
            found.append(set())
        elif line:
            found[-1].add(line.replace("\\ ", " "))
    assert found == [wanted for _, wanted in OFFERED]


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
