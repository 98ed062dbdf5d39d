"""What every command prints with: one console, one progress bar, and durations and counts as text.

Only `report_console`, `console` and `ProgressBar` load rich, and only when they are called: `--help` stays fast.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from fer_deploy.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120
"""Columns of a table where the output is not a terminal."""


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints numbers and paths without colours of its own.

    Args:
        stderr: print to stderr instead of stdout.
        width: columns; by default those of the terminal.
    """
    from rich.console import Console

    class CommandConsole(Console):
        """A console that leaves a broken pipe to `errors.error_line`; rich's own exits with code 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return CommandConsole(stderr=stderr, width=width, highlight=False)


def report_console() -> Console:
    """A console for tables: as wide as the terminal or $COLUMNS, else `PLAIN_WIDTH` columns."""
    plain = console()
    return plain if plain.is_terminal or "COLUMNS" in os.environ else console(width=PLAIN_WIDTH)


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(42), duration(192), duration(3720)
    ('42 s', '3 min 12 s', '1 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short_count(count: int) -> str:
    """A count in at most four characters.

    >>> short_count(340_000), short_count(4_010_000), short_count(80_000_000)
    ('340k', '4.0M', '80M')
    """
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M" if count < 10_000_000 else f"{count / 1e6:.0f}M"


class ProgressBar:
    """One line that shows what is being done, a bar, a count, a rate and the time left; it vanishes at the end.

    Nothing is drawn where the output is neither a terminal nor a notebook. Use it as a context manager::

        with ProgressBar() as bar:
            for number, photo in enumerate(photos, 1):
                ...
                bar.update("photos", number, len(photos))
    """

    def __init__(self, *, stderr: bool = True, redraw_alone: bool = True) -> None:
        """Prepare the bar.

        Args:
            stderr: draw on stderr, so that stdout holds results alone.
            redraw_alone: redraw ten times a second from a thread. False redraws at each update only, so that the
                thread takes no time from what is being measured.
        """
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console(stderr=stderr)
        # In a notebook, rich draws with ipywidgets, and warns at every step where they are not installed.
        self.visible = self.console.is_terminal and not (self.console.is_jupyter and find_spec("ipywidgets") is None)
        self._redraw_alone = redraw_alone
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            auto_refresh=redraw_alone,
            disable=not self.visible,
        )
        self._task = self._progress.add_task("", total=None, count="", note="")
        self._total: float | None = None
        self._done = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def update(self, description: str, done: float, total: float | None, *, note: str | None = None) -> None:
        """Show how far the work is.

        Args:
            description: what is being done.
            done: how much of it is done; fractions are allowed.
            total: how much there is; None where that is unknown.
            note: replaces the rate, where the caller knows a better one than `done` a second.
        """
        if not self.visible:
            return
        if total != self._total or done < self._done:  # another piece of work: the old rate does not apply to it
            self._progress.reset(self._task)
            self._progress.tasks[0].total = total
        self._total, self._done = total, done
        count = f"{done:,.0f}" if total is None else f"{done:,.0f}/{total:,.0f}"
        self._progress.update(self._task, description=printable(description), completed=done, count=count)
        speed = self._progress.tasks[0].speed
        rate = note if note is not None else f"{speed:,.1f}/s" if speed else ""
        self._progress.update(self._task, note=printable(rate))
        if not self._redraw_alone:
            self._progress.refresh()

    def say(self, line: str) -> None:
        """Print a line above the bar, or where it would be; control characters in it are escaped."""
        self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


@contextmanager
def step_progress(*, stderr: bool = True, redraw_alone: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function (what, done, total) that moves a `ProgressBar`, for code that knows nothing of terminals."""
    with ProgressBar(stderr=stderr, redraw_alone=redraw_alone) as bar:
        yield bar.update
