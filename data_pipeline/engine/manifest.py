"""The manifest: one row of SQLite for each finished task. What is not in it has not happened.

A task is up to date when its key (settings + code + inputs) is the one recorded and its files are still there. The
parts of the key are recorded as well, so that `explain` can say which of them changed."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from data_pipeline.engine.run_files import Output
from pangu.foundation.errors import UserError

VERSION = 1


def digest(*parts: str) -> str:
    """Return xxh3-128 of some strings, kept apart."""
    return xxhash.xxh3_128_hexdigest("\x1f".join(parts).encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class Key:
    """Everything that decides the bytes of a task's outputs."""

    settings: str
    code: str
    inputs: str

    @property
    def digest(self) -> str:
        return digest(self.settings, self.code, self.inputs)


@dataclass(frozen=True)
class Finished:
    """A row of the manifest."""

    task: str
    key: Key
    outputs: tuple[Output, ...]
    counts: dict[str, Any]
    seconds: float


class Manifest:
    """The file `manifest.sqlite` of an output directory. Only the parent process of a run writes it."""

    def __init__(self, root: Path, read_only: bool = False):
        self.root = root
        path = root / "manifest.sqlite"
        try:
            if read_only:
                self.connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            else:
                self.connection = sqlite3.connect(path)
                self.connection.execute("PRAGMA synchronous = FULL")
            version = self.connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not read_only:
                self._create()
            elif version == 0:
                raise UserError(f"{path}: empty; the run that made it ended before it began; run again")
            elif version != VERSION:
                raise UserError(
                    f"{path}: written by version {version} of this format, this is {VERSION}; give another --out"
                )
        except sqlite3.Error as error:
            raise UserError(f"{path}: {error}; give another --out, or delete the file to start anew") from error

    def _create(self) -> None:
        with self.connection:
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS tasks (step TEXT, task TEXT, settings TEXT, code TEXT, inputs TEXT,"
                " outputs TEXT, counts TEXT, seconds REAL, PRIMARY KEY (step, task))"
            )
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS steps (step TEXT PRIMARY KEY, settings TEXT, code TEXT, tasks INTEGER)"
            )
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS stages (position INTEGER PRIMARY KEY, name TEXT, kind TEXT)"
            )
            self.connection.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        self.connection.close()

    def finished(self, step: str) -> dict[str, Finished]:
        """Return the rows of one step, by task, in the order of their names."""
        rows = self.connection.execute(
            "SELECT task, settings, code, inputs, outputs, counts, seconds FROM tasks WHERE step = ? ORDER BY task",
            (step,),
        )
        return {
            task: Finished(
                task,
                Key(settings, code, inputs),
                tuple(Output(**output) for output in json.loads(outputs)),
                json.loads(counts),
                seconds,
            )
            for task, settings, code, inputs, outputs, counts, seconds in rows
        }

    def record(self, step: str, row: Finished) -> None:
        """Record a finished task; its files are in place already."""
        outputs = json.dumps([asdict(output) for output in row.outputs])
        with self.connection:
            self.connection.execute(
                "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    step,
                    row.task,
                    row.key.settings,
                    row.key.code,
                    row.key.inputs,
                    outputs,
                    json.dumps(row.counts),
                    row.seconds,
                ),
            )

    def forget(self, step: str, tasks: Sequence[str]) -> None:
        with self.connection:
            self.connection.executemany(
                "DELETE FROM tasks WHERE step = ? AND task = ?", [(step, task) for task in tasks]
            )

    def step_settings(self, step: str) -> tuple[dict[str, Any], dict[str, str], int] | None:
        """Return the settings, the digests of the code and the number of tasks of a step when it was last run."""
        row = self.connection.execute("SELECT settings, code, tasks FROM steps WHERE step = ?", (step,)).fetchone()
        return None if row is None else (json.loads(row[0]), json.loads(row[1]), row[2])

    def record_step(self, step: str, settings: dict[str, Any], code: dict[str, str], tasks: int) -> None:
        with self.connection:
            self.connection.execute(
                "INSERT INTO steps VALUES (?, ?, ?, ?) ON CONFLICT (step) DO UPDATE SET"
                " settings = excluded.settings, code = excluded.code, tasks = excluded.tasks",
                (step, json.dumps(settings), json.dumps(code), tasks),
            )

    def steps(self) -> list[str]:
        """Return the steps that have rows, in no particular order."""
        return [row[0] for row in self.connection.execute("SELECT step FROM steps")]

    def forget_step(self, step: str) -> None:
        with self.connection:
            self.connection.execute("DELETE FROM tasks WHERE step = ?", (step,))
            self.connection.execute("DELETE FROM steps WHERE step = ?", (step,))

    def record_stages(self, stages: Sequence[tuple[str, str]]) -> None:
        """Record the (name, kind) of the stages of the recipe that was run, in order."""
        with self.connection:
            self.connection.execute("DELETE FROM stages")
            self.connection.executemany(
                "INSERT INTO stages VALUES (?, ?, ?)", [(position, *stage) for position, stage in enumerate(stages)]
            )

    def begin_stages(self) -> None:
        """Note that a run has begun: no stage of it is finished."""
        with self.connection:
            self.connection.execute("CREATE TABLE IF NOT EXISTS finished_stages (name TEXT PRIMARY KEY)")
            self.connection.execute("DELETE FROM finished_stages")

    def finish_stage(self, name: str) -> None:
        with self.connection:
            self.connection.execute("INSERT OR REPLACE INTO finished_stages VALUES (?)", (name,))

    def finished_stages(self) -> set[str]:
        """Return the stages that the last run finished."""
        try:
            return {row[0] for row in self.connection.execute("SELECT name FROM finished_stages")}
        except sqlite3.OperationalError:  # an older run, which had no such table, or one that has not begun
            return {name for name, _ in self.stages()}

    def stages(self) -> list[tuple[str, str]]:
        return list(self.connection.execute("SELECT name, kind FROM stages ORDER BY position"))

    def steps_of(self, stage: str) -> list[str]:
        """Return the steps of a stage that have been run, in the order in which they were first begun."""
        rows = self.connection.execute("SELECT step FROM steps WHERE step GLOB ? ORDER BY rowid", (f"{stage}/*",))
        return [row[0] for row in rows]

    def is_present(self, row: Finished) -> bool:
        """Return whether the files of a row are there with their size (only `run --verify` reads their bytes)."""
        for output in row.outputs:
            try:
                if (self.root / output.path).stat().st_size != output.bytes:
                    return False
            except OSError:
                return False
        return True
