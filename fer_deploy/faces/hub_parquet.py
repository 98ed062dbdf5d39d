"""Read faces from Parquet files as the Hugging Face hub stores them, with polars.

A row has a picture (encoded bytes, alone or in a struct as the `datasets` library writes them; a file's name; or pixels
as text, as lists or in one column each) and a label (a name, or a number that the file's metadata names). The split is
a column, or is taken from the name of the file or its folder: train-00000-of-00001.parquet, default/train/0000.parquet.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_deploy.errors import DataError, UnavailableError, install, one_line, printable
from fer_deploy.faces.columns import LABELS, PATHS, PEOPLE, PICTURES, SPLITS, SURE_SPLITS, pixel_columns, plain_name
from fer_deploy.faces.containers import what_it_is
from fer_deploy.faces.csv_table import MOST_ROWS
from fer_deploy.faces.file_sets import LARGEST_PICTURE, FileSet, folder_files
from fer_deploy.faces.levels import split_in
from fer_deploy.faces.listing import Listing, PictureSource
from fer_deploy.faces.path_tables import Finder
from fer_deploy.faces.pixel_text import PixelReader
from fer_deploy.faces.splits import split_of
from fer_deploy.files import open_regular, parse_json, shown
from fer_deploy.folders import LeftOut

if TYPE_CHECKING:
    import polars

BLOCK_BYTES = 32 << 20
"""About so many bytes of pictures are read at a time."""

MOST_BLOCKS = 4
"""Blocks of pictures that stay in memory, for threads that read neighbouring rows."""

_UNLABELLED = -1
"""The number that the `datasets` library gives rows without a label, as in the test splits of contests."""


@dataclass(frozen=True)
class _File:
    """A Parquet file and which of its columns is which."""

    path: Path
    rows: int
    picture: str
    """The column of pictures; the first of them where each pixel has its own."""
    pixels: tuple[str, ...]
    """The columns of single pixels, in their order; empty where `picture` holds whole pictures."""
    label: str
    split: str | None
    person: str | None
    class_names: tuple[str, ...] | None
    """The names of the numbers in the label column; None if it holds names, or numbers without names."""

    @property
    def fer2013(self) -> bool:
        """Whether these are the columns of FER2013's own table."""
        usage = self.split is None or plain_name(self.split) == "usage"
        return plain_name(self.label) == "emotion" and plain_name(self.picture) == "pixels" and usage

    @cached_property
    def block(self) -> int:
        """How many rows are read at a time."""
        return int(np.clip(BLOCK_BYTES // max(1, self.path.stat().st_size // max(1, self.rows)), 16, 4096))


def split_of_file(path: Path) -> str | None:
    """The split in a Parquet file's name or its folder's name; None if neither states one.

    >>> split_of_file(Path("data/train-00000-of-00001.parquet"))
    'training'
    >>> split_of_file(Path("default/partial-test/0000.parquet"))
    'test'
    """
    # Only plain names of folders: what lies above a file that is named may have any name.
    return _split_of_stem(path) or split_of(path.parent.name.removeprefix("partial-"))


def _split_of_stem(path: Path) -> str | None:
    return split_in(re.sub(r"-?[0-9]+-of-[0-9]+.*", "", path.stem))


def sibling_files(path: Path) -> list[Path]:
    """The Parquet files that form a data set together with `path`, by their names or their folders' names."""
    if split_of_file(path) is None:
        return [path]
    others = path.parent.glob("*.parquet") if _split_of_stem(path) else path.parent.parent.glob("*/*.parquet")
    return sorted(other for other in others if other.is_file() and split_of_file(other) is not None)


def list_parquet(files: Sequence[Path], name: str) -> Listing:
    """The listing of Parquet files. `Listing.rows` number the rows of all files in their order.

    Args:
        files: the files of one data set.
        name: the data set's name, for errors.

    Raises:
        DataError: a file is damaged or lacks a column, or a row is not a face. The message names file and row.
        UnavailableError: polars is not installed.
    """
    described = [_describe(path) for path in files]
    total = sum(file.rows for file in described)
    if total > MOST_ROWS:
        raise DataError(f"{name} has more than {MOST_ROWS:,} rows: divide it into several data sets")
    if not total:
        raise DataError(f"{name} has no rows: expected a row for each picture")
    left_out = LeftOut()
    kept: list[tuple[int, int]] = []
    labels: list[str] = []
    splits: list[str | None] = []
    people: list[str] = []
    for number, file in enumerate(described):
        values = _read(file, [file.label, *filter(None, (file.split, file.person))], 0, file.rows)
        of_rows = _splits(file, values)
        for row, value in enumerate(values[file.label].to_list()):
            label = _label(value, file, row)
            if label is None:
                left_out.counts["rows without a label"] += 1
                continue
            kept.append((number, row))
            labels.append(label)
            splits.append(of_rows[row])
            if file.person:
                people.append(str(values[file.person][row]))
    if not labels:
        raise DataError(f"{name}: none of its {total:,} rows has a label (all are empty or -1)")
    starts = np.cumsum([0, *(file.rows for file in described)])
    names = {file.class_names for file in described}
    declared = next(iter(names)) if len(names) == 1 else None
    return Listing(
        name,
        labels,
        splits,
        [f"{shown(described[number].path.name)}, row {row}" for number, row in kept],
        np.array([starts[number] + row for number, row in kept], np.int64),
        _pictures(described, kept),
        people=people if len(people) == len(labels) else None,
        declared=declared,
        fer2013_numbers=all(file.fer2013 for file in described),
        notes=(_note(described, declared),),
        left_out=left_out,
    )


def _note(files: Sequence[_File], declared: Sequence[str] | None) -> str:
    first = files[0]
    names = "names from the file's metadata" if declared else "its values"
    split = f"column {first.split!r}" if first.split else "the files' names" if split_of_file(first.path) else "none"
    return (
        f"Parquet columns were read as pictures from {printable(first.picture)!r} and labels from "
        f"{printable(first.label)!r} ({names}); splits: {printable(split)}"
    )


def _polars() -> Any:
    try:
        import polars
    except ImportError as error:
        raise UnavailableError(f"reading Parquet needs polars, which is not installed: {install('train')}") from error
    return polars


def _describe(path: Path) -> _File:
    polars = _polars()
    with open_regular(path, what="data set") as file:
        kind = what_it_is(file.read(512))
    if kind is not None:
        raise DataError(f"{shown(path.name)} is {kind}")
    try:
        schema = dict(polars.read_parquet_schema(path))
        rows = int(polars.scan_parquet(path).select(polars.len()).collect().item())
    except (polars.exceptions.PolarsError, OSError) as error:
        why = one_line(error, limit=120)
        raise DataError(f"{shown(path.name)} is not a readable Parquet file: {why}: get it again") from error
    plain = {plain_name(column): column for column in reversed(schema)}
    pixels = tuple(list(schema)[place] for place in pixel_columns(list(schema)))
    wanted = [plain[each] for each in PICTURES if each in plain and _holds_pictures(schema[plain[each]])]
    wanted += [plain[each] for each in PATHS if each in plain and schema[plain[each]] == polars.String]
    wanted += [column for column, kind in schema.items() if isinstance(kind, polars.Struct) and _holds_pictures(kind)]
    labels = [plain[each] for each in LABELS if each in plain and plain[each] not in wanted[:1]]
    if not labels or not (wanted or pixels):
        listed = ", ".join(repr(printable(column)[:30]) for column in list(schema)[:8])
        what = "labels ('label' or 'emotion')" if not labels else "pictures ('image', 'img_bytes', 'pixels' or 'path')"
        raise DataError(f"{shown(path.name)} has no column of {what}: its columns are {listed}")
    split = next((plain[each] for each in SPLITS if each in plain), None)
    if split is not None and plain_name(split) not in SURE_SPLITS and schema[split] != polars.String:
        split = None
    return _File(
        path,
        rows,
        pixels[0] if pixels else wanted[0],
        pixels,
        labels[0],
        split,
        next((plain[each] for each in PEOPLE if each in plain), None),
        _class_names(path, labels[0]) if schema[labels[0]].is_integer() else None,
    )


def _holds_pictures(kind: Any) -> bool:
    """Whether a column of this type can hold pictures."""
    polars = _polars()
    if isinstance(kind, polars.Struct):
        return bool({"bytes", "path"} & {field.name for field in kind.fields})
    return kind in (polars.Binary, polars.String) or isinstance(kind, polars.List | polars.Array)


def _class_names(path: Path, column: str) -> tuple[str, ...] | None:
    """The names of the label numbers, as the `datasets` library stores them in the file; None if it has none."""
    text = _polars().read_parquet_metadata(path).get("huggingface", "{}")
    try:
        content = parse_json(text, source=path.name, what="metadata", error=DataError)
        names = content["info"]["features"][column]["names"]
    except (DataError, LookupError, TypeError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def _read(file: _File, columns: Sequence[str], start: int, count: int) -> polars.DataFrame:
    module = _polars()
    try:
        rows: polars.DataFrame = module.scan_parquet(file.path).select(list(columns)).slice(start, count).collect()
    except (module.exceptions.PolarsError, OSError) as error:
        why = one_line(error, limit=120)
        raise DataError(f"{shown(file.path.name)} is damaged near row {start}: {why}: get it again") from error
    return rows


def _label(value: object, file: _File, row: int) -> str | None:
    """A row's label as text, a number by its name; None where the row has none."""
    where = f"{shown(file.path.name)}, row {row}"
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (file.class_names is not None and value == _UNLABELLED):
        return None
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float) and not value.is_integer():
        raise DataError(f"{where}: the label {value} is neither a word nor a whole number")
    if not isinstance(value, int | float):
        raise DataError(f"{where}: the label is a {type(value).__name__}: expected a word or a number")
    if file.class_names is None:
        return str(int(value))
    if not 0 <= value < len(file.class_names):
        names = ", ".join(map(printable, file.class_names[:12]))
        raise DataError(f"{where}: the label {value} is not 0 to {len(file.class_names) - 1} ({names})")
    return file.class_names[int(value)]


def _splits(file: _File, values: polars.DataFrame) -> list[str | None]:
    if file.split is None:
        return [split_of_file(file.path)] * file.rows
    texts = [str(value) for value in values[file.split].to_list()]
    splits = {text: split_of(text) for text in set(texts)}
    if plain_name(file.split) not in SURE_SPLITS and None in splits.values():
        return [split_of_file(file.path)] * file.rows
    for row, text in enumerate(texts):
        if splits[text] is None:
            raise DataError(
                f"{shown(file.path.name)}, row {row}: the split {text[:20]!r} is not train, validation or test"
            )
    return [splits[text] for text in texts]


def _pictures(files: Sequence[_File], kept: Sequence[tuple[int, int]]) -> PictureSource:
    """The pictures of the rows that are kept: decoded where they are text, otherwise read when they are needed."""
    blocks = _Blocks(files)
    first = blocks.value(*kept[0])
    if files[0].pixels or (isinstance(first, str) and re.match(r"[\s\[(]*[0-9.]+[\s,]", first)):
        pixels = PixelReader(shown(files[0].path.name))
        for number, row in kept:
            value = blocks.value(number, row)
            pixels.add(str(value).encode("utf-8", "replace"))
        return PictureSource.decoded(pixels.done()[0])

    def read(place: int) -> bytes:
        number, row = kept[place]
        file = files[number]
        return _encoded(blocks.value(number, row), f"{shown(file.path.name)}, row {row}", blocks.file(number))

    return PictureSource.encoded(len(kept), read)


class _Blocks:
    """Reads values of pictures a block of rows at a time; threads may share it."""

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = files
        self._blocks: OrderedDict[tuple[int, int], list[Any]] = OrderedDict()
        self._beside: dict[Path, tuple[FileSet, Finder]] = {}
        self._lock = threading.Lock()

    def value(self, number: int, row: int) -> Any:
        """The value of a row's picture column; text of all values where each pixel has its own column."""
        file = self._files[number]
        key = number, row // file.block
        with self._lock:
            if key not in self._blocks:
                frame = _read(file, file.pixels or [file.picture], key[1] * file.block, file.block)
                values = (
                    [" ".join(map(str, row)) for row in frame.rows()] if file.pixels else frame[file.picture].to_list()
                )
                self._blocks[key] = values
                if len(self._blocks) > MOST_BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(key)
            return self._blocks[key][row % file.block]

    def file(self, number: int) -> Callable[[str], bytes | None]:
        """Reads a picture by its name beside a Parquet file; gives None if it is not there."""
        folder = self._files[number].path.parent

        def read(name: str) -> bytes | None:
            with self._lock:
                if folder not in self._beside:
                    files = folder_files(folder)
                    self._beside[folder] = files, Finder(files)
                files, find = self._beside[folder]
            found = find(name, "", split_of_file(self._files[number].path))
            return None if found is None else files.picture(found)

        return read


def _encoded(value: Any, where: str, beside: Callable[[str], bytes | None]) -> bytes:
    """The bytes of an encoded picture, whatever form the row has it in."""
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, str):
        content = _from_base64(content)
    if isinstance(content, list):
        return _from_lists(content, where)
    if not content and path:
        content = beside(str(path))
        if content is None:
            raise DataError(f"{where} has no picture, only the name {shown(str(path))[:80]}, and no such file is there")
    if not content:
        raise DataError(f"{where} has no picture")
    if len(content) > LARGEST_PICTURE:
        raise DataError(f"{where} has over {LARGEST_PICTURE >> 20} MiB: it is not a picture of a face")
    return bytes(content)


def _from_base64(text: str) -> bytes | None:
    """The bytes in a text of base64, with or without `data:image/png;base64,` before it; None for other texts."""
    if len(text) < 64:
        return None
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_lists(value: list[Any], where: str) -> bytes:
    """A picture of nested lists of 0 to 255, (h, w), (h, w, 3), (3, h, w) or flat and square, as a PNM file."""
    try:
        array = np.array(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: its lists are no picture: rows of different lengths, or no numbers") from error
    side = int(np.sqrt(array.size))
    if array.ndim == 1 and side * side == array.size:
        array = array.reshape(side, side)
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, 2)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if not array.size or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise DataError(f"{where}: lists of the shape {array.shape} are no picture: expected (height, width)")
    scaled = array * 255 if array.max() <= 1 and (array != np.rint(array)).any() else array
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 255):
        raise DataError(f"{where}: its pixels lie from {array.min():g} to {array.max():g}: expected 0 to 255")
    height, width = scaled.shape[:2]
    return (
        b"P%d %d %d 255\n" % (5 if array.ndim == 2 else 6, width, height) + np.rint(scaled).astype(np.uint8).tobytes()
    )


def configurations(files: Sequence[Path]) -> Counter[str]:
    """The folders above the splits (`default/train/0000.parquet`), each with its number of files."""
    return Counter(file.parent.parent.name for file in files if split_in(file.parent.name) is not None)
