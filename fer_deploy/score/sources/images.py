"""A folder of pictures: each file with the ending of a picture is a row.

The list of files is made once and stored with the output, one row group per part, so that millions of names are never
in memory together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fer_deploy.errors import DataError, one_line
from fer_deploy.files import shown
from fer_deploy.folders import LeftOut
from fer_deploy.pictures import MAXIMUM_BYTES, PICTURE_SUFFIXES
from fer_deploy.score.options import InputOptions
from fer_deploy.score.places import Place
from fer_deploy.score.sources import InputPart, InputPicture, RowBlock

LIST = "_plan/pictures.parquet"
"""The list's file in the output."""

SUFFIXES = tuple(sorted(suffix.encode() for suffix in PICTURE_SUFFIXES))
"""Endings of pictures."""

_HELD_BYTES = 64 * 1024 * 1024
"""A block ends early when its encoded pictures take more bytes than this."""


@dataclass(frozen=True)
class Images:
    """A folder of pictures, or one picture.

    Attributes:
        place: the input.
        output: holds the list of pictures.
        options: how to read.
    """

    place: Place
    output: Place
    options: InputOptions

    def parts(self, left_out: LeftOut) -> Iterator[InputPart]:
        """List the pictures, store the list, and split it."""
        if self.place.kind() == "file":
            names: Iterator[bytes] = iter([b""])
        else:
            names = (entry.name for entry in self.place.walk(SUFFIXES, left_out))
        with self.output.writing(LIST) as temporary:
            yield from self._write_list(names, temporary)

    def _write_list(self, names: Iterator[bytes], path: Path) -> Iterator[InputPart]:
        schema = pa.schema([("name", pa.binary())])
        first = 0
        with path.open("wb") as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            group: list[bytes] = []
            for name in names:
                group.append(name)
                if len(group) == self.options.rows_per_part:
                    writer.write_table(pa.table({"name": group}, schema))
                    yield InputPart(first=first, rows=len(group))
                    first, group = first + len(group), []
            if group:
                writer.write_table(pa.table({"name": group}, schema))
                yield InputPart(first=first, rows=len(group))

    def blocks(self, part: InputPart) -> Iterator[RowBlock]:
        """Read the pictures of a part."""
        names: list[bytes] = []
        pictures: list[InputPicture] = []
        size = 0
        for name in self._listed(part):
            names.append(name)
            picture: InputPicture
            try:
                picture = self.place.read(name, maximum_bytes=MAXIMUM_BYTES)
                size += len(picture)
            except DataError as error:
                picture = error
            pictures.append(picture)
            if len(names) == self.options.block_rows or size > _HELD_BYTES:
                yield self._block(names, pictures)
                names, pictures, size = [], [], 0
        if names:
            yield self._block(names, pictures)

    def schema(self) -> pa.Schema:
        """One column, `path`: the file's path relative to the input."""
        return pa.schema([("path", pa.string())])

    def names(self) -> Iterator[bytes]:
        """The names of all pictures in the stored list."""
        with self._open_list() as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).column("name").to_pylist()

    def _listed(self, part: InputPart) -> list[bytes]:
        with self._open_list() as file:
            group = part.first // self.options.rows_per_part
            names: list[bytes] = file.read_row_group(group).column("name").to_pylist()
            if len(names) != part.rows:
                raise ValueError(f"{len(names)} names instead of {part.rows}")
        return names

    @contextmanager
    def _open_list(self) -> Iterator[pq.ParquetFile]:
        try:
            with self.output.open(LIST) as stream, pq.ParquetFile(stream) as file:
                yield file
        except (pa.ArrowException, OSError, LookupError, ValueError) as error:
            raise DataError(f"{self.output}/{LIST} is damaged: {one_line(error)}: start over with --restart") from error

    def _block(self, names: list[bytes], pictures: list[InputPicture]) -> RowBlock:
        paths = [shown(name or os.path.basename(os.fsencode(self.place.address))) for name in names]  # noqa: PTH119
        return RowBlock(pa.table({"path": paths}, self.schema()), pictures)
