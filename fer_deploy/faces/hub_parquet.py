"""Read faces from Parquet files as the Hugging Face hub stores them, with polars.

A row has a picture (encoded bytes, alone or in a struct as the `datasets` library writes them, or 2,304 numbers as
text) and a label (a name, or a number that the file's metadata names). The split is a column, or is taken from the name
of the file or its folder: train-00000-of-00001.parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError, UnavailableError, install, one_line
from fer_deploy.faces.csv_table import MOST_ROWS, parse_pixels
from fer_deploy.faces.dataset import SIZE, SPLITS, Faces
from fer_deploy.faces.source import SourceFaces, label_notes
from fer_deploy.faces.splits import split_of
from fer_deploy.faces.tree import LARGEST_PICTURE, face_from_picture, resized_note
from fer_deploy.files import parse_json, shown

if TYPE_CHECKING:
    import polars

ROWS_AT_ONCE = 2048

_PICTURES = ("image", "img", "img_bytes", "image_bytes", "picture", "face", "pixels")
_LABELS = ("label", "labels", "emotion", "emotions", "expression")
_SPLITS = ("split", "usage")


@dataclass(frozen=True)
class _Columns:
    picture: str
    label: str
    split: str | None
    numbers: tuple[int, ...] | None
    """The class of each number in the label column; None if the column holds names, or numbers without names."""
    label_names: tuple[str, ...]
    """The names of the numbers in the label column; empty if there are none."""


def split_of_file(path: Path) -> str | None:
    """The split that a Parquet file's name begins with, or that its folder is named after; None if neither is one.

    >>> split_of_file(Path("data/train-00000-of-00001.parquet"))
    'training'
    """
    first_word = re.split(r"[-_.\s]", path.stem, maxsplit=1)[0]
    return split_of(path.stem) or split_of(first_word) or split_of(path.parent.name)


def sibling_files(path: Path) -> list[Path]:
    """The Parquet files that form a data set together with `path`: those of its folder whose names state a split."""
    if split_of_file(path) is None:
        return [path]
    others = path.parent.glob("*.parquet")
    return sorted(other for other in others if other.is_file() and split_of_file(other) is not None)


def read_parquet(files: Sequence[Path], name: str) -> SourceFaces:
    """The faces in Parquet files. `Faces.rows` number the rows of all files in their order.

    Args:
        files: files with a column for the split, or whose names state it.
        name: the data set's name, for errors.

    Raises:
        DataError: a file is damaged, lacks a column, or a row is not a face. The message names file and row.
        UnavailableError: polars is not installed.
    """
    try:
        import polars
    except ImportError as error:
        raise UnavailableError(f"reading Parquet needs polars, which is not installed: {install('train')}") from error
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    splits: list[int] = []
    notes: list[str] = []
    label_names: set[str] = set()
    resized = 0
    for path in files:
        try:
            schema = dict(polars.read_parquet_schema(path))
            columns = _columns(path, schema)
            rows = int(polars.scan_parquet(path).select(polars.len()).collect().item())
        except (polars.exceptions.PolarsError, OSError) as error:
            why = one_line(error, limit=120)
            raise DataError(f"{shown(path.name)} is not a readable Parquet file: {why}: get it again") from error
        if len(labels) + rows > MOST_ROWS:
            raise DataError(f"{name} has more than {MOST_ROWS:,} rows: FER2013 has 35,887")
        if columns.split is None and split_of_file(path) is None:
            raise DataError(
                f"{shown(path.name)} states no split: it has no column 'split' or 'usage', and its name does not begin "
                "with train, validation or test"
            )
        label_names.update(columns.label_names)
        if columns.numbers is None and schema[columns.label].is_numeric():
            notes.append(f"{shown(path.name)} does not name its labels: their numbers were read in FER2013's order")
        for start in range(0, rows, ROWS_AT_ONCE):
            part = _read_rows(path, columns, start)
            faces, changed = _faces(part[columns.picture].to_list(), path.name, start)
            images.append(faces)
            resized += changed
            label_names.update(value for value in part[columns.label] if isinstance(value, str))
            labels += _labels(part[columns.label], columns, path.name, start)
            splits += _splits(part, columns, path, start)
    if resized:
        notes.append(resized_note(resized))
    if not labels:
        raise DataError(f"{name} has no rows: FER2013 has 35,887")
    pixels, classes, numbers = np.concatenate(images), np.array(labels, np.int64), np.array(splits)
    del images
    rows_of = {split: np.flatnonzero(numbers == number) for number, split in enumerate(SPLITS)}
    by_split = {split: Faces(pixels[rows], classes[rows], rows) for split, rows in rows_of.items()}
    return SourceFaces(by_split, (*notes, *label_notes(label_names)))


def _read_rows(path: Path, columns: _Columns, start: int) -> polars.DataFrame:
    import polars

    names = [name for name in (columns.picture, columns.label, columns.split) if name]
    try:
        return polars.scan_parquet(path).select(names).slice(start, ROWS_AT_ONCE).collect()
    except (polars.exceptions.PolarsError, OSError) as error:
        why = one_line(error, limit=120)
        raise DataError(f"{shown(path.name)} is damaged near row {start}: {why}: get it again") from error


def _columns(path: Path, schema: dict[str, Any]) -> _Columns:
    import polars

    lower = {column.lower().strip(): column for column in schema}

    def is_picture(column: str) -> bool:
        kind = schema[column]
        inside = isinstance(kind, polars.Struct) and any(field.name == "bytes" for field in kind.fields)
        return inside or kind in (polars.Binary, polars.String)

    picture = next((lower[name] for name in _PICTURES if name in lower and is_picture(lower[name])), None)
    label = next((lower[name] for name in _LABELS if name in lower), None)
    split = next((lower[name] for name in _SPLITS if name in lower), None)
    if picture is None or label is None:
        listed = ", ".join(repr(column[:30]) for column in list(schema)[:8])
        what = "pictures ('image', 'img_bytes' or 'pixels')" if picture is None else "labels ('label' or 'emotion')"
        raise DataError(f"{shown(path.name)} has no column of {what}: its columns are {listed}")
    names = _label_names(path, label) if schema[label].is_numeric() else None
    return _Columns(picture, label, split, None if names is None else _classes(names, path), tuple(names or ()))


def _label_names(path: Path, column: str) -> list[str] | None:
    """The names of the label numbers, as the `datasets` library stores them in the file; None if it has none."""
    import polars

    text = polars.read_parquet_metadata(path).get("huggingface", "{}")
    try:
        content = parse_json(text, source=path.name, what="metadata", error=DataError)
        names = content["info"]["features"][column]["names"]
    except (DataError, LookupError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None


def _classes(names: Sequence[str], path: Path) -> tuple[int, ...]:
    classes = []
    for name in names:
        number = emotion_index(name)
        if number is None:
            raise DataError(
                f"{shown(path.name)}: its label {name[:40]!r} is none of the seven expressions ({', '.join(EMOTIONS)})"
            )
        classes.append(number)
    return tuple(classes)


def _labels(values: Iterable[object], columns: _Columns, name: str, start: int) -> list[int]:
    return [_label(value, columns, f"{shown(name)}, row {start + row}") for row, value in enumerate(values)]


def _label(value: object, columns: _Columns, where: str) -> int:
    if isinstance(value, str) and not value.strip().isdigit():
        number = emotion_index(value)
    else:
        last = len(EMOTIONS) if columns.numbers is None else len(columns.numbers)
        try:
            number = int(value) if value is not None else None  # type: ignore[call-overload]
            number = number if number is not None and 0 <= number < last and number == float(str(value)) else None
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is not None and columns.numbers is not None:
            number = columns.numbers[number]
    if number is None:
        raise DataError(f"{where}: the label {str(value)[:20]!r} is none of the seven expressions, nor 0 to 6")
    return number


def _splits(part: polars.DataFrame, columns: _Columns, path: Path, start: int) -> list[int]:
    if columns.split is None:
        split = split_of_file(path)
        return [SPLITS.index(split)] * len(part) if split is not None else []
    numbers = []
    for row, value in enumerate(part[columns.split]):
        split = split_of(str(value))
        if split is None:
            raise DataError(
                f"{shown(path.name)}, row {start + row}: the split {str(value)[:20]!r} is not train, validation or test"
            )
        numbers.append(SPLITS.index(split))
    return numbers


def _faces(values: Sequence[Any], name: str, start: int) -> tuple[NDArray[np.uint8], int]:
    faces = np.empty((len(values), SIZE, SIZE), np.uint8)
    resized = 0
    for row, value in enumerate(values):
        content = value.get("bytes") if isinstance(value, dict) else value
        where = f"{shown(name)}, row {start + row}"
        if isinstance(content, str):
            faces[row] = parse_pixels([content.encode()], name, first_row=start + row)[0]
        elif not content:
            raise DataError(f"{where} has no picture: Parquet files that only point to pictures cannot be read")
        elif len(content) > LARGEST_PICTURE:
            raise DataError(f"{where} has over {LARGEST_PICTURE >> 20} MiB: it is not a picture of a face")
        else:
            faces[row], changed = face_from_picture(content, where)
            resized += changed
    return faces, resized
