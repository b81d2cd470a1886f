"""Judge a sample of documents by hand, as the paper's authors did after each round of filtering.

    python -m data_pipeline review corpus --out reviewed.jsonl
    python -m data_pipeline review corpus --dropped --reason spam --count 50 --out spam.jsonl
    python -m data_pipeline review crawl.jsonl.gz --out crawl.reviewed.jsonl
    python -m data_pipeline review --out reviewed.jsonl --summary

Opens a page on this machine alone (127.0.0.1): k keeps, j and 1 to 9 are junk and its kinds, the arrows move. Every
verdict is saved at once; the same command goes on where you stopped. What comes out are examples:
`python -m data_pipeline quality train spam.model --positives reviewed.jsonl --negatives reviewed.jsonl`.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.review.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="PATH", help="the output directory of a run, or files of documents")
    parser.add_argument("--out", type=Path, required=True, help="JSONL: the sample and its verdicts")
    parser.add_argument("--count", type=int, default=200, help="documents to judge (200)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (1)")
    parser.add_argument("--dropped", action="store_true", help="of a run: what it dropped, not what it kept")
    parser.add_argument("--reason", help="of a run: what was dropped for this")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="the field that holds the document (text)")
    parser.add_argument("--port", type=int, default=0, help="of the page (any that is free)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--summary", action="store_true", help="print what has been judged so far, serve nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    session = _session(arguments)
    if not arguments.summary:
        _serve(session, arguments.port, arguments.open)
    if arguments.json:
        print(json.dumps({"file": str(arguments.out), **session.summary()}, ensure_ascii=False))
    else:
        _print_summary(session)
    return 0


def _session(arguments: argparse.Namespace) -> "Session":
    """Return the review in `--out`, or a new one."""
    from data_pipeline.quality.documents import read_documents
    from data_pipeline.record import reason_class
    from data_pipeline.review.session import Session, draw, load

    if arguments.out.exists():
        return load(arguments.out)
    if not arguments.files or arguments.summary:
        raise UserError(f"{arguments.out}: no such review; name what to review: a run's output directory, or files")
    if arguments.count < 1:
        raise UserError(f"--count {arguments.count}: nearest: 1")
    if not 0 <= arguments.seed < 2**64:
        raise UserError(f"--seed {arguments.seed}: 0 to 2^64 - 1 would be right")
    documents = read_documents(arguments.files, arguments.text_field, arguments.dropped or arguments.reason is not None)
    if arguments.reason is not None:
        documents = (one for one in documents if reason_class(one.drop_reason or "") == arguments.reason)
    items = draw(documents, arguments.count, arguments.seed)
    if not items:
        what = f"dropped for {arguments.reason!r}" if arguments.reason else "with text"
        raise UserError(f"{', '.join(arguments.files)}: no document {what} to review")
    session = Session(arguments.out, items)
    session.save()
    return session


def _serve(session: "Session", port: int, opens: bool) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import signal
    import threading

    from data_pipeline.review.server import ReviewServer

    with ReviewServer(session, port) as server:
        print_translated(f"{len(session.items)} documents to judge, {session.summary()['judged']} judged: {server.url}")
        print_translated("Ctrl-C ends; every verdict is saved at once", flush=True)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if opens:
            import webbrowser

            webbrowser.open(server.url)
        stop.wait()
        server.shutdown()


def _print_summary(session: "Session") -> None:
    summary = session.summary()
    print_translated(f"{session.path}: {summary['judged']} of {summary['items']} judged")
    for name, share in {"all": summary["junk"], **summary["junk_by_source"]}.items():
        if share["of"]:
            print_translated(
                f"  {name}: {share['junk']} of {share['of']} are junk, {share['share']:.1%} "
                f"(95 % interval {share['from']:.1%} to {share['to']:.1%})"
            )
    for kind, count in summary["kinds"].items():
        print(f"    {kind}: {count}")
