"""Parquet files: one column holds the picture, one row is one face.

Files are read a bounded number of rows at a time, whatever the size of their row groups. A file is split between row
groups. A large row group is split as well; each piece then has to read past the rows before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError, one_line, printable
from fer_deploy.files import shown
from fer_deploy.folders import LeftOut
from fer_deploy.score.options import InputOptions
from fer_deploy.score.places import Entry, Place
from fer_deploy.score.sources import InputPart, InputPicture, RowBlock, check_unchanged, output_name

SUFFIXES = (b".parquet", b".pq")
"""Endings of Parquet files."""

_USUAL_NAMES = ("image", "img", "picture", "photo", "face", "jpg", "jpeg", "png", "bytes", "content", "pixels")
_HELD_BYTES = 32 * 1024 * 1024
_ROWS_PER_BYTE = 1000
"""Honest files have fewer rows per byte: writers begin a new page after a million rows at most."""

_LISTED_COLUMNS = 20

_MOST_PIECES = 16
"""Pieces of one row group. Each piece reads past the rows before it, so the cost grows with the square of this."""


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files in a folder, or one file.

    Attributes:
        place: the input.
        options: how to read.
        labels: the model's labels, whose columns the output has.
    """

    place: Place
    options: InputOptions
    labels: tuple[str, ...] = EMOTIONS

    def parts(self, left_out: LeftOut) -> Iterator[InputPart]:
        """Split each file by its footer."""
        first: tuple[bytes, pa.Schema] | None = None
        for entry in self._entries(left_out):
            try:
                with self._open(entry.name) as file:
                    schema, groups = file.schema_arrow, _rows_of_groups(file)
                    self._refuse_claims(entry, groups)
            except DataError as error:
                left_out.problems.append(str(error))
                continue
            if first is None:
                first = entry.name, schema
                self._picture_column(schema)  # a wrong option stops the run here, before any row is read
                self._kept(schema)
            elif self._columns(first[1]) != self._columns(schema):
                name, other = shown(self.place.path(entry.name)), shown(self.place.path(first[0]))
                left_out.problems.append(f"{name}: its columns differ from those of {other}: score it separately")
                continue
            for start, rows in _pieces(groups, self.options.rows_per_part):
                yield InputPart(entry.name, start, rows, entry.size, entry.modified)

    def blocks(self, part: InputPart) -> Iterator[RowBlock]:
        """Read a part's rows. If the file is damaged, the remaining rows of the part hold the error."""
        check_unchanged(self.place, part)
        name = shown(part.file or self.place.address.rpartition("/")[2])
        done = 0
        try:
            with self._open(part.file) as file:
                picture, kept = self._picture_column(file.schema_arrow), self._kept(file.schema_arrow)
                convert = _converter(file.schema_arrow.field(picture))
                for batch in self._batches(file, part, [picture, *kept]):
                    keys = self._keys(name, part.first + done, batch.select(kept))
                    pictures = convert(batch.column(picture))
                    done += batch.num_rows
                    yield RowBlock(keys, pictures)
        except (pa.ArrowException, OSError) as error:
            check_unchanged(self.place, part)  # a file that was just replaced only looks damaged
            yield from self._damaged(name, part, done, f"the file is damaged here: {one_line(error)}")

    def schema(self) -> pa.Schema:
        """`file`, `row` (from 0, in the file), and the copied columns as the first readable file has them."""
        left_out = LeftOut()
        for entry in self._entries(left_out):
            try:
                with self._open(entry.name) as file:
                    empty = file.schema_arrow.empty_table()
                    return self._keys("", 0, empty.select(self._kept(file.schema_arrow))).schema
            except DataError:
                continue
        raise DataError(f"{self.place}: holds no readable Parquet file")

    def _refuse_claims(self, entry: Entry, groups: Sequence[int]) -> None:
        """Refuse a footer that claims rows which the file cannot hold. Each would become a row about damage."""
        if min(groups, default=0) < 0 or (entry.size >= 0 and sum(groups) > entry.size * _ROWS_PER_BYTE):
            name = shown(self.place.path(entry.name))
            raise DataError(f"{name}: damaged: it claims {sum(groups):,} rows in {entry.size:,} bytes")

    def _entries(self, left_out: LeftOut) -> Iterator[Entry]:
        if self.place.kind() == "file":
            yield self.place.stat(b"")
            return
        yield from self.place.walk(SUFFIXES, left_out)

    @contextmanager
    def _open(self, name: bytes) -> Iterator[pq.ParquetFile]:
        with self.place.open(name) as stream:
            try:
                # Without a buffer, pyarrow reads a whole column chunk at once, however large it is.
                file = pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
            except (pa.ArrowException, OSError) as error:
                where = shown(self.place.path(name))
                raise DataError(f"{where}: not a Parquet file, or damaged: {one_line(error)}") from error
            with file:
                names = file.schema_arrow.names
                if len(set(names)) < len(names):
                    raise DataError(f"{shown(self.place.path(name))}: two columns have the same name")
                yield file

    def _batches(self, file: pq.ParquetFile, part: InputPart, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The part's rows, a block at a time: whole row groups are read, and rows outside the part are skipped."""
        start, skip = 0, 0
        numbers: list[int] = []
        bytes_per_row = 1.0
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            if start < part.first + part.rows and start + group.num_rows > part.first:
                if not numbers:
                    skip = part.first - start
                numbers.append(number)
                bytes_per_row = max(bytes_per_row, group.total_byte_size / max(1, group.num_rows))
            start += group.num_rows
        rows = max(1, min(self.options.block_rows, int(_HELD_BYTES / bytes_per_row)))
        left = part.rows
        for batch in file.iter_batches(batch_size=rows, row_groups=numbers, columns=list(columns), use_threads=False):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            batch = batch.slice(skip, left)
            skip = 0
            left -= batch.num_rows
            yield batch
            if not left:
                return
        if left:
            raise pa.ArrowInvalid(f"{left} rows are missing")

    def _keys(self, name: str, row: int, kept: pa.RecordBatch | pa.Table) -> pa.Table:
        count = kept.num_rows
        columns = {"file": pa.array([name] * count, pa.string()), "row": pa.array(range(row, row + count), pa.int64())}
        for field, column in zip(kept.schema, kept.columns, strict=True):
            columns[output_name(field.name, kept.schema.names, labels=self.labels)] = column
        return pa.table(columns)

    def _damaged(self, name: str, part: InputPart, done: int, why: str) -> Iterator[RowBlock]:
        schema = self.schema()
        for start in range(done, part.rows, self.options.block_rows):
            count = min(self.options.block_rows, part.rows - start)
            rows = pa.array(range(part.first + start, part.first + start + count), pa.int64())
            columns = [pa.array([name] * count, pa.string()), rows]
            columns += [pa.nulls(count, field.type) for field in list(schema)[2:]]
            yield RowBlock(pa.table(columns, names=schema.names), [DataError(why)] * count)

    def _picture_column(self, schema: pa.Schema) -> str:
        named = self.options.column
        if named:
            if named not in schema.names:
                raise DataError(f"{self.place}: no column {named!r}, only {_listed(schema.names)}: see --column")
            if _converter_of(schema.field(named)) is None:
                raise DataError(f"{self.place}: column {named!r} is {schema.field(named).type}, not pictures")
            return named
        names: list[str] = [field.name for field in schema if _is_picture(field)]
        if len(names) > 1:
            names = [name for name in names if name.lower() in _USUAL_NAMES] or names
        if len(names) != 1:
            which = f"each of {_listed(names)} may be" if names else f"none of {_listed(schema.names)} seems to be"
            raise DataError(f"{self.place}: {which} the column of pictures: name it with --column")
        return names[0]

    def _kept(self, schema: pa.Schema) -> list[str]:
        picture = self._picture_column(schema)
        if self.options.keep is None:
            return [name for name in schema.names if name != picture]
        missing = [name for name in self.options.keep if name not in schema.names]
        if missing:
            raise DataError(f"{self.place}: no column {_listed(missing)}, only {_listed(schema.names)}: see --keep")
        return list(self.options.keep)

    def _columns(self, schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
        try:
            picture = self._picture_column(schema)
            return [(picture, pa.null()), *((name, schema.field(name).type) for name in self._kept(schema))]
        except DataError:
            return []


def _listed(names: Sequence[str]) -> str:
    """Names of columns for a message. They may hold control characters, and there may be thousands."""
    listed = ", ".join(printable(name)[:60] for name in names[:_LISTED_COLUMNS])
    return listed + ", …" * (len(names) > _LISTED_COLUMNS)


def _rows_of_groups(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]


def _pieces(groups: Sequence[int], rows_per_part: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of each part of a file, from the number of rows in each of its row groups."""
    start, rows = 0, 0
    for group in groups:
        if rows and rows + group > rows_per_part:
            yield start, rows
            start, rows = start + rows, 0
        if group > rows_per_part:
            count = min(_MOST_PIECES, math.ceil(group / rows_per_part))
            size = math.ceil(group / count)
            for offset in range(0, group, size):
                yield start + offset, min(size, group - offset)
            start += group
        else:
            rows += group
    if rows:
        yield start, rows


Converter = Callable[[pa.Array], list[InputPicture]]


def _is_picture(field: pa.Field) -> bool:
    kind = field.type
    if _is_struct(kind) or _is_binary(kind):
        return True
    if field.name.lower() not in _USUAL_NAMES:
        return False
    return _converter_of(field) is not None


def _is_struct(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _converter(field: pa.Field) -> Converter:
    converter = _converter_of(field)
    if converter is None:
        raise DataError(f"column {field.name!r} is {field.type}, not pictures")
    return converter


def _converter_of(field: pa.Field) -> Converter | None:
    kind = field.type
    if _is_binary(kind):
        return lambda column: [_encoded(value) for value in column.to_pylist()]
    if _is_struct(kind):  # Hugging Face's Image feature: {bytes, path}
        return lambda column: [_encoded(value and value["bytes"]) for value in column.to_pylist()]
    if isinstance(kind, pa.FixedShapeTensorType) and pa.types.is_integer(kind.value_type):
        shape = tuple(kind.shape)
        return lambda column: [_array(value, shape) for value in _rows(column.storage)]
    inner = kind
    depth = 0
    while _is_list(inner):
        inner, depth = inner.value_type, depth + 1
    if depth and pa.types.is_integer(inner):
        return lambda column: [_array(value, None) for value in _rows(column)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return lambda column: [_written(value) for value in column.to_pylist()]
    return None


def _rows(column: pa.Array) -> Iterator[Any]:
    for value in column:
        if not value.is_valid:
            yield None
        elif _is_list(value.type.value_type):
            yield value.as_py()
        else:
            yield value.values.to_numpy(zero_copy_only=False)


def _encoded(value: bytes | None) -> InputPicture:
    return DataError("the row has no picture (null)") if value is None else value


def _array(value: Any, shape: tuple[int, ...] | None) -> InputPicture:
    if value is None:
        return DataError("the row has no picture (null)")
    try:
        pixels = np.asarray(value)
    except ValueError:
        return DataError("lists of unequal lengths, not a picture")
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "iu" or (pixels.size and (pixels.min() < 0 or pixels.max() > 255)):
            return DataError("values that are not whole numbers from 0 to 255, not a picture")
        pixels = pixels.astype(np.uint8)
    if shape is not None:
        return pixels.reshape(shape)
    return _square(pixels) if pixels.ndim == 1 else pixels


def _square(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> InputPicture:
    side = math.isqrt(pixels.size)
    if side and side * side == pixels.size:
        return pixels.reshape(side, side)
    side = math.isqrt(pixels.size // 3)
    if side and side * side * 3 == pixels.size:
        return pixels.reshape(side, side, 3)
    return DataError(f"{pixels.size} values, which is not a square picture, grey or RGB")


def _written(value: str | None) -> InputPicture:
    """Grey values written as text, as in FER2013's table."""
    if value is None:
        return DataError("the row has no picture (null)")
    try:
        return _array(np.array(value.split(), np.int64), None)
    except (ValueError, OverflowError):
        return DataError("text that is not numbers separated by spaces, not a picture")
