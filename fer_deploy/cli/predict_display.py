"""What `ferdeploy predict` shows on the screen: a table of results, a progress bar and notes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.console import ProgressBar, console
from fer_deploy.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from fer_deploy.reading.inputs import Source
    from fer_deploy.reading.read import Done
    from fer_deploy.reading.rows import FaceRow

TABLE_ROWS = 500
"""The table shows at most this many rows; more belong in a file."""


class ResultTable:
    """A table with one row for each face of a picture and one for each track of a video."""

    def __init__(self) -> None:
        self._faces: list[FaceRow] = []
        self._left_out = 0
        self._tracks: dict[tuple[str, int], list[FaceRow]] = {}

    def write(self, row: FaceRow) -> None:
        """Take one row."""
        if row.track is not None:
            self._tracks.setdefault((row.file, row.track), []).append(row)
        elif len(self._faces) < TABLE_ROWS:
            self._faces.append(row)
        else:
            self._left_out += 1

    def show(self) -> None:
        """Print the table on stdout."""
        screen = console()
        if self._faces:
            self._show_faces(screen)
        if self._left_out:
            screen.print(f"... and {self._left_out:,} more faces: --csv, --json or --output has them all")
        if self._tracks:
            self._show_tracks(screen)

    def _show_faces(self, screen: Console) -> None:
        from rich.markup import escape
        from rich.table import Column, Table

        table = Table(Column("picture", overflow="fold"), "face at", "label", "", "then", "")
        previous = None
        for row in self._faces:
            name = "" if row.file == previous else escape(printable(row.file))
            previous = row.file
            first, second, *_ = sorted(row.face.probabilities.items(), key=lambda pair: -pair[1])
            box = row.face.box
            place = "whole picture"
            if box is not None:
                place = f"{box.left:.0f},{box.top:.0f} {box.width:.0f}x{box.height:.0f}"
            best = f"[bold]{escape(first[0])}[/]"
            table.add_row(name, place, best, f"{first[1]:.0%}", escape(second[0]), f"{second[1]:.0%}")
        screen.print(table)

    def _show_tracks(self, screen: Console) -> None:
        from rich.markup import escape
        from rich.table import Column, Table

        table = Table(Column("video", overflow="fold"), "face", "seconds", "frames", "labels, by share of its frames")
        longest = sorted(self._tracks.items(), key=lambda item: -len(item[1]))[:TABLE_ROWS]
        for (name, track), rows in longest:
            counts: dict[str, int] = {}
            for row in rows:
                label = (row.smoothed or row.face).label
                counts[label] = counts.get(label, 0) + 1
            most = sorted(counts.items(), key=lambda pair: -pair[1])[:3]
            shares = ", ".join(f"{label} {count / len(rows):.0%}" for label, count in most)
            span = f"{rows[0].time_s or 0:.1f} to {rows[-1].time_s or 0:.1f}"
            table.add_row(escape(printable(name)), f"#{track}", span, str(len(rows)), escape(shares))
        screen.print(table)
        if len(self._tracks) > TABLE_ROWS:
            more = len(self._tracks) - TABLE_ROWS
            screen.print(f"... and {more:,} more faces of videos: --csv, --json or --output has them all")


class ReadingProgress:
    """A progress bar, where there is one, and lines of notes. Made by `reading_progress`."""

    def __init__(self, total: int, bar: ProgressBar | None) -> None:
        self._bar, self._total, self._finished = bar, total, 0

    def note(self, line: str) -> None:
        """Print one line on stderr."""
        if self._bar is not None:
            self._bar.say(line)
        else:
            click.echo(line, err=True)

    def frame(self, read: int, total: int | None) -> None:
        """A video's frame was read: `read` so far, of `total`, None if unknown."""
        if self._bar is not None:
            share = min(1.0, read / total) if total else 0.0
            self._bar.update("files", self._finished + share, self._total, note=f"frame {read:,}")

    def advance(self, done: Done) -> None:
        """A file is finished."""
        self._finished += 1
        if self._bar is not None:
            self._bar.update("files", self._finished, self._total, note=done.source.path.name[-30:])


@contextmanager
def reading_progress(sources: Sequence[Source]) -> Iterator[ReadingProgress]:
    """Show a bar where stderr is a terminal and the work is long: more than three files, or a video."""
    is_long = len(sources) > 3 or any(source.is_video for source in sources)
    if not (is_long and sys.stderr.isatty()):  # the bar needs rich, which takes longer to load than a face to read
        yield ReadingProgress(len(sources), None)
        return
    with ProgressBar() as bar:
        yield ReadingProgress(len(sources), bar)
