"""Read tables of text: Kaggle's fer2013.csv, icml_face_data.csv, and all others that have labels and pictures.

A row is a label, and pixels or the name of a file, and perhaps a split and a person. Columns are found by name
(`faces.columns`), and may be separated by commas, semicolons, tabs or |. Lines are split at the separator, which is
fast, as long as no field in quotes holds a separator or a line break; otherwise the csv module reads the table.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError, one_line
from fer_deploy.faces.columns import LABELS, PATHS, PIXELS, SPLITS, Columns, find_columns, plain_name
from fer_deploy.faces.file_sets import is_picture
from fer_deploy.faces.listing import Listing, PictureSource
from fer_deploy.faces.pixel_text import PixelReader, at_row, shown_text
from fer_deploy.faces.splits import split_of
from fer_deploy.files import parse_json

LONGEST_ROW = 1 << 20
"""Bytes that one line may have; a face of 2,304 three-digit numbers has about 9,300."""

MOST_ROWS = 2_000_000
"""Rows that a table may have. FER2013 has 35,887."""

MOST_COLUMNS = 300_000
"""Columns that a table may have: a picture of 512x512 with one column for each pixel."""

Opener = Callable[[], AbstractContextManager[tuple[IO[bytes], str]]]
"""Opens a table: yields a stream of its bytes, in UTF-8, and its name for errors."""

_AROUND = b' "\t\r\n'
_NAMES = frozenset((*LABELS, *PIXELS, *PATHS, *SPLITS))


class _QuotedError(Exception):
    """A field in quotes holds a separator or a line break: the csv module has to read the table."""


@dataclass(eq=False)
class FaceTable:
    """What a table holds, column by column.

    Attributes:
        name: the table, for errors.
        columns: which column is which.
        header: whether it has a line of names.
        labels: the labels as they are written.
        splits: the splits; None for each row of a table without splits.
        people: who is in each picture; empty without such a column.
        paths: the files of the pictures; empty for a table of pixels.
        others: the other columns, by name.
        pixels: uint8 (n, side, side) for a table of pixels, otherwise None.
        notes: how it was understood.
    """

    name: str
    columns: Columns
    header: bool
    labels: list[str] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    pixels: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    def listing(self, notes: Sequence[str] = ()) -> Listing:
        """The listing of a table of pixels."""
        if self.pixels is None:
            raise ValueError("a table of files has no pixels")
        count = len(self.labels)
        return Listing(
            self.name,
            self.labels,
            self.splits,
            [f"row {row}" for row in range(count)],
            np.arange(count),
            PictureSource.decoded(self.pixels),
            people=self.people or None,
            columns=self.others,
            fer2013_numbers=self.columns.fer2013 and self.pixels.shape[1:] == (48, 48),
            notes=(*self.notes, *notes),
        )


def read_table(opener: Opener) -> FaceTable:
    """Read a table.

    Args:
        opener: opens it; called a second time if the csv module has to read it.

    Raises:
        DataError: a column is missing, or a row is not a face. The message names the row, counted from 0 without the
            header as in `Faces.rows`, and the line, counted from 1 with the header.
    """
    for quoted in (False, True):
        try:
            with opener() as (stream, name):
                return _read(stream, name, quoted=quoted)
        except _QuotedError:
            continue
    raise AssertionError("the csv module reads every table")


def _read(stream: IO[bytes], name: str, *, quoted: bool) -> FaceTable:
    lines = _lines(stream, name)
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
    if not first.strip():
        raise DataError(
            f"{name} is empty or begins with an empty line: expected a line of column names, such as label,pixels"
        )
    if first.lstrip().startswith(b"{"):
        return _read_json_lines(chain([first], lines), name)
    separator = separator_of(first)
    records = _csv_records([first], lines, separator, name) if quoted else _split_records([first], lines, separator)
    header = [_text(each) for each in next(records)]
    if len(header) > MOST_COLUMNS:
        raise DataError(f"{name} has {len(header):,} columns: it is not a table of faces")
    has_header = not any(is_picture(each) for each in header)
    if not has_header:
        records = _csv_records([first], lines, separator, name) if quoted else _split_records([first], lines, separator)
        header = _names_without_header(header, name)
    filled = _Filler(name, header, has_header, separator.decode(), quoted=quoted)
    for record in records:
        filled.add(record)
    return filled.done()


def _read_json_lines(lines: Iterable[bytes], name: str) -> FaceTable:
    """The table in JSON Lines: one object a line, whose first one names the columns."""
    filled: _Filler | None = None
    for row, line in enumerate(line for line in lines if line.strip()):
        content = parse_json(line, source=at_row(name, row, header=False), what="object", error=DataError)
        if not isinstance(content, dict):
            raise DataError(
                f"{at_row(name, row, header=False)} is not an object: expected JSON Lines, one object a line"
            )
        filled = filled or _Filler(name, list(content), False, ",", quoted=True)
        filled.add([_json_field(content.get(column)) for column in filled.header])
    if filled is None:
        raise DataError(f"{name} has no rows")
    return filled.done()


def _json_field(value: object) -> bytes:
    if isinstance(value, list):
        return str(value).encode("utf-8", "replace")
    return b"" if value is None else str(value).encode("utf-8", "replace")


class _Filler:
    """Fills a table with records."""

    def __init__(self, name: str, header: list[str], has_header: bool, separator: str, *, quoted: bool) -> None:
        self.name, self.header, self.has_header, self.separator = name, header, has_header, separator
        self.quoted = quoted
        self.table: FaceTable | None = None
        self.pixels: PixelReader | None = None
        self.blank = False
        self.foreign = ""
        self.texts: dict[bytes, str] = {}

    def add(self, fields: list[bytes]) -> None:
        """Add a row. DataError if it is none; `_QuotedError` if the csv module has to read it."""
        if len(fields) != len(self.header):
            self._odd(fields)
            return
        if self.blank:
            raise DataError(f"{self._where()} is empty: remove the line")
        if self.table is None:
            row = [_text(each[:200]) for each in fields]
            self.table = FaceTable(self.name, find_columns(self.header, self.name, row), self.has_header)
            if self.table.columns.pixels:
                self.pixels = PixelReader(self.name, header=self.has_header)
        table, columns = self.table, self.table.columns
        if len(table.labels) == MOST_ROWS:
            raise DataError(f"{self.name} has more than {MOST_ROWS:,} rows: divide it into several data sets")
        splits = None if columns.split is None else self._split(fields[columns.split])
        table.splits.append(splits)
        if self.pixels is not None:
            self.pixels.add(
                fields[columns.pixels[0]]
                if len(columns.pixels) == 1
                else b" ".join(fields[place].strip(_AROUND) for place in columns.pixels)
            )
        if columns.path is not None:
            table.paths.append(_text(fields[columns.path]))
        if columns.person is not None:
            table.people.append(self._known(fields[columns.person]))
        if columns.count > 3 and len(columns.pixels) < 2:
            self._others(fields)
        table.labels.append(self._known(fields[columns.label]))

    def done(self) -> FaceTable:
        """The table. DataError if it has no rows."""
        if self.table is None:
            find_columns(self.header, self.name)  # its error comes first
            raise DataError(f"{self.name} has a header and no rows: expected a row for each picture")
        notes = [self.table.columns.note] if self.table.columns.note else []
        if self.pixels is not None:
            self.table.pixels, scaled = self.pixels.done()
            notes += scaled
        if self.foreign:
            example = shown_text(self.foreign.encode())
            notes.append(
                f"the table is not UTF-8: it was read as Windows-1252, such as {example}: if that is wrong, save it "
                "as UTF-8"
            )
        self.table.notes = tuple(notes)
        return self.table

    def _odd(self, fields: list[bytes]) -> None:
        if not any(each.strip() for each in fields) and len(fields) < 2:  # an empty line is harmless at the end
            self.blank = True
            return
        if not self.quoted and any(b'"' in each for each in fields):
            raise _QuotedError
        if self.table is None:
            find_columns(self.header, self.name)  # a table of another kind: its columns are the better error
        raise DataError(
            f"{self._where()} has {len(fields)} columns, not {len(self.header)}: is the file cut short, or a field "
            f"with {self.separator!r} or a line break not in quotes?"
        )

    def _where(self) -> str:
        return at_row(self.name, 0 if self.table is None else len(self.table.labels), header=self.has_header)

    def _known(self, value: bytes) -> str:
        text = self.texts.get(value)
        if text is None:
            text = self.texts[value] = _text(value)
            if not self.foreign and value.strip(_AROUND) != text.encode():
                self.foreign = text
        return text

    def _split(self, value: bytes) -> str | None:
        text = self._known(value)
        split = split_of(text)
        if split is None:
            assert self.table is not None
            column = self.table.columns.names[self.table.columns.split or 0]
            raise DataError(
                f"{self._where()}: the split {shown_text(text.encode())} is not train, validation or test (or "
                f"Training, PublicTest, PrivateTest): write one of these, or rename the column {column!r} if it is "
                "no split"
            )
        return split

    def _others(self, fields: list[bytes]) -> None:
        assert self.table is not None
        columns = self.table.columns
        used = {columns.label, columns.path, columns.split, *columns.pixels}
        for place, column in enumerate(columns.names):
            if place not in used and len(self.table.others) < 64 and column.strip():
                self.table.others.setdefault(column, []).append(self._known(fields[place][:200]))


def separator_of(line: bytes) -> bytes:
    """The separator of a table's columns, by its first line: the one that gives the most known names of columns."""

    def known(separator: bytes) -> tuple[int, int]:
        names = line.split(separator)
        return sum(plain_name(_text(each)) in _NAMES for each in names), len(names)

    best = max((b",", b";", b"\t", b"|"), key=known)
    is_list = best not in line and any(is_picture(_text(word)) for word in line.split())
    return b" " if is_list else best


def _names_without_header(row: Sequence[str], name: str) -> list[str]:
    """Names of columns for a table whose first line is a row: `a.png,happy` or `a.png,happy,train`."""
    names = ["path" if is_picture(each) else "split" if split_of(each) else "label" for each in row]
    if sorted(names) in (["label", "path"], ["label", "path", "split"]):
        return names
    raise DataError(
        f"{name} has no line of column names, and its first row ({', '.join(repr(each[:30]) for each in row[:6])}) is "
        "not a file, a label and perhaps a split: add a first line such as path,label"
    )


def _lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    while line := stream.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW:
            raise DataError(f"{name} has a line of over {LONGEST_ROW:,} bytes: it is not a table of faces")
        yield line


def _split_records(first: list[bytes], lines: Iterator[bytes], separator: bytes) -> Iterator[list[bytes]]:
    for line in chain(first, lines):
        if line.count(b'"') % 2:  # a line break in quotes
            raise _QuotedError
        yield line.split(separator)


def _csv_records(first: list[bytes], lines: Iterator[bytes], separator: bytes, name: str) -> Iterator[list[bytes]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
    texts = (line.decode("utf-8", "surrogateescape") for line in chain(first, lines))
    reader = csv.reader(texts, delimiter=separator.decode(), skipinitialspace=True)
    try:
        for record in reader:
            yield [each.encode("utf-8", "surrogateescape") for each in record] or [b""]
    except csv.Error as error:
        why = one_line(error, limit=100)
        raise DataError(f"{name}, line {reader.line_num}: {why}: is a quotation mark missing?") from error


def _text(value: bytes) -> str:
    """A field's text, without quotes and spaces around. Bytes that are not UTF-8 are read as Windows-1252."""
    value = value.strip(_AROUND)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace")


def first_row_of(stream: IO[bytes], name: str) -> tuple[list[str], list[str]]:
    """The names of a table's columns, and the beginning of its first row. DataError if it has no such lines."""
    lines = _lines(stream, name)
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
    if first.lstrip().startswith(b"{"):
        content = parse_json(first, source=name, what="object", error=DataError)
        return list(content), [_text(_json_field(value)[:200]) for value in content.values()]
    separator = separator_of(first)
    records = _csv_records([first], lines, separator, name)
    header = [_text(each) for each in next(records)]
    if any(is_picture(each) for each in header):
        return _names_without_header(header, name), header
    return header, [_text(each[:200]) for each in next(records, [])]
