"""Starts the processes of a run, shows what the first of them says, stops all when one dies, and starts them again.

msrun kills the other workers when one has died, but then waits for its scheduler, which waits for the dead; and it
leaves workers behind when it is itself ended. So everything that it started is watched, and ended, here.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from pangu.distributed.launch import Launch
from pangu.foundation.best_effort import reason_of, say, warn
from pangu.foundation.errors import UserError
from pangu.foundation.interrupts import Handlers
from pangu.training.step_metrics import METRICS

POLL_SECONDS = 0.2
# Between two looks for signs of life.
LOOK_SECONDS = 5.0
# How long the scheduler may take to end after the last worker.
SCHEDULER_SECONDS = 30.0
# How long workers may take to finish a step and write a checkpoint after an interrupt.
INTERRUPT_SECONDS = 600.0
DIED = re.compile(r"exit with exception\. Error code: (-?\d+)")
USER_MISTAKE, INTERRUPTED = 2, 130


class Attempt:
    """One start of all processes of this node, from the first moment until none is left."""

    def __init__(self, launch: Launch, logs: Path) -> None:
        self.launch, self.logs = launch, logs
        self.output = logs / ("worker_0.log" if launch.is_alone else "msrun.log")
        with new_log(self.output) as file:
            self.process = subprocess.Popen(
                launch.command(logs),
                env=os.environ | launch.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal goes to this process alone, which passes it on
            )
        self.workers: dict[int, psutil.Process] = {}
        self.others: dict[int, psutil.Process] = {}
        self.shown = 0

    def look(self) -> None:
        """Learn of processes that have started since."""
        try:
            parent = psutil.Process(self.process.pid)
            command, found = parent.cmdline(), parent.children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for process in found:
            if process.pid in self.workers or process.pid in self.others:
                continue
            try:
                # Between fork and exec a process looks like its parent.
                if process.cmdline() != command:
                    role = process.environ().get("MS_ROLE")
                    (self.workers if role == "MS_WORKER" else self.others)[process.pid] = process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def workers_left(self) -> list[psutil.Process]:
        return [p for p in self.workers.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def show(self) -> None:
        """Pass on what the first worker of this node has written since."""
        path = self.logs / f"worker_{self.launch.first_rank}.log"
        try:
            with path.open("rb") as file:
                file.seek(self.shown)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self.shown += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if not line.startswith("[INFO]"):
                say(line)

    def interrupt(self) -> None:
        """Ask the workers to save a checkpoint and end."""
        if self.launch.is_alone:
            self.process.send_signal(signal.SIGTERM)
        for worker in self.workers_left():
            worker.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Leave nothing running."""
        self.look()
        for process in (*self.workers.values(), *self.others.values()):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def has_failed(self) -> bool:
        """Return whether msrun has told of a worker that ended badly; it then kills the others."""
        return DIED.search(self.output.read_text(encoding="utf-8", errors="replace")) is not None

    def exit_code(self) -> int:
        """Return 0 when all ended well; else the code of the worker that ended first, as msrun tells it."""
        told = DIED.search(self.output.read_text(encoding="utf-8", errors="replace"))
        if told:
            return int(told[1])
        return self.process.returncode

    def complaint(self) -> str | None:
        """Return the line by which a worker named a mistake of the user."""
        for path in sorted(self.logs.glob("worker_*.log")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("error: "):
                    return line.removeprefix("error: ")
        return None


def without_complaint(logs: Path) -> str:
    """Return what to say of a process that named a mistake where no log holds it: a full disk takes the log too."""
    free = shutil.disk_usage(logs).free
    return f"a process ended with exit code 2 and no log in {logs} says why; {free / 1e6:,.1f} MB are free on that disk"


def new_log(path: Path) -> IO[bytes]:
    """Make the file that takes what a process says. Raises UserError where it cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {reason_of(error)}") from None


class SignsOfLife:
    """What changes on the disk while a run lives: metrics, logs, and a checkpoint that is being written.

    A process may hang without dying (a device, a file system), and all others then wait for it in a collective.
    """

    def __init__(self, run: Path, logs: Path, seconds: float) -> None:
        """seconds: without a change, after which the run counts as dead; 0: for ever."""
        self.run, self.logs, self.seconds = run, logs, seconds
        self.seen: dict[Path, int] = {}
        self.last = self.looked = time.monotonic()

    def are_missing(self) -> bool:
        now = time.monotonic()
        if not self.seconds or now - self.looked < min(LOOK_SECONDS, self.seconds / 4):
            return False
        self.looked = now
        files = [self.run / METRICS, *self.logs.glob("*.log"), *self.run.glob("checkpoints/**/*")]
        found = {path: modified(path) for path in files}
        if found != self.seen:
            self.seen, self.last = found, now
        return now - self.last > self.seconds


def modified(path: Path) -> int:
    """Return the time in nanoseconds; 0 where there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


class Supervisor:
    """Attempts until one ends well, the user interrupts, or `restarts` have failed without a new checkpoint."""

    def __init__(self, launch: Launch, run: Path, restarts: int, stall: float = 0.0) -> None:
        """stall: seconds without a sign of life after which an attempt is ended; 0: none is for that."""
        self.launch, self.run_directory, self.restarts, self.stall = launch, run, restarts, stall
        self.asked = 0

    def ask(self, number: int, frame: FrameType | None) -> None:
        # A closed terminal sends more than one SIGHUP: they are one request to save and end.
        self.asked = max(self.asked, 1) if number == signal.SIGHUP else self.asked + 1

    def run(self) -> int:
        """Return the exit code: 0 done, 130 interrupted. Raises UserError for a mistake, and when attempts are used
        up."""
        with Handlers(self.ask):
            return self.attempts()

    def attempts(self) -> int:
        failures, newest = 0, self.newest_checkpoint()
        while True:
            attempt = Attempt(self.launch.again(), self.next_logs())
            code = self.watch(attempt)
            if code == 0 or self.asked:
                return INTERRUPTED if self.asked else 0
            if code == USER_MISTAKE:
                raise UserError(attempt.complaint() or without_complaint(attempt.logs))
            reached = self.newest_checkpoint()
            failures, newest = (1 if reached != newest else failures + 1), reached
            place = reached or "the beginning"
            warn(f"a process ended with code {code} (logs in {attempt.logs})")
            if failures > self.restarts:
                raise UserError(
                    f"{self.run_directory}: gave up after {failures} failures without a new checkpoint; "
                    f"the last logs are in {attempt.logs}"
                )
            warn(f"all are stopped; starting again from {place}")

    def watch(self, attempt: Attempt) -> int:
        """Wait until an attempt has ended, by itself or stopped from here; return its exit code."""
        deadline, passed_on = None, False
        signs = SignsOfLife(self.run_directory, attempt.logs, self.stall)
        try:
            while attempt.process.poll() is None:
                attempt.look()
                attempt.show()
                if self.asked and not passed_on and (attempt.workers or attempt.launch.is_alone):
                    attempt.interrupt()
                    passed_on, deadline = True, time.monotonic() + INTERRUPT_SECONDS
                if self.asked > 1 or (deadline and time.monotonic() > deadline):
                    break
                if signs.are_missing():
                    warn(f"no sign of life for {self.stall:g} seconds")
                    break
                if not attempt.launch.is_alone and not attempt.workers_left():
                    # None was seen yet, or none is left: a failure has been told, or the scheduler may still end.
                    if attempt.has_failed():
                        break
                    if attempt.workers or self.asked:
                        deadline = deadline or time.monotonic() + SCHEDULER_SECONDS
                time.sleep(POLL_SECONDS)
        finally:
            attempt.show()
            attempt.end()
        return attempt.exit_code()

    def newest_checkpoint(self) -> str | None:
        from pangu.checkpoint.open import step_directories

        found = step_directories(self.run_directory)
        return str(found[0]) if found else None

    def next_logs(self) -> Path:
        """Return a new directory for the logs of one attempt."""
        number = 1
        while (self.launch.logs / f"start-{number:03d}").exists():
            number += 1
        return self.launch.logs / f"start-{number:03d}"
