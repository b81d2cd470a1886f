"""Threads that share out the tasks of one phase of a step."""

import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Phase:
    """Tasks that may run at once; each thread takes the next one that nobody has, so a thread without a core costs
    little. What a task computes does not depend on who does it."""

    work: Callable
    tasks: Sequence[tuple]
    numbers: Iterator[int] = field(default_factory=itertools.count)
    error: BaseException | None = None

    def take_part(self, thread: int) -> None:
        """Do tasks until none is left."""
        try:
            while (number := next(self.numbers)) < len(self.tasks):
                self.work(thread, *self.tasks[number])
        except BaseException as error:
            self.error = error


def help_out(orders: queue.SimpleQueue, done: queue.SimpleQueue, thread: int) -> None:
    """Work as a helper until the order None comes."""
    while (phase := orders.get()) is not None:
        phase.take_part(thread)
        del phase
        done.put(thread)


def end(orders: Sequence[queue.SimpleQueue]) -> None:
    """Let the helpers end."""
    for one in orders:
        one.put(None)


class Crew:
    """The calling thread and its helpers."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.times: dict[str, list[float]] = {}  # of each kind of phase, "part/kernel": how often, seconds
        self.done: queue.SimpleQueue = queue.SimpleQueue()
        self.orders: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in range(threads - 1)]
        for number, orders in enumerate(self.orders, 1):
            arguments = (orders, self.done, number)
            threading.Thread(target=help_out, args=arguments, daemon=True, name=f"training-{number}").start()
        weakref.finalize(self, end, self.orders)

    def run(self, name: str, work: Callable, tasks: Sequence[tuple]) -> None:
        """Call work(thread, *task) for every task, and return when all are done. name: of this kind of phase."""
        if not tasks:
            return
        began = time.perf_counter()
        phase = Phase(work, tasks)
        helpers = min(self.threads, len(tasks)) - 1
        for orders in self.orders[:helpers]:
            orders.put(phase)
        phase.take_part(0)
        for _ in range(helpers):
            self.done.get()
        if phase.error is not None:
            raise phase.error
        calls = self.times.setdefault(name, [0, 0.0])
        calls[0] += 1
        calls[1] += time.perf_counter() - began
