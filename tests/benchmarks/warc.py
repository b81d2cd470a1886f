"""WARC to text against datatrove's WARC reader with trafilatura: `python -m tests.benchmarks.warc [--copies 3]`.

The archive is made of the labelled pages (../shared/data/html) and of the records of a real Common Crawl slice, a
gzip member a record. Both sides read and extract in one process, in turn, `--repeat` times; the fastest counts. Needs
`datatrove`, `trafilatura` and `lxml_html_clean`; `warcio` and `fastwarc` are measured as plain readers where they are
installed."""

import argparse
import gzip
import logging
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_pipeline.extraction.scoring import labelled_pages
from data_pipeline.stages.read.charset import decode
from data_pipeline.stages.read.warc import WarcDocument, read_documents, read_records
from tests.benchmarks.extraction import SHARED


def build_archive(shared: Path, path: Path, copies: int) -> int:
    """Write the archive; returns its HTML bytes. Pages are stored with the charset in the HTTP header, so that the
    peer's reader can decode them."""
    size = 0
    slice_ = (shared / "warc" / "commoncrawl_12_chinese_pages.warc.gz").read_bytes()
    with open(path, "wb") as out:
        for copy in range(copies):
            for name, html in ((page.name, page.html) for page in labelled_pages(shared / "html")):
                http = (
                    f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={decode(html).charset}\r\n\r\n".encode()
                    + html
                )
                head = (
                    f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{name}-{copy}>\r\nWARC-Target-URI: http://example.cn/{copy}/{name}\r\n"
                    "WARC-Date: 2021-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
                    f"WARC-Identified-Payload-Type: text/html\r\nContent-Length: {len(http)}\r\n\r\n"
                )
                out.write(gzip.compress(head.encode() + http + b"\r\n\r\n"))
                size += len(html)
            out.write(slice_)
    return size


def this_project(path: Path) -> int:
    return sum(bool(document.extract().text) for document in read_documents(path) if isinstance(document, WarcDocument))


def datatrove(path: Path) -> int:
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import WarcReader

    reader = WarcReader(str(path.parent), glob_pattern=path.name)
    return sum(bool(document.text) for document in Trafilatura(timeout=10).run(reader.run()))


def readers() -> dict[str, Callable[[Path], int]]:
    def warcio(path: Path) -> int:
        from warcio.archiveiterator import ArchiveIterator

        with open(path, "rb") as file:
            return sum(len(record.content_stream().read()) > 0 for record in ArchiveIterator(file))

    def fastwarc(path: Path) -> int:
        from fastwarc.warc import ArchiveIterator

        return sum(len(record.reader.read()) > 0 for record in ArchiveIterator(str(path)))

    found: dict[str, Callable[[Path], int]] = {
        "this project, reading only": lambda path: sum(1 for _ in read_records(path))
    }
    for package, function in (("warcio", warcio), ("fastwarc", fastwarc)):
        try:
            found[f"{package} {version(package)}, reading only"] = function
        except PackageNotFoundError:
            print(f"{package} is not installed")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    try:
        from loguru import logger

        logger.remove()
    except ImportError:
        pass
    candidates: dict[str, Callable[[Path], int]] = {"this project": this_project}
    try:
        candidates[f"datatrove {version('datatrove')} + trafilatura {version('trafilatura')}"] = datatrove
    except PackageNotFoundError as error:
        print(f"{error.name} is not installed")
    candidates |= readers()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pages.warc.gz"
        size = build_archive(arguments.shared, path, arguments.copies)
        this_project(path)  # compiles
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        found: dict[str, int] = {}
        for _ in range(arguments.repeat):
            for name, run in candidates.items():
                start = time.perf_counter()
                found[name] = run(path)
                seconds[name].append(time.perf_counter() - start)
    base = min(next((seconds[name] for name in seconds if name.startswith("datatrove")), [float("nan")]))
    print(f"{size / 1e6:.1f} MB of HTML\n{'':44s}   found  seconds  MB/s  x datatrove + trafilatura")
    for name, times in seconds.items():
        print(f"{name:44s} {found[name]:7d} {min(times):8.2f} {size / min(times) / 1e6:5.1f} {base / min(times):8.1f}")


if __name__ == "__main__":
    main()
