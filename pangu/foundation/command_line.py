"""The command line of all three packages: finds the verb, imports what it needs, and says mistakes in one line.

A package's `cli.py` holds only its table of verbs. The code of a verb is `PACKAGE/commands/VERB.py` (dashes become
underscores) with `add_arguments(parser)` and `run(arguments)`, and its docstring is its help.
"""

import argparse
import codecs
import difflib
import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pangu.foundation.best_effort import NO_ROOM, discard_standard_output, reason_of, say, warn
from pangu.foundation.errors import UserError
from pangu.foundation.translation import (
    LANGUAGES,
    OPTION,
    can_show_chinese,
    language_of_environment,
    taken_option,
    translated,
    translated_paragraphs,
    use_language,
    wrapped,
)
from pangu.foundation.version import __version__

DONE, MISTAKE, DOES_NOT_FIT, INTERRUPTED = 0, 2, 3, 128 + signal.SIGINT
COMPLETION = "--print-completion"
SHELLS = ("bash", "zsh", "fish")
EXIT_CODES = "exit code: 0 done, 1 faults found, 2 a mistake, 3 does not fit, 130 interrupted"

# What takes the place of a character that a terminal cannot show.
PLAIN = {
    "−": "-", "–": "-", "—": "-", "‑": "-", "×": "x", "·": "*", "…": "...", "→": "->", "←": "<-", "≤": "<=",
    "≥": ">=", "≠": "!=", "≈": "~", "α": "alpha", "β": "beta", "γ": "gamma", "λ": "lambda", "μ": "u", "µ": "u",
    "σ": "sigma", "Δ": "delta", "∞": "inf", "√": "sqrt", "²": "2", "³": "3", "₂": "2", "§": "section ", "°": "deg",
    "“": '"', "”": '"', "‘": "'", "’": "'", "•": "*", "─": "-", "━": "-", "│": "|", "█": "#", "\u00a0": " ",
}  # fmt: skip
_PLACE = re.compile(r"(?P<file>[^\n:]+?)(?::(?P<line>\d+))?: (?:field '(?P<field>[^']*)': )?(?P<what>.*)", re.S)


def main(package: str, verbs: Mapping[str, str], argv: Sequence[str] | None = None) -> int:
    """Run one verb of a package. Returns the exit code: 0 done, 2 a mistake of the user, 130 interrupted.

    verbs: each with its line of help.
    """
    given, argv = taken_option(sys.argv[1:] if argv is None else argv)
    open_closed_streams()
    show_everything()
    use_language((given or language_of_environment()) if can_show_chinese() else "en")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    is_json = "--json" in argv
    try:
        if given is not None and given not in LANGUAGES:
            use_language("en")
            raise UserError(f"{OPTION} {given}: is unknown; known: {', '.join(LANGUAGES)}")
        if argv[:1] and argv[0].partition("=")[0] == COMPLETION:
            code = print_completion(package, verbs, argv)
        else:
            parser, run = _parser(package, verbs, chosen)
            code = run(parser.parse_args(argv))
        sys.stdout.flush()
        return code
    except UserError as error:
        return _mistake(str(error), is_json)
    except BrokenPipeError:  # whoever read the output, like `head`, has gone
        discard_standard_output()
        return DONE
    except OSError as error:
        if error.filename is not None:
            return _mistake(f"{error.filename!s}: {reason_of(error)}", is_json)
        if error.errno not in NO_ROOM:
            raise
        discard_standard_output()
        return _mistake(f"standard output: cannot be written: {reason_of(error)}", is_json=False)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("pangu", "parallel_strategy", "data_pipeline", ""):
            raise
        return _mistake(_missing_module(error.name or "", package, chosen), is_json)
    except KeyboardInterrupt:
        warn("interrupted")
        return INTERRUPTED


def print_completion(package: str, verbs: Mapping[str, str], argv: Sequence[str]) -> int:
    """Print the script that completes this command in a shell."""
    from pangu.foundation.completion import script, verb_of  # most calls do without

    shell = argv[0].partition("=")[2] or "".join(argv[1:2])
    if shell not in SHELLS:
        raise UserError(f"{COMPLETION} {shell}: is unknown{nearest(shell, SHELLS)}; known: {', '.join(SHELLS)}")
    own = verb_of("", "", _own_parser(package))
    found = []
    for verb, summary in verbs.items():
        parser = Parser()
        importlib.import_module(f"{package}.commands.{verb.replace('-', '_')}").add_arguments(parser)
        found.append(verb_of(verb, summary, parser))
    print(script(shell, package.replace("_", "-"), own, found), end="")
    return DONE


def open_closed_streams() -> None:
    """Put the empty device where standard input, output or error was closed by whoever started this.

    Else `print` writes an error to standard output, and the next file takes the descriptor that libraries write to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long as the process)


def show_everything() -> None:
    """Let no character that a terminal cannot show stop the program: a plain one takes its place."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and getattr(stream, "errors", None) != "plain":
            reconfigure(errors="plain")


def nearest(given: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'x'?`, or nothing."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _default_of(action: argparse.Action) -> str:
    """Return ` (default: 3)` where the help does not say it."""
    value, text = action.default, action.help or ""
    if not action.option_strings or action.nargs == 0 or value in (None, "", argparse.SUPPRESS) or value == []:
        return ""
    shown = (
        f"{value:g}" if isinstance(value, float) else " ".join(map(str, value)) if isinstance(value, list) else value
    )
    is_said = "default" in text or re.search(rf"(?<![\w.]){re.escape(str(shown))}(?![\w.])", text)
    return "" if is_said else f" ({translated('default')}: {shown})"


class Help(argparse.HelpFormatter):
    """Help in the language of the process; lines are as long as they look, also in Chinese."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, translated("usage: ") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        super().start_section(translated(heading or ""))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if not action.help:
            return action.help
        return translated(action.help) + _default_of(action).replace("%", "%%")

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = wrapped(" ".join(translated_paragraphs(text).split()), width - len(indent))
        return "\n".join(indent + line for line in lines)


class VerbHelp(Help):
    """The same for a verb: its text stands as it was written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in translated_paragraphs(text, width).splitlines(keepends=True))


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line with the nearest legal word.

    What a verb does not know, the outer parser finds: `inner` is the verb's parser.
    """

    inner: "Parser | None" = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": Help, **settings})
        # Taken from the command line before the parser sees it; here for the help.
        self.add_argument(
            OPTION, choices=LANGUAGES, help="of help and messages (default: as LC_ALL, LC_MESSAGES or LANG say)"
        )

    def error(self, message: str) -> NoReturn:
        if self.inner is not None:
            self.inner.error(message)
        verb = self.prog.rpartition("-m ")[2]
        raise UserError(f"{verb}: {message}{self._hint(message)}; `{self.prog} --help` says more")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help or the version. Raises OSError, which argparse does not."""
        print(message, end="", file=file, flush=True)

    def _hint(self, message: str) -> str:
        choice = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if choice:
            return nearest(choice[1], [word.strip(" '") for word in choice[2].split(",")])
        option = re.search(r"unrecognized arguments: (--[\w.-]+)", message)
        if option is None:
            return ""
        known = {name.lstrip("-"): name for name in self._option_string_actions}
        return nearest(option[1].lstrip("-"), list(known)).replace("'", "'--", 1)


def _own_parser(package: str) -> Parser:
    """Return the parser of what stands before a verb."""
    description = (sys.modules[package].__doc__ or "").strip()
    parser = Parser(prog=f"python -m {package}", description=description, epilog=EXIT_CODES, formatter_class=VerbHelp)
    version = f"{package} {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    # Answered before the parser sees it; here for the help.
    parser.add_argument(
        COMPLETION, metavar="SHELL", choices=SHELLS, help="print what completes this command in bash, zsh or fish"
    )
    return parser


def _parser(
    package: str, verbs: Mapping[str, str], chosen: str | None
) -> tuple[Parser, Callable[[argparse.Namespace], int]]:
    """Return the parser, and the function that runs the chosen verb."""
    parser = _own_parser(package)
    if chosen is not None and chosen not in verbs:
        raise UserError(f"unknown verb {chosen!r}{nearest(chosen, list(verbs))}; `{parser.prog} --help` lists them")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    run: Any = None
    for verb, summary in verbs.items():
        subparser = subparsers.add_parser(verb, help=summary, formatter_class=VerbHelp)
        if verb == chosen:
            module = importlib.import_module(f"{package}.commands.{verb.replace('-', '_')}")
            subparser.description = module.__doc__
            module.add_arguments(subparser)
            run = module.run
            parser.inner = subparser
    return parser, run


def _missing_module(name: str, package: str, verb: str | None) -> str:
    from pangu.foundation.extras import extra_of  # most calls do without

    extra = extra_of(name, package, verb)
    if extra is None:
        return f"the Python module {name!r} is missing; `pip install` what the README names"
    return f"the Python module {name!r} is missing; `pip install 'pangu-alpha[{extra}]'` adds it"


def _mistake(message: str, is_json: bool) -> int:
    """Say what is wrong: one line on standard error, and an object on standard output where the caller reads JSON."""
    line = " ".join(message.split("\n"))
    if is_json:
        parts = _PLACE.fullmatch(line)
        place = {name: part for name, part in parts.groupdict().items() if part and name != "what"} if parts else {}
        if "line" in place:
            place["line"] = int(place["line"])
        place = place if "line" in place or "field" in place else {}
        say(json.dumps({"error": translated(line), **place}, ensure_ascii=False))
    try:
        sys.stdout.flush()
    except OSError:
        discard_standard_output()
    warn(f"error: {line}")
    return MISTAKE


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what takes the place of characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    encodable = "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end])
    return encodable, error.end
