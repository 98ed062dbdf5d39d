"""A folder of pictures: each file with a picture's ending is a row.

The list of files is made once and kept beside the output, a row group to a part, so that millions of names are never in
memory together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fer_deploy.errors import DataError
from fer_deploy.files import shown
from fer_deploy.pictures import MAXIMUM_BYTES, PICTURE_SUFFIXES
from fer_deploy.score.places import Place, WalkNotes
from fer_deploy.score.sources import Block, Options, Part, Picture

LIST = "_plan/pictures.parquet"
"""The list's name in the output."""

_HELD_BYTES = 64 * 1024 * 1024
"""A block ends early when its encoded pictures come to more."""


@dataclass(frozen=True)
class Images:
    """A folder of pictures, or one picture.

    Attributes:
        place: the input.
        output: where the list of pictures is.
        options: how to read.
    """

    place: Place
    output: Place
    options: Options

    def parts(self, notes: WalkNotes) -> Iterator[Part]:
        """List the pictures, write the list, and split it."""
        if self.place.kind() == "file":
            names: Iterator[bytes] = iter([b""])
        else:
            names = self._names(notes)
        with self.output.writing(LIST) as temporary:
            yield from self._write_list(names, temporary)

    def _names(self, notes: WalkNotes) -> Iterator[bytes]:
        for entry in self.place.walk(notes):
            suffix = os.path.splitext(entry.name)[1].lower().decode("ascii", "replace")  # noqa: PTH122  bytes
            if suffix in PICTURE_SUFFIXES:
                yield entry.name
            else:
                notes.left_out[f"*{suffix}" if suffix else "without an ending"] += 1

    def _write_list(self, names: Iterator[bytes], path: Path) -> Iterator[Part]:
        schema = pa.schema([("name", pa.binary())])
        first = 0
        with path.open("wb") as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            group: list[bytes] = []
            for name in names:
                group.append(name)
                if len(group) == self.options.rows_per_part:
                    writer.write_table(pa.table({"name": group}, schema))
                    yield Part(first=first, rows=len(group))
                    first, group = first + len(group), []
            if group:
                writer.write_table(pa.table({"name": group}, schema))
                yield Part(first=first, rows=len(group))

    def blocks(self, part: Part) -> Iterator[Block]:
        """Read the pictures of a part."""
        names: list[bytes] = []
        pictures: list[Picture] = []
        held = 0
        for name in self._listed(part):
            names.append(name)
            picture: Picture
            try:
                picture = self.place.read(name, maximum_bytes=MAXIMUM_BYTES)
                held += len(picture)
            except DataError as error:
                picture = error
            pictures.append(picture)
            if len(names) == self.options.block_rows or held > _HELD_BYTES:
                yield self._block(names, pictures)
                names, pictures, held = [], [], 0
        if names:
            yield self._block(names, pictures)

    def schema(self) -> pa.Schema:
        """`path`: the file's, relative to the input."""
        return pa.schema([("path", pa.string())])

    def _listed(self, part: Part) -> list[bytes]:
        with self.output.open(LIST) as stream, pq.ParquetFile(stream) as file:
            group = part.first // self.options.rows_per_part
            names: list[bytes] = file.read_row_group(group).column("name").to_pylist()
        return names

    def _block(self, names: list[bytes], pictures: list[Picture]) -> Block:
        paths = [shown(name or os.path.basename(os.fsencode(self.place.address))) for name in names]  # noqa: PTH119
        return Block(pa.table({"path": paths}, self.schema()), pictures)
