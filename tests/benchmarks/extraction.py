"""Extraction of main text against its peers: `python -m tests.benchmarks.extraction [--repeat 3]`.

F1 is that of character 4-grams as multisets, white space removed, averaged over pages. Peers are measured in the same
run, page by page in turn, on the same decoded page (their own charset detection is spared them); `trafilatura`,
`lxml_html_clean`, `readability-lxml` and `justext` must be installed, those that are absent are left out."""

import argparse
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_pipeline.extraction.extract import extract
from data_pipeline.extraction.scoring import labelled_pages, scores
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
    arguments = parser.parse_args()
    pages = [(page.name, page.html, page.gold) for page in labelled_pages(arguments.shared / "html")]
    others = peers()
    texts = {name: decode(html).text for name, html, _ in pages}
    extract(pages[0][1])  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in ("this project", *others)}
    found: dict[str, dict[str, str]] = {name: {} for name in seconds}
    for _ in range(arguments.repeat):
        spent = dict.fromkeys(seconds, 0.0)
        for page, html, _ in pages:
            for name in seconds:
                start = time.perf_counter()
                try:
                    found[name][page] = extract(html).text if name == "this project" else others[name](texts[page])
                except Exception as error:  # a peer that gives up has found nothing
                    found[name][page] = ""
                    print(f"{name}: {page}: {type(error).__name__}")
                spent[name] += time.perf_counter() - start
        for name, total in spent.items():
            seconds[name].append(total)
    size = sum(len(html) for _, html, _ in pages)
    base = min(next((seconds[name] for name in seconds if name.startswith("trafilatura")), [float("nan")]))
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB\n{'':36s}    F1     P     R  F1<0.1   MB/s  x trafilatura")
    for name in seconds:
        values = [scores(found[name][page], gold) for page, _, gold in pages]
        f1, precision, recall = (sum(column) / len(values) for column in zip(*values, strict=True))
        failed = sum(value[0] < 0.1 for value in values)
        best = min(seconds[name])
        print(
            f"{name:36s} {f1:.3f} {precision:.3f} {recall:.3f} {failed:7d} {size / best / 1e6:6.1f} {base / best:14.1f}"
        )


if __name__ == "__main__":
    main()
