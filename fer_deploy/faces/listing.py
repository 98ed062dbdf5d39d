"""What every reader of a data set returns: what a source holds, before anything is decided about it.

A reader finds pictures, their labels as the source writes them, and the splits that the source states. `faces.load`
turns a `Listing` into a `Dataset` in one place: it understands the labels, draws missing splits and decodes pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_deploy.folders import LeftOut


@dataclass(frozen=True, eq=False)
class PictureSource:
    """The pictures of a listing: decoded pixels, or encoded pictures that are read one at a time.

    Attributes:
        count: the number of pictures.
        pixels: uint8 (count, height, width), or None for encoded pictures.
        read: returns the bytes of encoded picture i; several threads call it at once. DataError if picture i is damaged
            or cannot be read: `faces.load` collects these and reports all of them. None for decoded pixels.
    """

    count: int
    pixels: NDArray[np.uint8] | None = None
    read: Callable[[int], bytes] | None = None

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.read is None):
            raise ValueError("a picture source has either pixels or a function that reads pictures")
        if self.pixels is not None and len(self.pixels) != self.count:
            raise ValueError(f"{self.count} pictures are stated, and {len(self.pixels)} are here")

    @classmethod
    def decoded(cls, pixels: NDArray[np.uint8]) -> PictureSource:
        """Pictures that are pixels already, uint8 (n, height, width)."""
        return cls(len(pixels), pixels=pixels)

    @classmethod
    def encoded(cls, count: int, read: Callable[[int], bytes]) -> PictureSource:
        """`count` pictures in files of any format; `read(i)` returns the bytes of one."""
        return cls(count, read=read)


@dataclass(frozen=True, eq=False)
class Listing:
    """The rows of a source. All sequences have one entry for each picture.

    Attributes:
        name: the file or folder, for reports and errors.
        labels: each picture's label as the source writes it: a word, or the digits of a number.
        splits: "training", "validation" or "test", or None where the source states no split.
        places: where each picture is, for errors: a relative file name with /, or "row 12". Persons are recognised by
            file names.
        rows: int64 (n,), the row (from 0, header not counted) or file number of each picture in its source.
        pictures: the pixels, or how to read them.
        people: who is in each picture, if the source tells: a person's pictures stay in one split.
        columns: other columns of a table, as text, by name, for `--split by=NAME`; empty for folders.
        declared: the classes in order, if the source declares them (the ClassLabel names of a Parquet file).
        fer2013_numbers: whether labels are numbers in FER2013's order for certain, as in FER2013's own table.
        votes: uint8 (n, 10) FER+ votes in the order of `VOTE_NAMES`, or None.
        notes: how the source was understood, one sentence each.
        left_out: what was left out, counted by reason.
    """

    name: str
    labels: Sequence[str]
    splits: Sequence[str | None]
    places: Sequence[str]
    rows: NDArray[np.int64]
    pictures: PictureSource
    people: Sequence[str] | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    declared: tuple[str, ...] | None = None
    fer2013_numbers: bool = False
    votes: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)

    def __post_init__(self) -> None:
        lengths = {
            "labels": len(self.labels), "splits": len(self.splits), "places": len(self.places), "rows": len(self.rows),
            "pictures": self.pictures.count, **{name: len(column) for name, column in self.columns.items()},
        }  # fmt: skip
        if self.people is not None:
            lengths["people"] = len(self.people)
        if self.votes is not None:
            lengths["votes"] = len(self.votes)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a listing have different lengths: {lengths}")

    def __len__(self) -> int:
        return self.pictures.count


@dataclass(frozen=True, eq=False)
class Found:
    """A data set that was found but not read.

    Attributes:
        name: the file or folder.
        read: lists what it holds.
        key: returns a hash of the content, which identifies what `read` returns with all its pictures. It is a function
            because it may read everything. None: the key is computed from the listing and the bytes of its pictures.
        table: the file that is or holds the table, for FER+ votes beside it; None for pictures and Parquet.
        notes: what the search left out, one sentence each.
    """

    name: str
    read: Callable[[], Listing]
    key: Callable[[], str] | None = None
    table: Path | None = None
    notes: tuple[str, ...] = ()
