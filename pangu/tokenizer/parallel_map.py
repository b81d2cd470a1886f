"""Work on a stream of items in several processes."""

import collections
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

from pangu.foundation.errors import UserError

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[State, Item], Result], state: State, items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """Yield `function(state, item)` for each item, in the order of the items, by so many processes (1: by this one).

    `state` is sent to each process once. The items are taken as results are asked for, a few ahead, so that memory does
    not grow with their number. The processes start afresh (spawn): the caller may have threads.
    """
    if processes == 1:
        yield from (function(state, item) for item in items)
        return
    # imported here: a single process does not need them, and they take longer than the rest of a short call
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

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
