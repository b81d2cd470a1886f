"""Work on a stream of items in several processes."""

import collections
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pangu.errors import UserError

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[State, Item], Result], state: State, items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """`function(state, item)` for each item, in the order of the items, by so many processes (1: by this one).

    `state` is sent to each process once. The items are taken as results are asked for, a few ahead, so that memory does
    not grow with their number. The processes start afresh (spawn): the caller may have threads.
    """
    if processes == 1:
        yield from (function(state, item) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_remember, initargs=(function, state))
    try:
        waiting: collections.deque[Future[Result]] = collections.deque()
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError("a worker process died, killed or out of memory; fewer processes need less memory") from None
    finally:
        pool.shutdown(cancel_futures=True)


_work: tuple[Callable[[Any, Any], Any], Any]


def _remember(function: Callable[[Any, Any], Any], state: Any) -> None:
    # an interrupt from the keyboard reaches the parent too, which stops the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _work
    _work = function, state


def _call(item: Any) -> Any:
    function, state = _work
    return function(state, item)
