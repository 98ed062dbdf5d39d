"""Write rows as JSON lines, CSV or Parquet, one at a time, so that memory use does not grow with their number."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from fer_deploy.errors import UnavailableError, install
from fer_deploy.files import replacing
from fer_deploy.reading.rows import Row, as_json, as_values, columns

FORMATS: dict[str, str] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
"""The format for each ending of an output file."""

_ROW_GROUP = 50_000  # rows of Parquet held in memory: about 10 MB


class RowWriter(Protocol):
    """Writes rows in the order of the calls."""

    def write(self, row: Row) -> None:
        """Write one row."""
        ...


class JsonWriter:
    """One JSON object per line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: Row) -> None:
        """Write one row and flush it, so that the reader of a pipe gets it at once."""
        self._file.write(json.dumps(as_json(row), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()


class CsvWriter:
    """CSV (RFC 4180) with a header line; cells of columns that do not apply are empty."""

    def __init__(self, file: IO[str], labels: Sequence[str], *, video: bool) -> None:
        self._file, self._labels, self._video = file, labels, video
        self._writer = csv.DictWriter(file, list(columns(labels, video=video)), lineterminator="\r\n")
        self._writer.writeheader()

    def write(self, row: Row) -> None:
        """Write one row and flush it."""
        self._writer.writerow(as_values(row, self._labels, video=self._video))
        self._file.flush()


class ParquetWriter:
    """Parquet through pyarrow, in row groups."""

    def __init__(self, path: Path, labels: Sequence[str], *, video: bool) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UnavailableError(f"Parquet needs pyarrow: {install('video')}") from error
        kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
        self._labels, self._video = labels, video
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns(labels, video=video).items()])
        self._pyarrow = pyarrow
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, row: Row) -> None:
        """Add one row; row groups are written when they are full."""
        self._rows.append(as_values(row, self._labels, video=self._video))
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the remaining rows and the file's footer."""
        self._flush()
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
    with replacing(path) as temporary:
        if kind == "parquet":
            writer = ParquetWriter(temporary, labels, video=video)
            yield writer
            writer.close()
            return
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield JsonWriter(file) if kind == "json" else CsvWriter(file, labels, video=video)
