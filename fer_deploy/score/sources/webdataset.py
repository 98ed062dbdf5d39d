"""WebDataset shards: tar files in which consecutive members with the same name, up to the ending, form a sample.

One shard is one part. It is read once, from beginning to end, one member at a time, so a shard on an object store is
streamed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa

from fer_deploy.errors import DataError, one_line
from fer_deploy.files import shown
from fer_deploy.folders import LeftOut
from fer_deploy.pictures import MAXIMUM_BYTES, PICTURE_SUFFIXES
from fer_deploy.score.options import InputOptions
from fer_deploy.score.places import Place
from fer_deploy.score.sources import InputPart, InputPicture, RowBlock, check_unchanged
from fer_deploy.tars import DAMAGE, members_of

SUFFIXES = (b".tar", b".tar.gz", b".tgz")
"""Endings of shards."""

_HELD_BYTES = 64 * 1024 * 1024
"""A block ends early when its encoded pictures take more bytes than this."""


@dataclass
class _Sample:
    key: str
    pictures: dict[str, InputPicture] = field(default_factory=dict)


@dataclass(frozen=True)
class WebDataset:
    """Shards in a folder, or one shard.

    Attributes:
        place: the input.
        options: how to read; `column` is the ending of the members to read (`jpg`, `face.png`).
    """

    place: Place
    options: InputOptions

    def parts(self, left_out: LeftOut) -> Iterator[InputPart]:
        """One part per shard."""
        if self.place.kind() == "file":
            shard = self.place.stat(b"")
            yield InputPart(size=shard.size, modified=shard.modified)
            return
        for entry in self.place.walk(SUFFIXES, left_out):
            yield InputPart(file=entry.name, size=entry.size, modified=entry.modified)

    def blocks(self, part: InputPart) -> Iterator[RowBlock]:
        """Read the samples of a shard. If the shard is damaged, one last row holds the error."""
        check_unchanged(self.place, part)
        shard = shown(part.file or self.place.address.rpartition("/")[2])
        row = 0
        keys: list[str | None] = []
        pictures: list[InputPicture] = []
        size = 0
        for key, picture in self._samples(part):
            keys.append(key)
            pictures.append(picture)
            size += len(picture) if isinstance(picture, bytes) else 0
            if len(keys) == self.options.block_rows or size > _HELD_BYTES:
                yield self._block(shard, row, keys, pictures)
                row, keys, pictures, size = row + len(keys), [], [], 0
        if keys:
            yield self._block(shard, row, keys, pictures)

    def schema(self) -> pa.Schema:
        """`shard`, `row` (the sample's number in the shard, from 0) and `key`, which is null in a row about damage."""
        return pa.schema([("shard", pa.string()), ("row", pa.int64()), ("key", pa.string())])

    def _block(self, shard: str, row: int, keys: list[str | None], pictures: list[InputPicture]) -> RowBlock:
        rows = list(range(row, row + len(keys)))
        return RowBlock(pa.table({"shard": [shard] * len(keys), "row": rows, "key": keys}, self.schema()), pictures)

    def _samples(self, part: InputPart) -> Iterator[tuple[str | None, InputPicture]]:
        sample: _Sample | None = None
        try:
            with self.place.open(part.file) as stream:
                for key, suffix, picture in self._members(stream):
                    if sample is None or sample.key != key:
                        if sample is not None:
                            yield sample.key, self._chosen(sample)
                        sample = _Sample(key)
                    if picture is not None:
                        sample.pictures.setdefault(suffix, picture)
        except DAMAGE as error:
            if sample is not None and sample.pictures:
                yield sample.key, self._chosen(sample)
            yield None, DataError(f"the shard is damaged or cut short after this point: {one_line(error)}")
            return
        if sample is not None:
            yield sample.key, self._chosen(sample)

    def _members(self, stream: IO[bytes]) -> Iterator[tuple[str, str, InputPicture | None]]:
        for member, archive in members_of(stream):
            folder, slash, name = member.name.rpartition("/")
            stem, _dot, suffix = name.partition(".")
            if not stem or not member.isfile():
                continue
            key, suffix = shown(f"{folder}{slash}{stem}"), suffix.lower()
            if not self._wanted(suffix):
                yield key, suffix, None
            elif member.size > MAXIMUM_BYTES:
                yield key, suffix, DataError(f"{member.size:,} bytes, more than a picture may have")
            else:
                content = archive.extractfile(member)
                data = content.read() if content is not None else b""
                if len(data) != member.size:
                    raise tarfile.ReadError(f"{shown(member.name)} is cut short")
                yield key, suffix, data

    def _wanted(self, suffix: str) -> bool:
        if self.options.column:
            return suffix == self.options.column.lower().lstrip(".")
        return f".{suffix.rpartition('.')[2]}" in PICTURE_SUFFIXES

    def _chosen(self, sample: _Sample) -> InputPicture:
        if not sample.pictures:
            what = f"a .{self.options.column.lstrip('.')}" if self.options.column else "a picture"
            return DataError(f"the sample has no member that is {what}")
        if len(sample.pictures) > 1:
            return DataError(f"the sample has {len(sample.pictures)} pictures, {', '.join(sample.pictures)}: "
                             "name one with --column")  # fmt: skip
        return next(iter(sample.pictures.values()))
