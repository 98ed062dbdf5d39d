"""Read faces from parquet files as the Hugging Face hub stores them, with polars.

A row has a picture (its encoded bytes, alone or in a struct as the `datasets` library writes them, or 2,304 numbers as
a text) and a label (a name, or a number that the file's own metadata names). The split is a column, or the beginning of
the file's or its folder's name: train-00000-of-00001.parquet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError, UnavailableError, install
from fer_deploy.faces.dataset import SIZE, SPLITS, Faces
from fer_deploy.faces.reading import Reading
from fer_deploy.faces.splits import split_of
from fer_deploy.faces.table import MOST_ROWS, parse_pixels
from fer_deploy.faces.tree import LARGEST_PICTURE, face_from_picture

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
    names: tuple[int, ...] | None
    """The class of each number in the label column; None where the column holds names, or FER2013's numbers."""


def split_of_file(path: Path) -> str | None:
    """The split that a parquet file's name begins with, or that its folder is named after; None without either.

    >>> split_of_file(Path("data/train-00000-of-00001.parquet"))
    'training'
    """
    first_word = re.split(r"[-_.\s]", path.stem, maxsplit=1)[0]
    return split_of(path.stem) or split_of(first_word) or split_of(path.parent.name)


def sibling_files(path: Path) -> list[Path]:
    """The parquet files that make up a data set together with `path`: those of its folder that name their split."""
    if split_of_file(path) is None:
        return [path]
    return sorted(other for other in path.parent.glob("*.parquet") if split_of_file(other) is not None)


def read_parquet(files: Sequence[Path], name: str) -> Reading:
    """The faces of the splits that parquet files hold; `Faces.rows` count all files' rows in their order.

    Args:
        files: one file with a column for the split, or files whose names say it.
        name: how the data set is called in errors.

    Raises:
        DataError: a file is damaged, lacks a column, or a row is no face; the message names file and row.
        UnavailableError: polars is not installed.
    """
    try:
        import polars
    except ImportError as error:
        raise UnavailableError(
            f"reading parquet needs polars, which is not installed; get it with {install('train')}"
        ) from error
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    splits: list[int] = []
    notes: list[str] = []
    resized = 0
    for path in files:
        try:
            schema = dict(polars.read_parquet_schema(path))
            columns = _columns(path, schema)
            rows = int(polars.scan_parquet(path).select(polars.len()).collect().item())
        except (polars.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"{path.name} is no parquet file that can be read ({_one_line(error)}); get it again"
            ) from error
        if len(labels) + rows > MOST_ROWS:
            raise DataError(f"{name} has more than {MOST_ROWS:,} rows; FER2013 has 35,887")
        if columns.split is None and split_of_file(path) is None:
            raise DataError(
                f"{path.name} says for no row in which split it is: it has no column 'split' or 'usage', and its name "
                "does not begin with train, validation or test"
            )
        if columns.names is None and schema[columns.label].is_numeric():
            notes.append(f"{path.name} does not name its labels; their numbers were taken in FER2013's order")
        wanted = [each for each in (columns.picture, columns.label, columns.split) if each]
        for start in range(0, rows, ROWS_AT_ONCE):
            try:
                part = polars.scan_parquet(path).select(wanted).slice(start, ROWS_AT_ONCE).collect()
            except (polars.exceptions.PolarsError, OSError) as error:
                raise DataError(
                    f"{path.name} is damaged near row {start} ({_one_line(error)}); get it again"
                ) from error
            faces, changed = _faces(part[columns.picture].to_list(), path.name, start)
            images.append(faces)
            resized += changed
            labels += [
                _label(value, columns, f"{path.name}, row {start + row}")
                for row, value in enumerate(part[columns.label])
            ]
            splits += _splits(part, columns, path, start)
    if resized:
        notes.append(f"{resized:,} pictures of another size were resized to {SIZE}x{SIZE}")
    if not labels:
        raise DataError(f"{name} has no rows; FER2013 has 35,887")
    pixels, classes, numbers = np.concatenate(images), np.array(labels, np.int64), np.array(splits)
    del images
    found = {split: np.flatnonzero(numbers == number) for number, split in enumerate(SPLITS)}
    return Reading({split: Faces(pixels[here], classes[here], here) for split, here in found.items()}, tuple(notes))


def _columns(path: Path, schema: dict[str, Any]) -> _Columns:
    import polars

    lower = {column.lower().strip(): column for column in schema}

    def is_picture(column: str) -> bool:
        kind = schema[column]
        inside = isinstance(kind, polars.Struct) and any(field.name == "bytes" for field in kind.fields)
        return inside or kind in (polars.Binary, polars.String)

    picture = next((lower[each] for each in _PICTURES if each in lower and is_picture(lower[each])), None)
    label = next((lower[each] for each in _LABELS if each in lower), None)
    split = next((lower[each] for each in _SPLITS if each in lower), None)
    if picture is None or label is None:
        shown = ", ".join(repr(column[:30]) for column in list(schema)[:8])
        what = "pictures ('image', 'img_bytes' or 'pixels')" if picture is None else "labels ('label' or 'emotion')"
        raise DataError(f"{path.name} has no column of {what}; its columns are {shown}")
    names = _label_names(path, label) if schema[label].is_numeric() else None
    return _Columns(picture, label, split, names)


def _label_names(path: Path, column: str) -> tuple[int, ...] | None:
    """The class of each label number, by the names that the `datasets` library keeps in the file; None without them."""
    import polars

    try:
        metadata = json.loads(polars.read_parquet_metadata(path).get("huggingface", "{}"))
        names = metadata["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    classes = [emotion_index(str(name)) for name in names]
    unknown = [str(name) for name, number in zip(names, classes, strict=True) if number is None]
    if unknown:
        raise DataError(
            f"{path.name}: its label {unknown[0][:40]!r} is none of the seven expressions ({', '.join(EMOTIONS)})"
        )
    return tuple(number for number in classes if number is not None)


def _label(value: object, columns: _Columns, where: str) -> int:
    if isinstance(value, str) and not value.strip().isdigit():
        number = emotion_index(value)
    else:
        last = len(EMOTIONS) if columns.names is None else len(columns.names)
        try:
            number = int(value) if value is not None else None  # type: ignore[call-overload]
            number = number if number is not None and 0 <= number < last and number == float(str(value)) else None
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is not None and columns.names is not None:
            number = columns.names[number]
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
                f"{path.name}, row {start + row}: the split {str(value)[:20]!r} is not train, validation or test"
            )
        numbers.append(SPLITS.index(split))
    return numbers


def _faces(values: Sequence[Any], name: str, start: int) -> tuple[NDArray[np.uint8], int]:
    faces = np.empty((len(values), SIZE, SIZE), np.uint8)
    resized = 0
    for row, value in enumerate(values):
        content = value.get("bytes") if isinstance(value, dict) else value
        where = f"{name}, row {start + row}"
        if isinstance(content, str):
            faces[row] = parse_pixels([content.encode()], name, first_row=start + row)[0]
        elif not content:
            raise DataError(f"{where} has no picture; parquet files that only point to pictures cannot be read")
        elif len(content) > LARGEST_PICTURE:
            raise DataError(f"{where} has over {LARGEST_PICTURE >> 20} MiB; it is no picture of a face")
        else:
            faces[row], changed = face_from_picture(content, where)
            resized += changed
    return faces, resized


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
