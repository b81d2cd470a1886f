"""Readers of books and office files, a document a file: EPUB, DOCX, MHTML, and PDF with a text layer.

EPUB (OCF 3.3) and DOCX (ECMA-376) are zip archives of markup, which the standard library opens; of a book all text is
wanted, so nothing is taken for a template. PDF is read by pypdf, an extra (`pip install pangu-alpha[pdf]`)."""

import email
import email.policy
import io
import logging
import posixpath
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from data_pipeline.recipe import Source
from data_pipeline.stages.clean.markup import remove_markup
from data_pipeline.stages.read.page_files import read_page_bytes
from data_pipeline.stages.read.record_formats import Document, Limits, Reject, decode, repaired, whole_file
from data_pipeline.stages.read.source_files import FileRange

Parse = Callable[[bytes, Limits], tuple[str | None, str]]
"""(title, text) of a file; _Damaged where there is none."""

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_BODY = re.compile(r"<body\b[^>]*>(.*)</body\s*>", re.DOTALL | re.IGNORECASE)
_READING = re.compile(r"<(rt|rp|svg)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_ANY_TAG = re.compile(r"<[^<>]{1,400}>")
_LINES = re.compile(r"\s*\n\s*\n\s*")


class _Damaged(Exception):
    """A file that is not what its name says; the message is the reject's reason."""


def read_docx(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield the paragraphs and tables of a Word file as one document."""
    return _read(part, limits, at, _docx)


def read_epub(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield the chapters of a book, in the order of its spine, as one document."""
    return _read(part, limits, at, _epub)


def read_pdf(part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]) -> Iterator[Document | Reject]:
    """Yield the text layer of a PDF as one document."""
    return _read(part, limits, at, _pdf)


def read_mht(part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]) -> Iterator[Document | Reject]:
    """Yield the page of a MHTML file: its first part of HTML."""

    def page(data: bytes, offset: int) -> Document | Reject:
        message = email.message_from_bytes(data, policy=email.policy.compat32)
        for piece in message.walk():
            if piece.get_content_type() in ("text/html", "application/xhtml+xml"):
                content = piece.get_payload(decode=True)
                if isinstance(content, bytes):
                    return read_page_bytes(content, offset, str(piece.get("Content-Type", "")), limits)
        return Reject(offset, "damaged_mht:no part of it is HTML")

    yield from whole_file(part, limits, at, page, keep_mark=True)


def _read(part: FileRange, limits: Limits, at: Callable[[int], bool], parse: Parse) -> Iterator[Document | Reject]:
    def document(data: bytes, offset: int) -> Document | Reject:
        try:
            title, text = parse(data, limits)
        except _Damaged as error:
            return Reject(offset, str(error))
        except (
            zipfile.BadZipFile,
            ElementTree.ParseError,
            KeyError,
            NotImplementedError,
            ValueError,
            RuntimeError,
        ) as error:
            return Reject(offset, f"damaged_{part.format}:{' '.join(str(error).split())[:200]}")
        text = repaired(text).strip()
        if not text:
            return Reject(offset, "no_text_layer:pages of pictures" if part.format == "pdf" else "empty_text")
        return Document(offset, text, title=repaired(title).strip() or None if title else None)

    return whole_file(part, limits, at, document, keep_mark=True)


def _member(archive: zipfile.ZipFile, name: str, limits: Limits, total: int = 0) -> bytes:
    """Return the bytes of a member, which may not be longer than a record."""
    with archive.open(name) as file:
        data = file.read(limits.record_bytes + 1 - total)
    if len(data) + total > limits.record_bytes:
        raise _Damaged(f"record_too_long:more than {limits.record_bytes} bytes of text inside")
    return data


def _xml(data: bytes) -> ElementTree.Element:
    if b"<!DOCTYPE" in data[:4096] or b"<!ENTITY" in data:
        raise _Damaged("unsafe_member:XML with declarations of its own")
    return ElementTree.fromstring(data)


def _docx(data: bytes, limits: Limits) -> tuple[str | None, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        body = _xml(_member(archive, "word/document.xml", limits)).find(f"{_WORD}body")
        if body is None:
            raise _Damaged("damaged_docx:it has no body")
        title = None
        if "docProps/core.xml" in archive.namelist():
            title = _xml(_member(archive, "docProps/core.xml", limits)).findtext(
                "{http://purl.org/dc/elements/1.1/}title"
            )
    return title, "\n".join(_word_blocks(body))


def _word_blocks(parent: ElementTree.Element) -> Iterator[str]:
    for element in parent:
        if element.tag == f"{_WORD}p":
            yield _word_paragraph(element)
        elif element.tag == f"{_WORD}tbl":
            for row in element.iter(f"{_WORD}tr"):
                yield "\t".join(_word_cell(cell) for cell in row.iter(f"{_WORD}tc"))
        elif element.tag == f"{_WORD}sdt":
            content = element.find(f"{_WORD}sdtContent")
            yield from _word_blocks(content) if content is not None else ()


def _word_cell(cell: ElementTree.Element) -> str:
    return " ".join(filter(None, map(_word_paragraph, cell.iter(f"{_WORD}p"))))


def _word_paragraph(paragraph: ElementTree.Element) -> str:
    parts = []
    for element in paragraph.iter():
        if element.tag == f"{_WORD}t":
            parts.append(element.text or "")
        elif element.tag == f"{_WORD}tab":
            parts.append("\t")
        elif element.tag in (f"{_WORD}br", f"{_WORD}cr"):
            parts.append("\n")
    return "".join(parts).strip()


def _epub(data: bytes, limits: Limits) -> tuple[str | None, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        container = _xml(_member(archive, "META-INF/container.xml", limits))
        rootfile = next((element for element in container.iter() if element.tag.endswith("}rootfile")), None)
        place = rootfile.get("full-path") if rootfile is not None else None
        if not place:
            raise _Damaged("damaged_epub:it names no package")
        package = _xml(_member(archive, place, limits))
        title = package.findtext(".//{http://purl.org/dc/elements/1.1/}title")
        items = [item for item in package.iter() if item.tag.endswith("}item")]
        files = {item.get("id"): item.get("href", "") for item in items}
        spine = [item.get("idref") for item in package.iter() if item.tag.endswith("}itemref")]
        # a book that does not say its order has that of its list of files
        spine = spine or [key for key, name in files.items() if name.partition("#")[0].endswith(("html", ".htm"))]
        chapters, total = [], 0
        for name in spine:
            if name in files:
                path = posixpath.normpath(
                    posixpath.join(posixpath.dirname(place), unquote(files[name].partition("#")[0]))
                )
                content = _member(archive, path, limits, total)
                total += len(content)
                chapters.append(_chapter(content))
    return title, "\n\n".join(filter(None, chapters))


def _chapter(data: bytes) -> str:
    """Return all text of a page of a book."""
    text = decode(data) or ""
    body = _BODY.search(text)
    text, _ = remove_markup(_READING.sub("", body[1] if body else text))
    lines = [line.strip() for line in _ANY_TAG.sub("", text).split("\n")]
    return _LINES.sub("\n\n", "\n".join(lines)).strip()


def _pdf(data: bytes, limits: Limits) -> tuple[str | None, str]:
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError:
        raise _Damaged("needs_pypdf:pip install pangu-alpha[pdf]") from None
    # it prints what a reject says
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise _Damaged("encrypted_pdf:it needs a password")
        pages, total = [], 0
        for page in reader.pages:
            pages.append((page.extract_text() or "").strip())
            total += len(pages[-1].encode("utf-8", "replace"))
            if total > limits.record_bytes:
                raise _Damaged(f"record_too_long:more than {limits.record_bytes} bytes of text inside")
        title = reader.metadata.title if reader.metadata else None
    except (PyPdfError, OSError, RecursionError, TypeError, AttributeError, IndexError) as error:
        raise _Damaged(f"damaged_pdf:{' '.join(str(error).split())[:200]}") from error
    return str(title) if title else None, "\n".join(filter(None, pages))
