"""Threads that help with the calls of compiled batches."""

import os
import threading
import weakref
from dataclasses import dataclass, field

import numpy as np

from pangu.foundation.best_effort import warn
from pangu.foundation.errors import UserError
from pangu.generation.compiled.phases import PLACES, work_on
from pangu.generation.compiled.vectors import has_code_on_disk

# Rounds that a helper waits for the next call before it sleeps: about the time in which the next token is drawn.
ROUNDS = 4000


def usable_cores() -> int:
    """Return cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class Shared:
    """What a team and its helpers tell one another. They know no team, so that one that nobody uses can end.

    call: the job of the call that runs, its number, and whoever owns the memory that the job points to.
    """

    wake: threading.Condition = field(default_factory=threading.Condition)
    call: tuple[np.ndarray, int, object] | None = None
    asleep: int = 0
    ends: bool = False


def help_out(shared: Shared, thread: int) -> None:
    """Work as a helper, as long as it lives."""
    last = 0
    while True:
        with shared.wake:
            while not shared.ends and (shared.call is None or shared.call[1] <= last):
                shared.asleep += 1
                shared.wake.wait()
                shared.asleep -= 1
            if shared.ends:
                return
            call = shared.call
        # `call` keeps the owner alive for as long as the helper looks at its memory.
        assert call is not None
        last = max(call[1] - 1, last)
        last = max(call[1], int(work_on(call[0], thread, last, ROUNDS)))
        call = None


def end(shared: Shared) -> None:
    """Let the helpers end."""
    with shared.wake:
        shared.ends = True
        shared.wake.notify_all()


def compile_once() -> None:
    """Compile with a word to the user, or fetch the machine code of an earlier process: before any text is shown."""
    if work_on.signatures:
        return
    if not has_code_on_disk(work_on):
        warn("compiling the generation engine: once on this machine, for 10 to 30 seconds")
    work_on(np.zeros(len(PLACES), np.int64), 1, 0, 0)  # a helper that waits for no time reads nothing


class Team:
    """Runs calls with helpers. A helper that gets no core in time is not waited for (`phases`)."""

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UserError(f"threads = {threads}: must be at least 1")
        compile_once()
        self.threads = threads or usable_cores()
        self.number = 0
        self.lock = threading.Lock()
        self.shared = Shared()
        self.helpers: list[threading.Thread] = []
        weakref.finalize(self, end, self.shared)

    def run(self, job: np.ndarray, owner: object) -> None:
        """Carry out one call of a job; one at a time. owner: keeps the memory that the job points to."""
        with self.lock:
            self.number += 1
            if self.threads > 1:
                self.call_helpers(job, owner)
            work_on(job, 0, self.number, 0)
            self.shared.call = None

    def call_helpers(self, job: np.ndarray, owner: object) -> None:
        """Start them at the first call, and wake those that sleep. A helper that waits for this job sees it itself."""
        self.shared.call = job, self.number, owner
        while len(self.helpers) < self.threads - 1:
            thread = len(self.helpers) + 1
            name = f"generation-{thread}"
            helper = threading.Thread(target=help_out, args=(self.shared, thread), daemon=True, name=name)
            self.helpers.append(helper)
            helper.start()
        if self.shared.asleep:
            with self.shared.wake:
                self.shared.wake.notify_all()
