"""The progress of a benchmark, on stderr, so that stdout holds the table alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def bench_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function (what, done, total) that shows one bar; nothing is shown where stderr is no terminal.

    The bar is redrawn only when it is told something: a thread that redraws it would take time from what is measured.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=1)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=max(total, 1))
            bar.refresh()

        yield show
