"""Read faces from a comma-separated table: Kaggle's fer2013.csv, icml_face_data.csv, and others like them.

A row is a label (0 to 6), 2,304 grey values separated by spaces, and the split ("Training", "PublicTest" or
"PrivateTest"). The columns are found by name, in any order, and a fault is reported with its row. Numbers are read by
numpy, a few hundred rows at a time: 301 MB in about a second on one core.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import SIZE, SPLITS, Faces

PIXELS = SIZE * SIZE
ROWS_AT_ONCE = 256
LONGEST_ROW = 1 << 20
"""Bytes that one row may have; a face of 2,304 three-digit numbers has about 9,300."""

SPLIT_OF_USAGE = {"training": 0, "publictest": 1, "privatetest": 2}


@dataclass(frozen=True)
class _Columns:
    emotion: int
    pixels: int
    usage: int
    count: int


def read_table(stream: BinaryIO, name: str) -> dict[str, Faces]:
    """The faces of each split of a comma-separated table.

    Args:
        stream: the table's bytes, already unpacked.
        name: how the table is called in errors.

    Raises:
        DataError: a column is missing, or a row is not a face; the message names the row, counted from 0 without the
            header as in `Faces.rows`, and the line, counted from 1 with it.
    """
    lines = _lines(stream, name)
    header = next(lines, None)
    if header is None:
        raise DataError(f"{name} is empty; FER2013's table begins with emotion,pixels,Usage")
    columns = _columns(header, name)
    emotions: list[int] = []
    usages: list[int] = []
    images: list[NDArray[np.uint8]] = []
    waiting: list[bytes] = []
    row = 0
    for line in lines:
        fields = line.split(b",")
        if len(fields) != columns.count:
            if not line.strip():
                raise DataError(f"{_at(name, row)} is blank; remove it")
            raise DataError(f"{_at(name, row)} has {len(fields)} columns, not {columns.count}; is the file cut short?")
        emotions.append(_label(fields[columns.emotion], name, row))
        usages.append(_usage(fields[columns.usage], name, row))
        waiting.append(fields[columns.pixels].strip(b' "\t\r\n'))
        row += 1
        if len(waiting) == ROWS_AT_ONCE:
            images.append(_images(waiting, name, row - len(waiting)))
            waiting = []
    if waiting:
        images.append(_images(waiting, name, row - len(waiting)))
    if not images:
        raise DataError(f"{name} has a header and no rows; FER2013 has 35,887")
    pixels, labels, splits = np.concatenate(images), np.array(emotions, np.int64), np.array(usages)
    return {
        split: Faces(pixels[at], labels[at], at)
        for number, split in enumerate(SPLITS)
        for at in [np.flatnonzero(splits == number)]
    }


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    while line := stream.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW:
            raise DataError(f"{name} has a line of over {LONGEST_ROW:,} bytes; it is not a table of 48x48 faces")
        yield line


def _columns(header: bytes, name: str) -> _Columns:
    names = [
        field.strip(b' "\t\r\n').lower().decode("utf-8", "replace")
        for field in header.removeprefix(b"\xef\xbb\xbf").split(b",")
    ]
    for wanted in ("emotion", "pixels", "usage"):
        if names.count(wanted) != 1:
            shown = ", ".join(repr(column[:40]) for column in names[:8])
            raise DataError(
                f"{name} has {'no' if wanted not in names else 'more than one'} column {wanted!r} in its first line ({shown}); "
                "FER2013's table begins with emotion,pixels,Usage"
            )
    return _Columns(names.index("emotion"), names.index("pixels"), names.index("usage"), len(names))


def _label(field: bytes, name: str, row: int) -> int:
    text = field.strip(b' "\t\r\n')
    if len(text) == 1 and 48 <= text[0] < 48 + len(EMOTIONS):
        return text[0] - 48
    raise DataError(f"{_at(name, row)}: the label {_shown(text)} is not 0 to {len(EMOTIONS) - 1}")


def _usage(field: bytes, name: str, row: int) -> int:
    text = field.strip(b' "\t\r\n').decode("utf-8", "replace")
    split = SPLIT_OF_USAGE.get(text.lower())
    if split is None:
        raise DataError(f"{_at(name, row)}: the split {text[:40]!r} is not Training, PublicTest or PrivateTest")
    return split


def _images(texts: list[bytes], name: str, first_row: int) -> NDArray[np.uint8]:
    values = _numbers(b" ".join(texts) + b" ", len(texts) * PIXELS)
    counts_right = values is not None and all(text.count(b" ") == PIXELS - 1 for text in texts)
    if values is None or not counts_right:  # look closer: find the fault, or take rows that are written otherwise
        values = np.concatenate([_row(text, name, first_row + number) for number, text in enumerate(texts)])
    return values.reshape(-1, SIZE, SIZE)


def _numbers(text: bytes, count: int) -> NDArray[np.uint8] | None:
    """`count` numbers 0 to 255, each of one to three digits and followed by one space; None if it is anything else."""
    padded = np.frombuffer(b"   " + text, np.uint8)
    digits = padded - np.uint8(48)  # a space becomes 240
    is_digit = digits < 10
    if np.count_nonzero(padded == 32) + np.count_nonzero(is_digit) != len(padded):
        return None
    ends = np.flatnonzero(is_digit[3:-1] > is_digit[4:]) + 3  # the last digit of each number
    if len(ends) != count or len(text) == 0 or np.count_nonzero(padded[3:] == 32) != count:
        return None
    ones, tens, hundreds, thousands = digits[ends], digits[ends - 1], digits[ends - 2], is_digit[ends - 3]
    two = tens < 10
    three = two & (hundreds < 10)
    if (three & thousands).any():
        return None
    over = three & ((hundreds > 2) | ((hundreds == 2) & ((tens > 5) | ((tens == 5) & (ones > 5)))))
    if over.any():
        return None
    return ones + two * (tens * np.uint8(10)) + three * (hundreds * np.uint8(100))


def _row(text: bytes, name: str, row: int) -> NDArray[np.uint8]:
    words = text.split()
    if len(words) != PIXELS:
        raise DataError(f"{_at(name, row)} has {len(words):,} pixels, not {PIXELS:,} (48x48)")
    for place, word in enumerate(words):
        if not re.fullmatch(rb"[0-9]{1,3}", word) or int(word) > 255:
            raise DataError(f"{_at(name, row)}: pixel {place} is {_shown(word)}, not a whole number 0 to 255")
    return np.array([int(word) for word in words], np.uint8)


def _shown(text: bytes) -> str:
    return repr(text[:20].decode("utf-8", "replace"))


def _at(name: str, row: int) -> str:
    return f"{name}, row {row} (line {row + 2})"
