"""What the Chinese catalogue lacks, and what it has too much.

python -m tests.tools.catalogue                 counts
python -m tests.tools.catalogue --missing       every message without its Chinese, with its place
python -m tests.tools.catalogue --add FILE --listed LIST
                                                take in lines `NUMBER<tab>Chinese`; LIST is what --missing wrote
python -m tests.tools.catalogue --unused        entries that no source has any more
python -m tests.tools.catalogue --clean         take those out
"""

import argparse
import ast
import importlib
import re
import sys
from pathlib import Path

from pangu.foundation.catalogue import FIELD, LOCALE, read_catalogue
from tests.conftest import REPOSITORY
from tests.tools.templates import messages_of, messages_of_script, normal, paragraphs_of, texts_of_html

PACKAGES = ("pangu", "parallel_strategy", "data_pipeline")
DOMAINS = ("foundation", *PACKAGES)
FOLDER = LOCALE / "zh_CN" / "LC_MESSAGES"
NOT_SHOWN = Path(__file__).with_name("not_shown.txt")
HEAD = (
    'msgid ""\nmsgstr ""\n"Language: zh_CN\\n"\n"MIME-Version: 1.0\\n"\n"Content-Type: text/plain; charset=UTF-8\\n"\n'
)
# What argparse, pydantic and the system say.
FOREIGN = """
usage|error|warning|note|options|positional arguments|show this help message and exit
the following arguments are required: {names}|unrecognized arguments: {words}|expected one argument
expected at least one argument|expected {count} arguments|argument {name}: {what}|not allowed with argument {name}
one of the arguments {names} is required|invalid {kind} value: {value}|ambiguous option: {option} could match {matches}
invalid choice: {value} (choose from {choices})|ignored explicit argument {value}
example|examples|usage of {name}|layers|forward|backward|end|weights|grads|other|total|free|size|hidden|heads|seq
default|vocab|parameters|vocab size|train documents|train samples|train tokens
heldout documents|heldout samples|heldout tokens|newly dropped|coming back|heldout|train|of|judged
idle|gradients|activations|seconds|perplexity|probability|compute|memory|launch
roc area|average precision|brier|calibration error|accuracy|precision|recall|false positive rate|best threshold|best f1
advertisement|validation|cost|checkpoints|Configuration|Network|samples|as in the file (JSON, text)
{tokens}; {value} a parameter
Timeline|part|kernels|recomputation|pipeline idle and sends|TFLOP/s achieved|{value} s a step
whole number above 0|{given} is not text|{given} is not text{hint}
is out of range; it must be above {bound}|is out of range; it must be below {bound}|{given} is not null
share from 0 to below 1
No such file or directory|Permission denied|Is a directory|Not a directory|File exists|No space left on device
Read-only file system|File name too long|Disk quota exceeded|Input/output error|Broken pipe|Address already in use
Connection refused|Too many open files|Cannot allocate memory|Directory not empty|Invalid argument|File too large
field required|should be a valid dictionary or instance of {name}|should be a valid number
string should match pattern {pattern}|string should have at least {number} character|should be a valid string
string should have at least {number} characters|list should have at least {number} item after validation, not {given}
"""


def not_shown() -> tuple[list[str], list[re.Pattern[str]]]:
    """Return the modules whose strings nobody sees, and patterns of msgids that are no messages."""
    lines = [line for line in NOT_SHOWN.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    patterns = [re.compile(line[1:]) for line in lines if line.startswith("~")]
    return [line for line in lines if not line.startswith("~")], patterns


def all_messages() -> dict[str, tuple[str, str]]:
    """Return {msgid: (domain, place)} of everything that a person may be shown."""
    files, patterns = not_shown()
    found: dict[str, tuple[str, str]] = {}

    def add(text: str, domain: str, place: str) -> None:
        if text and not any(pattern.search(text) for pattern in patterns):
            found.setdefault(text, (domain, place))

    for text in FOREIGN.replace("\n", "|").split("|"):
        add(text, "foundation", "Python, pydantic or the system")
    for file in sorted((REPOSITORY / "run_scripts").glob("*.sh")):
        for text, line in messages_of_script(file).items():
            add(text, "foundation", f"run_scripts/{file.name}:{line}")
    for package in PACKAGES:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            place = str(file.relative_to(REPOSITORY))
            domain = "foundation" if place.startswith("pangu/foundation/") else package
            if any(place.startswith(name) for name in files):
                continue
            if file.parent.name == "commands" or (file.parent.name == package and file.stem == "__init__"):
                document = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=False) or ""
                for text in paragraphs_of(document):
                    add(text, domain, f"{place}:1")
            for text, line in messages_of(file).items():
                add(text, domain, f"{place}:{line}")
        for text in importlib.import_module(f"{package}.cli").VERBS.values():
            add(normal(text), package, f"{package}/cli.py")
        for file in sorted((REPOSITORY / package).rglob("*.html")):
            text = file.read_text(encoding="utf-8")
            for part in (*texts_of_html(text), *re.findall(r'\b_\("([^"]*)"\)', text)):
                if re.search(r"[A-Za-z]{2,}", part):
                    add(normal(part), package, str(file.relative_to(REPOSITORY)))
    return found


def entries(domain: str) -> dict[str, str]:
    path = FOLDER / f"{domain}.po"
    return read_catalogue(path) if path.exists() else {}


def missing() -> dict[str, tuple[str, str]]:
    """Return {msgid: (domain, place)} of what has no Chinese."""
    known = {text for domain in DOMAINS for text in entries(domain)}
    return {text: where for text, where in all_messages().items() if text not in known}


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'


def write(domain: str, content: dict[str, str], places: dict[str, tuple[str, str]]) -> None:
    """Write a catalogue, sorted by msgid, each with the file that says it."""
    parts = [HEAD]
    for text in sorted(content):
        where = places[text][1].partition(":")[0] if text in places else ""
        parts.append(f"{f'#: {where}' if where else '#:'}\nmsgid {quoted(text)}\nmsgstr {quoted(content[text])}\n")
    (FOLDER / f"{domain}.po").write_text("\n".join(parts), encoding="utf-8")


def plain(text: str) -> str:
    """Return a text with its escapes resolved."""
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


def fields_of(text: str) -> list[str]:
    return sorted(match[1] for match in FIELD.finditer(text) if match[1])


def add(file: Path, listing: Path) -> int:
    """Take in translations; return how many were wrong."""
    listed = [line.split("\t", 2)[2] for line in listing.read_text(encoding="utf-8").splitlines()]
    places = all_messages()
    added: dict[str, dict[str, str]] = {domain: entries(domain) for domain in DOMAINS}
    wrong = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        number, _, target = line.partition("\t")
        if not number.strip().isdigit() or not target.strip():
            continue
        source, target = plain(listed[int(number)]), plain(target.strip())
        if source not in places:
            continue
        if fields_of(source) != fields_of(target):
            print(f"{number}: fields differ: {source} | {target}")
            wrong += 1
            continue
        added[places[source][0]][source] = target
    for domain, content in added.items():
        write(domain, content, places)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", action="store_true", help="list what has no Chinese")
    parser.add_argument("--unused", action="store_true", help="list entries that no source has")
    parser.add_argument("--clean", action="store_true", help="take those out")
    parser.add_argument("--add", type=Path, metavar="FILE", help="take in numbered lines")
    parser.add_argument("--listed", type=Path, metavar="LIST", help="what --missing wrote, with the numbers")
    arguments = parser.parse_args()
    if arguments.add:
        return 1 if add(arguments.add, arguments.listed) else 0
    everything, lacking = all_messages(), missing()
    if arguments.missing:
        for number, (text, (_, place)) in enumerate(lacking.items()):
            print(number, place, text.replace("\\", r"\\").replace("\n", r"\n"), sep="\t")
    for domain in DOMAINS if arguments.unused or arguments.clean else ():
        content = entries(domain)
        for text in [text for text in content if text not in everything]:
            print(f"{domain}: {text}")
            del content[text]
        if arguments.clean:
            write(domain, content, everything)
    print(f"{len(everything)} messages, {len(lacking)} without their Chinese", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
