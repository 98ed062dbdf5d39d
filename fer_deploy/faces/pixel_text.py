"""Grey values written as text: "70 80 82 ...", as FER2013's table has them, and the other ways that people write them.

numpy parses plain numbers, a few hundred rows at a time: 301 MB in about two seconds on one core.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.faces.store import SIZE

PIXELS = SIZE * SIZE
"""Grey values of a face of FER2013."""

ROWS_AT_ONCE = 256

MOST_PIXELS = 2_000_000 * PIXELS
"""Bytes of pixels that a table may have: 4.6 GB, two million faces of 48x48."""

SMALLEST, LARGEST = 8, 512
"""Pixels that a side of a picture in a table may have."""

_AROUND = b" \"'\t\r\n[](){}"
_SEPARATORS = bytes.maketrans(b",;\t\r\n[]()", b"         ")


class PixelReader:
    """Collects texts of grey values, and parses them a few hundred at a time.

    Every text must have as many values as the first one, a square number. Values are whole numbers 0 to 255, or all
    lie from 0 to 1 and are multiplied by 255.
    """

    def __init__(self, name: str, *, header: bool = True) -> None:
        """`name` is the table's, for errors; `header`: whether it has a line of names, for the numbers of lines."""
        self._name, self._header = name, header
        self._waiting: list[bytes] = []
        self._parts: list[NDArray[np.uint8]] = []
        self._count = self._rows = 0
        self._scaled: list[int] = []

    def add(self, text: bytes) -> None:
        """Add a picture's text. DataError if it, or one before it, is not a picture."""
        text = text.strip(_AROUND)
        if b"," in text or b";" in text or b"[" in text or b"(" in text:
            text = b" ".join(text.translate(_SEPARATORS).split())
        if not self._count:
            self._count = self._count_of(text)
        self._waiting.append(text)
        if len(self._waiting) == ROWS_AT_ONCE:
            self._parse()

    def done(self) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """The pictures, uint8 (n, side, side), and notes. DataError if values from 0 to 1 and to 255 are mixed."""
        self._parse()
        if not self._parts:
            return np.empty((0, SIZE, SIZE), np.uint8), ()
        pixels, self._parts = np.concatenate(self._parts), []
        side = math.isqrt(self._count)
        if not self._scaled:
            return pixels.reshape(-1, side, side), ()
        whole = np.ones(len(pixels), bool)
        whole[self._scaled] = False
        if len(above := np.flatnonzero(whole & (pixels.max(axis=1) > 1))):
            raise DataError(
                f"{at_row(self._name, int(above[0]), header=self._header)} has pixels from 0 to 255, and row "
                f"{self._scaled[0]} from 0 to 1: they must be of one kind"
            )
        pixels[whole] *= 255
        return pixels.reshape(-1, side, side), ("pixels from 0 to 1 were multiplied by 255",)

    def _count_of(self, text: bytes) -> int:
        count = len(text.split())
        side = round(math.sqrt(count))
        if side * side == count and SMALLEST <= side <= LARGEST:
            return count
        side = side if SMALLEST <= side <= LARGEST else SIZE
        raise DataError(
            f"{at_row(self._name, 0, header=self._header)} has {count:,} pixels, not {side * side:,} ({side}x{side})"
        )

    def _parse(self) -> None:
        if not self._waiting:
            return
        first = self._rows
        self._rows += len(self._waiting)
        if self._rows * self._count > MOST_PIXELS:
            raise DataError(
                f"{self._name} has more than {MOST_PIXELS // self._count:,} rows: save the pictures as files"
            )
        values = None
        if all(text.count(b" ") == self._count - 1 for text in self._waiting):
            values = _numbers(b" ".join(self._waiting) + b" ", len(self._waiting) * self._count)
        if values is None:  # slower: find the fault, or accept rows that are written in another way (000, two spaces)
            values = np.concatenate([self._row(text, first + place) for place, text in enumerate(self._waiting)])
        self._parts.append(values.reshape(-1, self._count))
        self._waiting = []

    def _row(self, text: bytes, row: int) -> NDArray[np.uint8]:
        where = at_row(self._name, row, header=self._header)
        words = text.split()
        side = math.isqrt(self._count)
        if len(words) != self._count:
            raise DataError(f"{where} has {len(words):,} pixels, not {self._count:,} ({side}x{side})")
        values = np.zeros(self._count)
        for place, word in enumerate(words):
            if not re.fullmatch(rb"[0-9]{1,3}|[0-9]{0,3}\.[0-9]*(?:e-?[0-9]{1,2})?", word) or word == b".":
                raise DataError(f"{where}: pixel {place} is {shown_text(word)}, not a whole number 0 to 255")
            values[place] = float(word)
        if (whole := values == np.rint(values)).all() and values.max() <= 255:
            return values.astype(np.uint8)
        if values.max() <= 1:
            self._scaled.append(row)
            return np.rint(values * 255).astype(np.uint8)
        place = int(np.flatnonzero(~whole | (values > 255))[0])
        raise DataError(f"{where}: pixel {place} is {shown_text(words[place])}, not a whole number 0 to 255")


def parse_pixels(texts: Sequence[bytes], name: str) -> NDArray[np.uint8]:
    """Faces uint8 (len(texts), side, side) from texts of numbers. DataError as `PixelReader`."""
    reader = PixelReader(name)
    for text in texts:
        reader.add(text)
    return reader.done()[0]


def at_row(name: str, row: int, *, header: bool = True) -> str:
    """A row's name in errors: its number, from 0 without the header, and its line, from 1 with the header."""
    return f"{name}, row {row} (line {row + 1 + header})"


def shown_text(text: bytes) -> str:
    """The beginning of a field, in quotes, for an error."""
    return repr(text[:20].decode("utf-8", "replace"))


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
