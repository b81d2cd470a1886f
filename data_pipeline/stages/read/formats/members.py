"""Archives of files: zip, tar (plain or compressed) and WACZ. Each member is read as a file of its own.

Members are copied, one at a time, to a temporary file whose name is ours: a path inside an archive names records and
nothing else, so none leaves the archive. Links, devices, encrypted members and paths that climb are rejects. What comes
out may be `ratio` times what lies in the archive, once it is more than FREE_BYTES; then the rest is a bomb."""

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from data_pipeline.stages.read.compressed_bytes import BLOCK, FREE_BYTES, Damage, read_stream
from data_pipeline.stages.read.record_formats import Limits, Reject
from data_pipeline.stages.read.remote_files import open_input
from data_pipeline.stages.read.source_files import FileRange, format_of

CONTAINERS = ("zip", "tar", "wacz")
# an archive inside an archive is read, and one inside that is a reject
DEEPEST = 2
_SEPARATOR = "!/"


@dataclass(frozen=True)
class Member:
    """A member as a file: where its bytes lie now, its name inside the source, and its format."""

    part: FileRange


def read_members(part: FileRange, limits: Limits) -> Iterator[Member | Reject]:
    """Yield the members of an archive in their order; each one's file is there until the next is asked for."""
    depth = part.relative.count(_SEPARATOR) + 1
    if depth > DEEPEST:
        yield Reject(0, "nested_archive:an archive in an archive in an archive")
        return
    budget = _Budget(limits.ratio, _size(part))
    with tempfile.TemporaryDirectory(prefix="member-") as folder:
        target = Path(folder) / "member"
        members = _tar_members(part, limits) if part.format == "tar" else _zip_members(part)
        for number, found in enumerate(members):
            if isinstance(found, Reject):
                yield found
                continue
            name, stream = found
            relative = f"{part.relative}{_SEPARATOR}{name}"
            path = target.with_name(f"member-{number % 2}{PurePosixPath(name).suffix[:16]}")
            damage = budget.copy(stream, path)
            if damage is not None:
                yield Reject(number, f"{damage.partition(':')[0]}:{name}: {damage.partition(':')[2]}")
                if damage.startswith("decompression_bomb"):
                    return
            elif (kind := _format(name, part.format)) is not None:
                yield Member(FileRange(path, relative, kind))
            path.unlink(missing_ok=True)


def _format(name: str, container: str) -> str | None:
    """Return the format of a member; of a WACZ only the archives of pages are read, the rest describes them."""
    kind = format_of(PurePosixPath(name))
    return kind if container != "wacz" or kind in ("warc", "arc") else None


def _size(part: FileRange) -> int:
    if isinstance(part.path, Path):
        return part.path.stat().st_size
    with open_input(part.path) as file:
        return file.seek(0, io.SEEK_END)


class _Budget:
    """How many bytes may still come out of an archive."""

    def __init__(self, ratio: float, size: int):
        self.most = max(FREE_BYTES, int(ratio * size))
        self.ratio, self.written = ratio, 0

    def copy(self, stream: IO[bytes], path: Path) -> str | None:
        """Copy a member to a file; return why it could not be, if so."""
        try:
            with stream, path.open("wb") as out:
                while block := stream.read(BLOCK):
                    self.written += len(block)
                    if self.written > self.most:
                        return f"decompression_bomb:more than {self.ratio:g} bytes out for a byte in"
                    out.write(block)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
            return f"damaged_member:{' '.join(str(error).split())[:200]}"
        except Exception as error:
            if type(error).__module__ not in ("zlib", "_lzma", "bz2"):
                raise
            return f"damaged_member:{error}"
        return None


def _zip_members(part: FileRange) -> Iterator[tuple[str, IO[bytes]] | Reject]:
    with open_input(part.path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
            yield Reject(0, f"damaged_zip:{' '.join(str(error).split())[:200]}")
            return
        for number, member in enumerate(archive.infolist()):
            name = _zip_name(member)
            if member.is_dir() or _is_hidden(name):
                continue
            if not _is_safe(name):
                yield Reject(number, f"unsafe_member:{name[:200]}")
            elif member.flag_bits & 1:
                yield Reject(number, f"encrypted_member:{name[:200]}")
            else:
                try:
                    stream = archive.open(member)
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
                    yield Reject(number, f"damaged_member:{name[:200]}: {' '.join(str(error).split())[:200]}")
                    continue
                yield name, stream


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Return a member's name; without the mark of UTF-8 it is as often in GBK as in code page 437."""
    if member.flag_bits & 0x800 or member.filename.isascii():
        return member.filename
    try:
        return member.filename.encode("cp437").decode("gbk")
    except UnicodeError:
        return member.filename


def _tar_members(part: FileRange, limits: Limits) -> Iterator[tuple[str, IO[bytes]] | Reject]:
    stream = _BlockReader(read_stream(part.path, limits.ratio))
    number = -1
    try:
        with tarfile.open(  # type: ignore[call-overload]
            fileobj=stream, mode="r|", bufsize=BLOCK, errorlevel=0, tarinfo=_TarMember
        ) as archive:
            for number, member in enumerate(archive):
                if member.isdir() or _is_hidden(member.name):
                    continue
                if not _is_safe(member.name):
                    yield Reject(number, f"unsafe_member:{member.name[:200]}")
                elif not member.isreg():
                    yield Reject(number, f"unsafe_member:{member.name[:200]}: a link or a device")
                else:
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name, content
    except (tarfile.TarError, EOFError, ValueError) as error:
        yield Reject(number + 1, stream.reason or f"damaged_tar:{' '.join(str(error).split())[:200]}")
        return
    damage = stream.reason or getattr(archive, "damage", None)
    if damage is not None:
        yield Reject(number + 1, damage)


class _TarMember(tarfile.TarInfo):
    """A member whose archive remembers a damaged header: `tarfile` takes that for the end, unless it is the first."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # the mark of the end
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            archive.damage = "truncated_tar:it ends without the mark of its end"  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            archive.damage = f"damaged_tar:{error}; what lies behind is not read"  # type: ignore[attr-defined]
            raise


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name and name[1:2] != ":"


def _is_hidden(name: str) -> bool:
    """Return whether a member is hidden, as files of a folder are: what macOS puts into archives, too."""
    return any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in PurePosixPath(name).parts)


class _BlockReader(io.RawIOBase):
    """Blocks of a stream as a file to read from. Damage ends it; `reason` says why."""

    def __init__(self, blocks: Iterator[bytes | Damage]):
        self.blocks = blocks
        self.rest = b""
        self.reason: str | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> Any:
        while not self.rest and self.reason is None:
            block = next(self.blocks, None)
            if block is None:
                break
            if isinstance(block, Damage):
                self.reason = block.reason
                break
            self.rest = block
        data, self.rest = (self.rest, b"") if size < 0 else (self.rest[:size], self.rest[size:])
        return data
