"""The kinds of input. Each splits itself into parts, and reads a part as blocks of rows.

A source must give the same rows for the same part every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS, label_columns
from fer_deploy.errors import DataError
from fer_deploy.folders import LeftOut
from fer_deploy.score.places import Place

OWN_COLUMNS = frozenset({"file", "row", "path", "shard", "key", "label", "probability", "error"})
"""Columns of the output, besides those of the labels' probabilities and of the input."""

InputPicture = bytes | NDArray[np.uint8] | DataError
"""A row's picture: encoded bytes, an array that `read_picture` accepts, or the reason why there is none."""


@dataclass(frozen=True)
class InputPart:
    """A piece of the input that becomes one file of the output.

    Attributes:
        file: the input file, relative to the input; empty if the input is a single file or the part spans several.
        first: the number of the first row, from 0, in the file or in the list of pictures.
        rows: number of rows; -1 if it is only known after reading.
        size: the file's size in bytes when the plan was made.
        modified: its modification time when the plan was made, in nanoseconds since 1970.
    """

    file: bytes = b""
    first: int = 0
    rows: int = -1
    size: int = -1
    modified: int = 0


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Consecutive rows of a part.

    Attributes:
        keys: the columns that identify each row, and those copied to the output; one row per picture.
        pictures: one per row.
    """

    keys: pa.Table
    pictures: list[InputPicture]


class InputSource(Protocol):
    """A kind of input."""

    def parts(self, left_out: LeftOut) -> Iterator[InputPart]:
        """Split the input. A file that cannot be read is added to `left_out.problems`; the others are still split."""

    def blocks(self, part: InputPart) -> Iterator[RowBlock]:
        """Read a part, a bounded number of rows at a time. A damaged row or file gives rows that hold a `DataError`.

        Raises:
            DataError: the part cannot be read at the moment, or its file has changed.
        """

    def schema(self) -> pa.Schema:
        """The schema of the blocks' `keys`."""


def probability_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """The output's columns of the labels' probabilities: the labels or, for one named as another column, a new name.

    >>> probability_columns(["happy", "row"])
    ('happy', 'probability_row')
    """
    return label_columns(labels, OWN_COLUMNS)


def output_name(name: str, names: Sequence[str], *, labels: Sequence[str] = EMOTIONS) -> str:
    """The output column of an input column: its name, or `input_<name>` if the output has a column of that name.

    Args:
        name: the input column.
        names: all input columns, with which the new name must not clash.
        labels: the model's labels, whose probabilities are columns too.
    """
    taken = OWN_COLUMNS.union(probability_columns(labels))
    if name not in taken:
        return name
    name = f"input_{name}"
    while name in names or name in taken:
        name = f"input_{name}"
    return name


def check_unchanged(place: Place, part: InputPart) -> None:
    """Refuse a part whose file is not the one that the plan was made from.

    Raises:
        DataError: the file is gone, or its size or modification time differs.
    """
    current = place.stat(part.file)
    if (current.size, current.modified) != (part.size, part.modified):
        raise DataError(f"{place.path(part.file)} has changed since the run began: start over with --restart")
