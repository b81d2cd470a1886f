"""Completion of the command line in bash, zsh and fish, written from the parsers.

    pangu --print-completion bash > ~/.local/share/bash-completion/completions/pangu
    data-pipeline --print-completion zsh > ~/.zfunc/_data-pipeline
    parallel-strategy --print-completion fish > ~/.config/fish/completions/parallel-strategy.fish

A shell starts no Python to complete: verbs, options and the values of choices stand in the script. Everything else
is completed as a file.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pangu.foundation.translation import translated


@dataclass
class Option:
    """An option, all its names, its legal values, whether a value follows, and its line of help."""

    names: Sequence[str]
    choices: Sequence[str]
    has_value: bool
    help: str


@dataclass
class Verb:
    """A verb: what it may be followed by. `values` are the legal words of its arguments without a name."""

    name: str
    summary: str
    options: list[Option] = field(default_factory=list)
    values: list[str] = field(default_factory=list)


def verb_of(name: str, summary: str, parser: argparse.ArgumentParser) -> Verb:
    """Return what a verb's parser takes; what its own verbs take is put together."""
    verb = Verb(name, one_line(translated(summary)))
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            verb.values += list(action.choices)
        elif action.option_strings:
            choices = [str(choice) for choice in action.choices or ()]
            if not any(set(action.option_strings) & set(one.names) for one in verb.options):
                takes = action.nargs != 0
                verb.options.append(Option(action.option_strings, choices, takes, _help_of(action)))
        else:
            verb.values += [str(choice) for choice in action.choices or ()]
    return verb


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _help_of(action: argparse.Action) -> str:
    text = "" if action.help in (None, argparse.SUPPRESS) else translated(str(action.help))
    return one_line(re.sub(r"%\((\w+)\)s", lambda match: str(getattr(action, match[1], "")), text).replace("%%", "%"))


def one_line(text: str) -> str:
    return " ".join(text.split())


def script(shell: str, command: str, own: Verb, verbs: Sequence[Verb]) -> str:
    """Return the script for a shell. own: the options of the command itself, before a verb."""
    return {"bash": bash, "zsh": zsh, "fish": fish}[shell](command, own, verbs)


def quoted(text: str, escapes: Mapping[str, str] | None = None) -> str:
    """Return a word in single quotes, as all three shells take it (fish: with escapes of its own)."""
    for old, new in (escapes or {"'": "'\\''"}).items():
        text = text.replace(old, new)
    return f"'{text}'"


def with_value(verb: Verb, joint: str = " | ") -> str:
    """Return the names of the options that a value follows, as a pattern of `case`."""
    return joint.join(name for one in verb.options if one.has_value for name in one.names)


def bash(command: str, own: Verb, verbs: Sequence[Verb]) -> str:
    """Return the script for bash, which takes `--option=value` for three words."""
    function = f"_{command.replace('-', '_')}"
    options, values = [], []
    for verb in (own, *verbs):
        names = [name for one in verb.options for name in one.names]
        words = verb.values or [one.name for one in verbs if verb is own]
        options.append(f"    {quoted(verb.name)}) options={quoted(' '.join(names))} words={quoted(' '.join(words))} ;;")
        for one in verb.options:
            pattern = " | ".join(f"{verb.name}:{name}" for name in one.names)
            if one.has_value:
                values.append(f"    {pattern}) words={quoted(' '.join(one.choices))} options= ;;")
    return "\n".join(
        [
            f"# bash completion of {command}",
            f"{function}() {{",
            '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
            "  local verb= options= words= place=1",
            '  if [ "$current" = = ]; then current=; fi',
            '  if [ "$previous" = = ]; then previous="${COMP_WORDS[COMP_CWORD-2]}"; fi',
            '  while [ "$place" -lt "$COMP_CWORD" ]; do',
            '    case "${COMP_WORDS[place]}" in',
            f"      {with_value(own)})",
            '        [ "${COMP_WORDS[place+1]}" != = ] || place=$((place + 1))',
            "        place=$((place + 2)) ;;",
            "      -*) place=$((place + 1)) ;;",
            '      *) verb="${COMP_WORDS[place]}"; break ;;',
            "    esac",
            "  done",
            '  case "$verb" in',
            *options,
            "  esac",
            '  case "$verb:$previous" in',
            *values,
            "  esac",
            '  case "$current" in',
            '    -*) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current") ;;',
            '    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;',
            "  esac",
            "}",
            f"complete -o default -F {function} {command}",
            "",
        ]
    )


def zsh(command: str, own: Verb, verbs: Sequence[Verb]) -> str:
    """Return the script for zsh."""
    function = f"_{command.replace('-', '_')}"
    listed = [f"    {quoted(f'{verb.name}:{verb.summary}')}" for verb in verbs]
    cases = []
    for verb in verbs:
        cases.append(f"    {verb.name}) _arguments -S \\")
        cases += [f"      {one} \\" for one in zsh_options(verb)]
        cases.append(f"      {quoted('*:word:(' + ' '.join(verb.values) + ')' if verb.values else '*:file:_files')} ;;")
    return "\n".join(
        [
            f"#compdef {command}",
            f"{function}() {{",
            "  local -a verbs",
            "  local verb=",
            "  integer place=2",
            "  verbs=(",
            *listed,
            "  )",
            "  while (( place < CURRENT )); do",
            '    case "$words[place]" in',
            f"      {with_value(own)}) (( place += 2 )) ;;",
            "      -*) (( place += 1 )) ;;",
            '      *) verb="$words[place]"; break ;;',
            "    esac",
            "  done",
            '  if [[ -z "$verb" ]]; then',
            f'    if [[ "$words[CURRENT]" == -* || "$words[CURRENT-1]" == ({with_value(own, "|")}) ]]; then',
            f"      _arguments -S {' '.join(zsh_options(own))}",
            "    else",
            "      _describe verb verbs",
            "    fi",
            "    return",
            "  fi",
            "  shift $(( place - 1 )) words; (( CURRENT -= place - 1 ))",
            '  case "$verb" in',
            *cases,
            "  esac",
            "}",
            f'if [ "$funcstack[1]" = "_{command}" ]; then {function} "$@"; else compdef {function} {command}; fi',
            "",
        ]
    )


def zsh_options(verb: Verb) -> list[str]:
    """Return what `_arguments` is told of each option; a value may stand behind `=` too."""
    found = []
    for one in verb.options:
        text = re.sub(r"([\[\]:\\])", r"\\\1", one.help)
        after = f":value:({' '.join(one.choices)})" if one.choices else ":value:_files" if one.has_value else ""
        for name in one.names:
            sign = "=" if one.has_value and name.startswith("--") else ""
            found.append(quoted(f"*{name}{sign}[{text}]{after}"))
    return found


def fish(command: str, own: Verb, verbs: Sequence[Verb]) -> str:
    """Return the script for fish."""
    escapes = {"\\": "\\\\", "'": "\\'"}
    function = f"__{command.replace('-', '_')}_verb"
    lines = [
        f"# fish completion of {command}",
        f"function {function} --argument-names wanted",
        "    set -l verb",
        "    set -l is_value no",
        "    for word in (commandline -opc)[2..-1]",
        "        if test $is_value = yes",
        "            set is_value no",
        "            continue",
        "        end",
        "        switch $word",
        f"            case {with_value(own, ' ')}",
        "                set is_value yes",
        "            case '-*'",
        "            case '*'",
        "                set verb $word",
        "                break",
        "        end",
        "    end",
        '    test "$verb" = "$wanted"',
        "end",
    ]
    for verb in verbs:
        lines.append(f"complete -c {command} -n \"{function} ''\" -f -a {verb.name} -d {quoted(verb.summary, escapes)}")
    for verb in (own, *verbs):
        start = f"complete -c {command} -n \"{function} '{verb.name}'\""
        if verb.values:
            lines.append(f"{start} -a {quoted(' '.join(verb.values))}")
        for one in verb.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in one.names)
            values = f" -x -a {quoted(' '.join(one.choices))}" if one.choices else " -r -F" if one.has_value else ""
            lines.append(f"{start} {names}{values} -d {quoted(one.help, escapes)}")
    return "\n".join([*lines, ""])
