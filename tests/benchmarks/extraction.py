"""Extraction of main text against its peers: `python -m tests.benchmarks.extraction [--repeat 3]`.

F1 is that of character 4-grams as multisets, white space removed, averaged over pages. Peers are measured in the same
run, page by page in turn, on the same decoded page (their own charset detection is spared them); `trafilatura`,
`lxml_html_clean`, `readability-lxml` and `justext` must be installed, those that are absent are left out.
This project has been fitted to these pages; `python -m data_pipeline.extraction.fit` says what it reaches on sites that
it has not seen."""

import argparse
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_pipeline.extraction.extract import extract
from data_pipeline.extraction.scoring import LabelledPage, labelled_pages, scores
from data_pipeline.stages.read.charset import decode

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def peers() -> dict[str, Callable[[str], str]]:
    """name and version -> extractor of a decoded page."""
    found: dict[str, Callable[[str], str]] = {}

    def offer(package: str, kind: str, build: Callable[[], Callable[[str], str]]) -> None:
        try:
            found[f"{package} {version(package)}{kind}"] = build()
        except (ImportError, PackageNotFoundError):
            print(f"{package} is not installed")

    def trafilatura(**settings: bool) -> Callable[[str], str]:
        import trafilatura

        return lambda html: trafilatura.extract(html, **settings) or ""

    def readability() -> Callable[[str], str]:
        from lxml import html as lxml_html
        from readability import Document

        def run(html: str) -> str:
            summary = Document(html).summary()
            return lxml_html.fromstring(summary).text_content() if summary else ""

        return run

    def justext() -> Callable[[str], str]:
        import justext

        def run(html: str) -> str:
            settings = {
                "length_low": 25,
                "length_high": 70,
                "stopwords_low": 0,
                "stopwords_high": 0,
                "encoding": "utf-8",
            }
            return "\n".join(
                part.text for part in justext.justext(html.encode(), frozenset(), **settings) if not part.is_boilerplate
            )

        return run

    def resiliparse() -> Callable[[str], str]:
        from resiliparse.extract.html2text import extract_plain_text

        return lambda html: extract_plain_text(html, main_content=True)

    offer("trafilatura", "", trafilatura)
    offer("trafilatura", " recall", lambda: trafilatura(favor_recall=True))
    offer("readability-lxml", "", readability)
    offer("justext", " without stop words", justext)
    offer("resiliparse", " main content", resiliparse)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the fastest of each tool counts")
    parser.add_argument("--no-peers", action="store_true", help="this project alone")
    arguments = parser.parse_args()
    pages = [page for folder in ("html", "html_modern") for page in labelled_pages(arguments.shared / folder)]
    others = {} if arguments.no_peers else peers()
    texts = {page.name: decode(page.html).text for page in pages}
    extract(pages[0].html)  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in ("this project", *others)}
    found: dict[str, dict[str, str]] = {name: {} for name in seconds}
    for _ in range(arguments.repeat):
        spent = dict.fromkeys(seconds, 0.0)
        for page in pages:
            for name in seconds:
                own = name == "this project"
                start = time.perf_counter()
                try:
                    found[name][page.name] = extract(page.html).text if own else others[name](texts[page.name])
                except Exception as error:  # a peer that gives up has found nothing
                    found[name][page.name] = ""
                    print(f"{name}: {page.name}: {type(error).__name__}")
                spent[name] += time.perf_counter() - start
        for name, total in spent.items():
            seconds[name].append(total)
    size = sum(len(page.html) for page in pages)
    base = min(next((seconds[name] for name in seconds if name.startswith("trafilatura")), [float("nan")]))
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB\n{'':36s}    F1     P     R  F1<0.1   MB/s  x trafilatura")
    kinds = {
        "old pages": [page for page in pages if not page.name.startswith("magic-")],
        "modern articles": [page for page in pages if page.name.startswith("magic-") and page.kind == "article"],
        "modern threads": [page for page in pages if page.name.startswith("magic-") and page.kind == "forum"],
    }
    for name in seconds:
        best = min(seconds[name])
        print(f"{name:36s} {_figures(pages, found[name])} {size / best / 1e6:6.1f} {base / best:14.1f}")
        for kind, chosen in kinds.items():
            print(f"    {kind:32s} {_figures(chosen, found[name])}")


def _figures(pages: list[LabelledPage], found: dict[str, str]) -> str:
    """Return mean F1, precision and recall, and how many pages gave nearly nothing."""
    values = [scores(found[page.name], page.gold) for page in pages]
    f1, precision, recall = (sum(column) / len(values) for column in zip(*values, strict=True))
    return f"{f1:.3f} {precision:.3f} {recall:.3f} {sum(value[0] < 0.1 for value in values):7d}"


if __name__ == "__main__":
    main()
