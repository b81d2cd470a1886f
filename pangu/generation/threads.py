"""Threads that help with the calls of compiled batches."""

import os
import threading
from typing import TYPE_CHECKING

from pangu.foundation.errors import UserError
from pangu.generation.compiled_step import work_on

if TYPE_CHECKING:
    import numpy as np

# Rounds that a helper waits for the next call before it sleeps: about the time in which the next token is drawn.
ROUNDS = 4000


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Team:
    """Runs calls with helpers. A helper that gets no core in time is not waited for (`compiled_step`)."""

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UserError(f"threads = {threads}: must be at least 1")
        self.threads = threads or usable_cores()
        self.number = 0
        self.job: np.ndarray | None = None
        self.wake = threading.Condition()
        self.lock = threading.Lock()
        self.helpers: list[threading.Thread] = []
        self.asleep = 0

    def run(self, job: "np.ndarray") -> None:
        """Carry out one call of a job; one at a time."""
        with self.lock:
            self.number += 1
            self.job = job
            if self.threads > 1:
                self.call_helpers()
            work_on(job, 0, self.number, 0)

    def call_helpers(self) -> None:
        """Start them at the first call, and wake those that sleep."""
        while len(self.helpers) < self.threads - 1:
            thread = len(self.helpers) + 1
            helper = threading.Thread(target=self.help, args=(thread,), daemon=True, name=f"generation-{thread}")
            self.helpers.append(helper)
            helper.start()
        if self.asleep:
            with self.wake:
                self.wake.notify_all()

    def help(self, thread: int) -> None:
        """What a helper does all its life."""
        last = 0
        while True:
            job = self.job
            last = max(last, int(work_on(job, thread, last, ROUNDS)))
            with self.wake:
                if self.job is job and self.number <= last:
                    self.asleep += 1
                    self.wake.wait()
                    self.asleep -= 1
