"""Work on many pictures in threads, in order, with progress, and with little of it in memory at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fer_deploy.machine import available_cores

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the number of items that are done, and their total."""

Result = TypeVar("Result")

AT_ONCE = 16
"""Pictures that one thread works on before it takes others: few enough for progress, enough to hide the hand-over."""


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


def in_order(
    work: Callable[[int], Result], count: int, *, what: str, progress: Progress = no_progress
) -> Iterator[Result]:
    """`work(0)` to `work(count - 1)`, computed in one thread a core, a few of them ahead.

    An error of `work`, Ctrl-C, or the end of the caller's loop cancels what has not begun.

    Args:
        work: computes one result. Several threads call it at once.
        count: how many results there are.
        what: what is done, for `progress`.
        progress: called after each few results.
    """
    threads = available_cores()
    starts = iter(range(0, count, AT_ONCE))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    def some(start: int) -> list[Result]:
        return [work(number) for number in range(start, min(start + AT_ONCE, count))]

    try:
        waiting: deque[Future[list[Result]]] = deque()
        done = 0
        progress(what, 0, count)
        while True:
            while len(waiting) < 2 * threads and (start := next(starts, None)) is not None:
                waiting.append(pool.submit(some, start))
            if not waiting:
                return
            results = waiting.popleft().result()
            yield from results
            done += len(results)
            progress(what, done, count)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
