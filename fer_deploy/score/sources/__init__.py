"""The kinds of input: each splits itself into parts, and reads a part again as blocks of rows.

A source must give the same rows for the same part each time, however often it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.score.places import Place, WalkNotes

Picture = bytes | NDArray[np.uint8] | DataError
"""A row's picture: encoded, as an array that `read_picture` takes, or why there is none."""


@dataclass(frozen=True)
class Part:
    """A piece of the input that becomes one file of the output.

    Attributes:
        file: the input file it is of, relative to the input's place; empty where it is the input itself, or where the
            part is of many files.
        first: its first row, counted from 0 within the file (or within the list of pictures).
        rows: how many; -1 where it is not known before it is read.
        size: the file's bytes when the plan was made.
        modified: its time of change then, in nanoseconds.
    """

    file: bytes = b""
    first: int = 0
    rows: int = -1
    size: int = -1
    modified: int = 0


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a part.

    Attributes:
        keys: what tells the rows apart, and the columns that are passed on: one row a picture.
        pictures: one a row.
    """

    keys: pa.Table
    pictures: list[Picture]


@dataclass(frozen=True)
class Options:
    """How the input is read.

    Attributes:
        rows_per_part: rows to a part, about: what is lost at most when a worker dies.
        block_rows: rows read, decoded and computed at a time: what memory is for.
        column: the column, or the ending of a shard's members, that holds the picture; empty finds it.
        keep: names of columns to pass on; None passes on all but the picture's.
        maximum_pixels: a picture that promises more is a bad one.
    """

    rows_per_part: int = 10_000
    block_rows: int = 512
    column: str = ""
    keep: tuple[str, ...] | None = None
    maximum_pixels: int = 80_000_000


class Source(Protocol):
    """A kind of input."""

    def parts(self, notes: WalkNotes) -> Iterator[Part]:
        """Split the input. Files that cannot be read are told in `notes.problems`, and the rest goes on."""

    def blocks(self, part: Part) -> Iterator[Block]:
        """Read a part, a bounded number of rows at a time.

        Raises:
            DataError: the part cannot be read now; a damaged row or file is no such case, but a row with an error.
        """

    def schema(self) -> pa.Schema:
        """Of the blocks' `keys`."""


def check_unchanged(place: Place, part: Part) -> None:
    """Make sure that a part's file is still what it was when the plan was made.

    Raises:
        DataError: it is gone, or has another size or time of change.
    """
    found = place.stat(part.file)
    if (found.size, found.modified) != (part.size, part.modified):
        raise DataError(f"{place.path(part.file)} has changed since the run began: use --restart to begin anew")
