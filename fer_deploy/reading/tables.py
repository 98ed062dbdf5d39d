"""Write rows as JSON lines, CSV or Parquet, one at a time, so that memory use does not grow with their number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

from fer_deploy.errors import UnavailableError, install, json_line
from fer_deploy.files import replacing
from fer_deploy.reading.rows import FaceRow, as_json, as_values, columns

FORMATS: dict[str, str] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
"""The format for each ending of an output file."""

_ROW_GROUP = 50_000  # rows of Parquet held in memory: about 10 MB


class RowWriter(Protocol):
    """Writes rows in the order of the calls."""

    def write(self, row: FaceRow) -> None:
        """Write one row."""
        ...


class JsonWriter:
    """One JSON object per line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: FaceRow) -> None:
        """Write one row and flush it, so that the reader of a pipe gets it at once."""
        self._file.write(json_line(as_json(row)) + "\n")
        self._file.flush()


class CsvWriter:
    """CSV (RFC 4180) with a header line; cells of columns that do not apply are empty."""

    def __init__(self, file: IO[str], labels: Sequence[str], *, video: bool) -> None:
        self._file, self._labels, self._video = file, labels, video
        self._writer = csv.DictWriter(file, list(columns(labels, video=video)), lineterminator="\r\n")
        self._writer.writeheader()

    def write(self, row: FaceRow) -> None:
        """Write one row and flush it."""
        self._writer.writerow(as_values(row, self._labels, video=self._video))
        self._file.flush()


class ParquetWriter:
    """Parquet through pyarrow, in row groups."""

    def __init__(self, file: BinaryIO, labels: Sequence[str], *, video: bool) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UnavailableError(f"Parquet needs pyarrow: {install('video')}") from error
        kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
        self._labels, self._video = labels, video
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns(labels, video=video).items()])
        self._pyarrow = pyarrow
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, row: FaceRow) -> None:
        """Add one row; row groups are written when they are full."""
        self._rows.append(as_values(row, self._labels, video=self._video))
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the remaining rows and the file's footer."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Close without the remaining rows, after a failure: pyarrow would do it later, into a closed file."""
        with suppress(OSError):
            self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


@contextmanager
def writing(path: Path, kind: str, labels: Sequence[str], *, video: bool) -> Iterator[RowWriter]:
    """Write a table to `path`. The file appears, complete, when the block ends without an error, else it is unchanged.

    Args:
        path: the file.
        kind: "csv", "json" or "parquet".
        labels: the model's labels.
        video: whether to include the columns for videos.
    """
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        writing_into(file, kind, labels, video=video) as writer,
    ):
        yield writer


@contextmanager
def writing_into(file: BinaryIO, kind: str, labels: Sequence[str], *, video: bool) -> Iterator[RowWriter]:
    """Write a table into an open file, such as a pipe, which may be unable to seek. Arguments as for `writing`."""
    if kind == "parquet":
        writer = ParquetWriter(file, labels, video=video)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        return
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    yield JsonWriter(text) if kind == "json" else CsvWriter(text, labels, video=video)
    text.flush()
    text.detach()
