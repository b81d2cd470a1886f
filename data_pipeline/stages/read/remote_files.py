"""Files behind a URL (s3://, hdfs://, https://, ...) through fsspec, which is imported when a source names one.

Credentials and endpoints are those of fsspec itself: the environment (AWS_PROFILE, FSSPEC_S3_ENDPOINT_URL, ...) and its
configuration files, so that none stands in a recipe."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from pangu.foundation.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# what changes when the content of a file does, as the file systems call it
_STAMPS = (
    *("ETag", "etag", "checksum", "md5Hash", "mtime", "modified", "LastModified", "last_modified", "created"),
    "modificationTime",  # of WebHDFS
)


@dataclass(frozen=True)
class RemoteFile:
    """A file that fsspec opens."""

    url: str

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.url).suffix

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Listed:
    """A remote file, its name inside the source, and what is known of it."""

    file: RemoteFile
    relative: str
    is_named: bool
    """Whether the recipe names it, rather than a directory or a pattern."""
    size: int
    stamp: str


def is_url(place: str) -> bool:
    """Return whether a path of a recipe has a scheme."""
    return _SCHEME.match(place) is not None


def local_path(url: str) -> Path | None:
    """Return the path of a file:// URL, which is read as any other path."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def open_input(place: Path | RemoteFile) -> BinaryIO:
    """Open a file for reading, wherever it is. Raises OSError; where a remote file system fails otherwise, UserError,
    because the file itself may be sound.
    """
    if isinstance(place, Path):
        return open(place, "rb")
    system, path = file_system(place.url)
    try:
        return cast(BinaryIO, system.open(path, "rb"))
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise failed(place, error) from error


def failed(place: RemoteFile, error: Exception) -> UserError:
    """Return what to say when a remote file system fails."""
    text = " ".join(str(error).split())[:300]
    return UserError(f"{place}: {type(error).__name__}: {text}; run again, what is done is kept")


def list_remote(url: str, source_name: str) -> Iterator[Listed]:
    """Yield the files of a URL, which names a file, a directory or a pattern, in the order of their names."""
    system, path = file_system(url)
    try:
        if has_pattern(path):
            found = system.glob(path, detail=True)
            fixed = path[: re.search(r"[*?\[]", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
            named = False
        else:
            info = system.info(path)
            named = info["type"] == "file"
            found = {info["name"]: info} if named else system.find(path, detail=True)
            fixed = path.rpartition("/")[0] if named else path
    except FileNotFoundError as error:
        raise UserError(f"source {source_name!r}: {url}: no such file, directory or glob") from error
    except Exception as error:
        raise failed(RemoteFile(url), error) from error
    fixed = system._strip_protocol(fixed).rstrip("/") if fixed else ""
    for name in sorted(found):
        info = found[name]
        relative = name.removeprefix(fixed).lstrip("/")
        if info["type"] != "file" or (not named and any(part.startswith(".") for part in relative.split("/")[:-1])):
            continue
        if not named and relative.rpartition("/")[2].startswith("."):
            continue
        yield Listed(RemoteFile(system.unstrip_protocol(name)), relative, named, info.get("size") or 0, stamp_of(info))


def stamp_of(info: dict[str, Any]) -> str:
    """Return what changes when the content of a remote file does, of what its file system knows."""
    return "|".join(str(info[key]) for key in _STAMPS if info.get(key) is not None)


def has_pattern(path: str) -> bool:
    return re.search(r"[*?\[]", path) is not None


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path inside it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UserError(f"{url}: URLs need fsspec; `pip install fsspec`, and s3fs for s3://") from error
    try:
        return url_to_fs(url)
    except ImportError as error:  # it names the package of the scheme
        raise UserError(f"{url}: {error}") from error
    except Exception as error:
        raise UserError(f"{url}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
