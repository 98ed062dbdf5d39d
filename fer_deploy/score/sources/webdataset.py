"""WebDataset shards: tar files whose members of one name, but for the ending, are a sample.

A shard is a part, and is read from its beginning to its end, a member at a time; nothing is looked for in it, so that
shards on an object store are streamed.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa

from fer_deploy.errors import DataError
from fer_deploy.files import shown
from fer_deploy.pictures import MAXIMUM_BYTES, PICTURE_SUFFIXES
from fer_deploy.score.places import Place, WalkNotes
from fer_deploy.score.sources import Block, Options, Part, Picture, check_unchanged

SUFFIXES = (b".tar", b".tar.gz", b".tgz")
"""Endings of shards."""

_HEADER_BYTES = 1 << 20
_HELD_BYTES = 64 * 1024 * 1024
"""A block ends early when its encoded pictures come to more."""


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose extended header cannot fill the memory: tarfile reads one whole, however long it says it is."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if not self.isreg() and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


@dataclass
class _Sample:
    key: str
    pictures: dict[str, Picture] = field(default_factory=dict)


@dataclass(frozen=True)
class WebDataset:
    """Shards in a folder, or one shard.

    Attributes:
        place: the input.
        options: how to read; `column` is the ending of the members to read (`jpg`, `face.png`).
    """

    place: Place
    options: Options

    def parts(self, notes: WalkNotes) -> Iterator[Part]:
        """A part a shard."""
        if self.place.kind() == "file":
            found = self.place.stat(b"")
            yield Part(size=found.size, modified=found.modified)
            return
        for entry in self.place.walk(notes):
            if entry.name.lower().endswith(SUFFIXES):
                yield Part(file=entry.name, size=entry.size, modified=entry.modified)
            else:
                notes.left_out["files that are no shards"] += 1

    def blocks(self, part: Part) -> Iterator[Block]:
        """Read the samples of a shard. Where the shard is damaged, one last row says so."""
        check_unchanged(self.place, part)
        shard = shown(part.file or self.place.address.rpartition("/")[2])
        row = 0
        keys: list[str | None] = []
        pictures: list[Picture] = []
        held = 0
        for key, picture in self._samples(part):
            keys.append(key)
            pictures.append(picture)
            held += len(picture) if isinstance(picture, bytes) else 0
            if len(keys) == self.options.block_rows or held > _HELD_BYTES:
                yield self._block(shard, row, keys, pictures)
                row, keys, pictures, held = row + len(keys), [], [], 0
        if keys:
            yield self._block(shard, row, keys, pictures)

    def schema(self) -> pa.Schema:
        """`shard`, the sample's `row` in it from 0, and its `key`: null for the row that tells of damage."""
        return pa.schema([("shard", pa.string()), ("row", pa.int64()), ("key", pa.string())])

    def _block(self, shard: str, row: int, keys: list[str | None], pictures: list[Picture]) -> Block:
        rows = list(range(row, row + len(keys)))
        return Block(pa.table({"shard": [shard] * len(keys), "row": rows, "key": keys}, self.schema()), pictures)

    def _samples(self, part: Part) -> Iterator[tuple[str | None, Picture]]:
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
        except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
            if sample is not None and sample.pictures:
                yield sample.key, self._chosen(sample)
            line = " ".join(str(error).split())[:200] or type(error).__name__
            yield None, DataError(f"the shard is damaged or cut short after this point: {line}")
            return
        if sample is not None:
            yield sample.key, self._chosen(sample)

    def _members(self, stream: IO[bytes]) -> Iterator[tuple[str, str, Picture | None]]:
        # `r|*` reads straight on, packed or not; `ignore_zeros` is off, so that the end of the archive ends it.
        with tarfile.open(fileobj=stream, mode="r|*", errorlevel=2, tarinfo=_BoundedTarInfo) as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
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

    def _chosen(self, sample: _Sample) -> Picture:
        if not sample.pictures:
            what = f"a .{self.options.column.lstrip('.')}" if self.options.column else "a picture"
            return DataError(f"the sample has no member that is {what}")
        if len(sample.pictures) > 1:
            return DataError(f"the sample has {len(sample.pictures)} pictures, {', '.join(sample.pictures)}: "
                             "name one with --column")  # fmt: skip
        return next(iter(sample.pictures.values()))
