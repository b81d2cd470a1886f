"""An output directory behind a URL (s3://, hdfs://, …): the run works in a directory of this machine, and what it
publishes is copied, through fsspec.

`manifest.json` at the URL promises what the manifest of a run does. It names every file with its size and checksum
(xxh3-128), and says `writing` before the first file changes and `complete` when all are there: a reader who waits for
`complete` sees one run whole, whatever was killed. A file appears whole: object stores do that by themselves, elsewhere
it gets its name last. The same command goes on: what was copied and is still there unchanged is not copied again. Only
files that a manifest has named, or that this run has copied, are ever replaced or removed."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.engine.run_files import checksum, locked, write_whole
from data_pipeline.stages.read.remote_files import RemoteFile, failed, file_system, stamp_of
from pangu.foundation.errors import UserError

MANIFEST = "manifest.json"
# what a run keeps for itself
_OWN = frozenset({"stages", "tmp"})
_PART = ".part-"
# an object appears whole when its last byte has arrived
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "obs", "oci", "memory"})


@dataclass(frozen=True)
class Copied:
    """What a copy did."""

    files: int
    bytes: int
    reused: int
    removed: int

    def in_words(self, url: str) -> str:
        """Return a line for a person."""
        removed = f", {self.removed} old ones removed" if self.removed else ""
        there = f", {self.reused} were there" if self.reused else ""
        return f"{url}: {self.files} files copied ({self.bytes / 1e6:.1f} MB){there}{removed}; complete"


def copy(root: Path, url: str) -> Copied:
    """Make the URL hold what the run in `root` has published, and say so in its manifest. Raises UserError."""
    try:
        with locked(root):
            return _Copy(root, url).run()
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise failed(RemoteFile(url), error) from error


def published(root: Path) -> dict[str, Path]:
    """Return the files of a run that are for others, by their names below its output directory."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name not in _OWN]
    files = (path for folder in sorted(folders) for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path for path in files}


class _Copy:
    """One copy, and what is known of both sides."""

    def __init__(self, root: Path, url: str):
        self.root, self.url = root, url
        self.system, self.base = file_system(url)
        self.base = self.base.rstrip("/")
        self.record = root / "copied.json"
        # name -> [checksum, size, stamp of the remote file]
        self.copied: dict[str, list[Any]] = {}
        if self.record.is_file():
            known = json.loads(self.record.read_text(encoding="utf-8"))
            self.copied = known["files"] if known["url"] == url else {}

    def run(self) -> Copied:
        files = published(self.root)
        facts = {name: (checksum(path), path.stat().st_size) for name, path in files.items()}
        there = self._listed()
        manifest = self._read_manifest(there)
        fresh = [name for name in files if not self._is_there(name, facts[name], there)]
        ours = {*manifest.get("files", {}), *self.copied}
        old = [name for name in there if (name in ours and name not in files) or _PART in name]
        content = {name: {"bytes": size, "checksum": digest} for name, (digest, size) in facts.items()}
        if fresh or old or manifest.get("state") != "complete" or manifest.get("files") != content:
            # what the manifest named before stays named, so that a later copy knows it as ours
            self._write_manifest("writing", {**manifest.get("files", {}), **content})
            for name in fresh:
                self._put(files[name], name)
                self.copied[name] = [*facts[name], self._stamp(name, facts[name][1])]
                self._save()
            self._remove(old)
            self._write_manifest("complete", content)
        return Copied(len(fresh), sum(facts[name][1] for name in fresh), len(files) - len(fresh), len(old))

    def _listed(self) -> dict[str, dict[str, Any]]:
        """Return what lies below the URL, by name."""
        self.system.invalidate_cache()
        try:
            found = self.system.find(self.base, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self.system._strip_protocol(self.base).rstrip("/")) + 1
        return {name[start:]: info for name, info in found.items()}

    def _read_manifest(self, there: Iterable[str]) -> dict[str, Any]:
        names = list(there)
        if MANIFEST not in names:
            foreign = [name for name in names if name not in self.copied and _PART not in name]
            if foreign:
                raise UserError(
                    f"{self.url}: is not empty ({foreign[0]}) and has no {MANIFEST} of a run; give another --out"
                )
            return {}
        try:
            manifest = json.loads(self.system.cat_file(f"{self.base}/{MANIFEST}"))
            if not isinstance(manifest.get("files"), dict):
                raise ValueError("no files")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{self.url}/{MANIFEST}: not the manifest of a run; give another --out") from error
        return manifest

    def _is_there(self, name: str, facts: tuple[str, int], there: dict[str, dict[str, Any]]) -> bool:
        known, info = self.copied.get(name), there.get(name)
        return (
            known is not None
            and info is not None
            and known[:2] == list(facts)
            and info.get("size") == facts[1]
            and stamp_of(info) == known[2]
        )

    def _put(self, file: Path, name: str) -> None:
        target = f"{self.base}/{name}"
        if self._is_object_store():
            self.system.put_file(str(file), target)
            return
        part = f"{target}{_PART}{os.getpid()}"
        self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.system.put_file(str(file), part)
        if self.system.exists(target):
            self.system.rm_file(target)
        self.system.mv(part, target)

    def _is_object_store(self) -> bool:
        names = self.system.protocol
        return bool(_OBJECT_STORES & {names, *names} if isinstance(names, str) else _OBJECT_STORES & set(names))

    def _stamp(self, name: str, size: int) -> str:
        """Return what changes when the remote file does; an error where it has not the size of ours."""
        self.system.invalidate_cache()
        info = self.system.info(f"{self.base}/{name}")
        if info.get("size") != size:
            raise UserError(f"{self.url}/{name}: {info.get('size')} bytes arrived of {size}; run again")
        return stamp_of(info)

    def _write_manifest(self, state: str, files: dict[str, Any]) -> None:
        content = {"state": state, "version": 1, "checksums": "xxh3-128", "files": dict(sorted(files.items()))}
        local = self.root / "tmp-manifest.json"
        write_whole(local, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        self._put(local, MANIFEST)
        local.unlink()

    def _remove(self, names: list[str]) -> None:
        for name in names:
            self.system.rm_file(f"{self.base}/{name}")
            self.copied.pop(name, None)
        self._save()

    def _save(self) -> None:
        write_whole(self.record, json.dumps({"url": self.url, "files": self.copied}, ensure_ascii=False))
