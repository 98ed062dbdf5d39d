"""Read faces from a comma-separated table: Kaggle's fer2013.csv, icml_face_data.csv, and others like them.

A row is a label (0 to 6), 2,304 grey values separated by spaces, and the split ("Training", "PublicTest" or
"PrivateTest"). Columns are found by name, in any order, and errors name the row. numpy parses the numbers, a few
hundred rows at a time: 301 MB in about two seconds on one core.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import SIZE, SPLITS, Faces
from fer_deploy.faces.source import SourceFaces
from fer_deploy.faces.splits import split_of

PIXELS = SIZE * SIZE
ROWS_AT_ONCE = 256
LONGEST_ROW = 1 << 20
"""Bytes that one row may have; a face of 2,304 three-digit numbers has about 9,300."""

MOST_ROWS = 2_000_000
"""Rows that a table may have: 4.6 GB of pixels. FER2013 has 35,887."""

_AROUND = b' "\t\r\n'


@dataclass(frozen=True)
class _Columns:
    emotion: int
    pixels: int
    usage: int
    count: int


def read_table(stream: IO[bytes], name: str) -> SourceFaces:
    """The faces of each split of a comma-separated table.

    Args:
        stream: the table's bytes, already unpacked.
        name: the table's name, for errors.

    Raises:
        DataError: a column is missing, or a row is not a face. The message names the row, counted from 0 without the
            header as in `Faces.rows`, and the line, counted from 1 with the header.
    """
    lines = _lines(stream, name)
    header = next(lines, b"")
    if not header.strip():
        raise DataError(
            f"{name} is empty or begins with an empty line: FER2013's table begins with emotion,pixels,Usage"
        )
    columns = _columns(header, name)
    emotions: list[int] = []
    usages: list[int] = []
    images: list[NDArray[np.uint8]] = []
    waiting: list[bytes] = []
    blank = False
    for line in lines:
        fields = line.split(b",")
        row = len(emotions)
        if blank and line.strip():
            raise DataError(f"{at_row(name, row)} is empty: remove the line")
        if len(fields) != columns.count:
            if not line.strip():  # an empty line is harmless at the end
                blank = True
                continue
            raise DataError(
                f"{at_row(name, row)} has {len(fields)} columns, not {columns.count}: is the file cut short?"
            )
        emotions.append(_label(fields[columns.emotion], name, row))
        usages.append(_split(fields[columns.usage], name, row))
        waiting.append(fields[columns.pixels].strip(_AROUND))
        if len(waiting) == ROWS_AT_ONCE:
            images.append(parse_pixels(waiting, name, first_row=row + 1 - ROWS_AT_ONCE))
            waiting = []
        if row == MOST_ROWS:
            raise DataError(f"{name} has more than {MOST_ROWS:,} rows: FER2013 has 35,887")
    if waiting:
        images.append(parse_pixels(waiting, name, first_row=len(emotions) - len(waiting)))
    if not images:
        raise DataError(f"{name} has a header and no rows: FER2013 has 35,887")
    pixels, labels, splits = np.concatenate(images), np.array(emotions, np.int64), np.array(usages)
    del images
    rows = {split: np.flatnonzero(splits == number) for number, split in enumerate(SPLITS)}
    return SourceFaces({split: Faces(pixels[here], labels[here], here) for split, here in rows.items()})


def parse_pixels(texts: Sequence[bytes], name: str, *, first_row: int) -> NDArray[np.uint8]:
    """Faces uint8 (len(texts), 48, 48) from texts of 2,304 numbers 0 to 255, separated by spaces.

    DataError names the row, counted from `first_row`, of the first text that is anything else.
    """
    values = None
    if all(text.count(b" ") == PIXELS - 1 for text in texts):
        values = _numbers(b" ".join(texts) + b" ", len(texts) * PIXELS)
    if values is None:  # slower: find the fault, or accept rows that are written in another way (000, two spaces)
        values = np.concatenate([_row(text, name, first_row + number) for number, text in enumerate(texts)])
    return values.reshape(-1, SIZE, SIZE)


def at_row(name: str, row: int) -> str:
    """A row's name in errors: its number, from 0 without the header, and its line, from 1 with the header."""
    return f"{name}, row {row} (line {row + 2})"


def _lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    while line := stream.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW:
            raise DataError(f"{name} has a line of over {LONGEST_ROW:,} bytes: it is not a table of 48x48 faces")
        yield line


def _columns(header: bytes, name: str) -> _Columns:
    fields = header.removeprefix(b"\xef\xbb\xbf").split(b",")
    names = [field.strip(_AROUND).lower().decode("utf-8", "replace") for field in fields]
    for needed in ("emotion", "pixels", "usage"):
        if names.count(needed) != 1:
            listed = ", ".join(repr(column[:30]) for column in names[:6])
            raise DataError(
                f"{name} has {'two columns' if needed in names else 'no column'} {needed!r} in its first line, only "
                f"{listed}: FER2013's table begins with emotion,pixels,Usage"
            )
    return _Columns(names.index("emotion"), names.index("pixels"), names.index("usage"), len(names))


def _label(field: bytes, name: str, row: int) -> int:
    text = field.strip(_AROUND)
    if len(text) == 1 and 48 <= text[0] < 48 + len(EMOTIONS):
        return text[0] - 48
    raise DataError(f"{at_row(name, row)}: the label {_shown(text)} is not 0 to {len(EMOTIONS) - 1}")


def _split(field: bytes, name: str, row: int) -> int:
    text = field.strip(_AROUND)
    split = split_of(text[:40].decode("utf-8", "replace"))
    if split is None:
        raise DataError(f"{at_row(name, row)}: the split {_shown(text)} is not Training, PublicTest or PrivateTest")
    return SPLITS.index(split)


def _numbers(text: bytes, count: int) -> NDArray[np.uint8] | None:
    """`count` numbers 0 to 255, each of one to three digits and followed by one space; None for any other text.

    All numbers are computed at once from their digits, found backwards from the last digit of each. A loop over numbers
    in Python would take minutes for FER2013.
    """
    padded = np.frombuffer(b"   " + text, np.uint8)
    digits = padded - np.uint8(48)  # a space becomes 240
    is_digit = digits < 10
    if np.count_nonzero(padded == 32) + np.count_nonzero(is_digit) != len(padded):
        return None
    ends = np.flatnonzero(is_digit[3:-1] > is_digit[4:]) + 3  # the last digit of each number
    if len(ends) != count or len(text) - np.count_nonzero(is_digit) != count:
        return None
    ones, tens, hundreds, fourth = digits[ends], digits[ends - 1], digits[ends - 2], is_digit[ends - 3]
    two = tens < 10
    three = two & (hundreds < 10)
    over = (hundreds > 2) | ((hundreds == 2) & ((tens > 5) | ((tens == 5) & (ones > 5))))
    if (three & (fourth | over)).any():
        return None
    values: NDArray[np.uint8] = ones + two * (tens * np.uint8(10)) + three * (hundreds * np.uint8(100))
    return values


def _row(text: bytes, name: str, row: int) -> NDArray[np.uint8]:
    words = text.split()
    if len(words) != PIXELS:
        raise DataError(f"{at_row(name, row)} has {len(words):,} pixels, not {PIXELS:,} (48x48)")
    for place, word in enumerate(words):
        if not re.fullmatch(rb"[0-9]{1,3}", word) or int(word) > 255:
            raise DataError(f"{at_row(name, row)}: pixel {place} is {_shown(word)}, not a whole number 0 to 255")
    return np.array([int(word) for word in words], np.uint8)


def _shown(text: bytes) -> str:
    return repr(text[:20].decode("utf-8", "replace"))
