"""The files of a folder, a .zip or a tar, under one interface: names, and a function that reads one file.

All readers of pictures work on a `FileSet`, so that a layout that is read from a folder is read from every archive.
"""

from __future__ import annotations

import stat
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from fer_deploy.errors import DataError
from fer_deploy.faces.containers import LARGEST_UNPACKED, open_content, what_it_is
from fer_deploy.faces.listing import Listing, PictureSource
from fer_deploy.faces.source import source_errors
from fer_deploy.files import open_regular, read_file, shown
from fer_deploy.folders import LeftOut, is_hidden, walk
from fer_deploy.pictures import PICTURE_SUFFIXES
from fer_deploy.tars import members_of, refuse_ratio

LARGEST_PICTURE = 16 << 20
"""Bytes that one picture may have."""

LARGEST_TABLE = LARGEST_UNPACKED
"""Bytes that a table in a folder or archive may have."""

MOST_FILES = 2_000_000
"""A folder or archive that holds more files is refused."""


@dataclass(frozen=True, eq=False)
class FileSet:
    """The files of a folder or archive.

    Attributes:
        name: the folder or archive, for errors.
        names: the files' relative names, `/` between folders, sorted.
        read: returns a file's bytes by its name, up to a number of bytes; DataError if it has more. Threads may call it
            at once.
        left_out: what the search left out.
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[str, int], bytes]
    left_out: LeftOut = field(default_factory=LeftOut)

    @cached_property
    def pictures(self) -> tuple[str, ...]:
        """The names of the pictures, by their endings."""
        return tuple(name for name in self.names if is_picture(name))

    @cached_property
    def folded(self) -> dict[str, str]:
        """The names of the files by their names in lower case: some archives were packed where case does not matter."""
        return {name.casefold(): name for name in self.names}

    def picture(self, name: str) -> bytes:
        """A picture's bytes. DataError if it cannot be read, or is a Git LFS pointer."""
        with source_errors(f"{self.name}: {shown(name)}"):
            content = self.read(name, LARGEST_PICTURE)
        if (kind := what_it_is(content[:512])) is not None and kind.startswith("a Git LFS"):
            raise DataError(f"{self.name}: {shown(name)} is {kind}")
        return content

    @contextmanager
    def open_table(self, name: str) -> Iterator[tuple[IO[bytes], str]]:
        """Open a table, as `containers.open_table`."""
        label = f"{self.name}: {shown(name)}"
        with source_errors(label), open_content(self.read(name, LARGEST_TABLE), label) as opened:
            yield opened

    def listing(
        self,
        names: Sequence[str],
        labels: Sequence[str],
        splits: Sequence[str | None],
        *,
        notes: Iterable[str],
        left_out: LeftOut,
        people: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> Listing:
        """The listing of these pictures of the set, each with its label and split."""
        return Listing(
            self.name,
            labels,
            splits,
            names,
            np.arange(len(names)),
            PictureSource.encoded(len(names), lambda place: self.picture(names[place])),
            people=people,
            columns=columns or {},
            notes=tuple(notes),
            left_out=left_out,
        )

    def without(self, used: Iterable[str]) -> LeftOut:
        """What was left out, with every file that is not among `used`."""
        left_out = LeftOut(Counter(self.left_out.counts))
        keep = set(used)
        for name in self.names:
            if name not in keep:
                left_out.add_file(PurePosixPath(name).name)
        return left_out


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its ending."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def files_in(folder: Path, left_out: LeftOut) -> list[str]:
    """The relative names (with /) of the files in a folder and its subfolders, by the rule of `folders.walk`.

    Raises:
        DataError: a folder cannot be read, or there are more than two million files.
    """
    names: list[str] = []
    for file in walk(folder, left_out):
        if left_out.problems:
            break
        names.append(file.name)
        if len(names) > MOST_FILES:
            raise DataError(f"{shown(folder)} holds more than {MOST_FILES:,} files: name the data set itself")
    if left_out.problems:
        raise DataError(left_out.problems[0])
    return names


def folder_files(folder: Path) -> FileSet:
    """The files of a folder and its subfolders."""
    left_out = LeftOut()

    def read(name: str, most: int) -> bytes:
        return read_file(folder / name, maximum_bytes=most, what="picture" if is_picture(name) else "table")

    names = tuple(sorted(files_in(folder, left_out)))
    return FileSet(shown(folder.resolve().name or folder), names, read, left_out)


def zip_files(path: Path) -> FileSet:
    """The files of a .zip. It stays open while the file set is in use. DataError if it unpacks to too much."""
    name = shown(path.name)
    archive = zipfile.ZipFile(open_regular(path, what="archive"))
    left_out = LeftOut()
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if not member.is_dir() and _is_kept(member.filename, stat.S_ISLNK(member.external_attr >> 16), left_out):
            members[_relative(member.filename)] = member
    _refuse_many(len(members), name)
    pictures = [member for file, member in members.items() if is_picture(file)]
    with source_errors(name):
        refuse_ratio(sum(each.file_size for each in pictures), sum(each.compress_size for each in pictures))

    def read(file: str, most: int) -> bytes:
        with source_errors(f"{name}: {shown(file)}"), archive.open(members[file]) as opened:
            return _bounded(opened.read(most + 1), most, f"{name}: {shown(file)}")

    return FileSet(name, tuple(sorted(members)), read, left_out)


def tar_files(path: Path) -> FileSet:
    """The files of a tar, plain or packed. A packed one is unpacked into a temporary file that has no name.

    Raises:
        DataError: the archive is damaged, or unpacks to too much.
    """
    name = shown(path.name)
    left_out = LeftOut()
    members: dict[str, tuple[int, int]] = {}
    stream = open_regular(path, what="archive")
    with open_regular(path, what="archive") as packed, source_errors(name):
        head = packed.read(6)
        unpacked: IO[bytes] = stream if not head.startswith(PACKED) else tempfile.TemporaryFile()  # noqa: SIM115
        for member, archive in members_of(packed):
            if member.isdir() or not _is_kept(member.name, not member.isreg(), left_out):
                continue
            start = member.offset_data
            if unpacked is not stream:
                start = unpacked.tell()
                content = archive.extractfile(member)
                while content is not None and (part := content.read(1 << 20)):
                    unpacked.write(part)
            members[_relative(member.name)] = start, member.size
            _refuse_many(len(members), name)
    if unpacked is not stream:
        stream.close()
    lock = threading.Lock()

    def read(file: str, most: int) -> bytes:
        start, size = members[file]
        with lock:
            unpacked.seek(start)
            return _bounded(unpacked.read(min(size, most + 1)), most, f"{name}: {shown(file)}")

    return FileSet(name, tuple(sorted(members)), read, left_out)


def joined_files(name: str, parts: Mapping[str, FileSet]) -> FileSet:
    """Several file sets as one, each in a folder of its name: train.zip and test.zip, as if both were unpacked."""
    left_out = LeftOut()
    for part in parts.values():
        left_out.counts.update(part.left_out.counts)

    def read(file: str, most: int) -> bytes:
        folder, _, rest = file.partition("/")
        return parts[folder].read(rest, most)

    names = tuple(sorted(f"{folder}/{file}" for folder, part in parts.items() for file in part.names))
    return FileSet(name, names, read, left_out)


PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
"""How files begin that are packed with gzip, bzip2 or xz."""


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, plain or packed with gzip, bzip2 or xz, with a first member that can be read."""
    with open_regular(path, what="data set") as file:
        head = file.read(512)
        if not head.startswith(PACKED) and head[257:262] != b"ustar":
            return False
        try:
            return next(iter(members_of(file)), None) is not None
        except Exception:  # whatever is wrong with it, another reader will name it
            return False


def _is_kept(name: str, is_link: bool, left_out: LeftOut) -> bool:
    hidden = next((part for part in PurePosixPath(_relative(name)).parts if is_hidden(part)), None)
    if hidden is not None:
        left_out.add_hidden(hidden)
    elif is_link:
        left_out.counts["link"] += 1
    return hidden is None and not is_link


def _relative(name: str) -> str:
    """A member's name without `./` or `/` before it, with / between folders."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _refuse_many(count: int, name: str) -> None:
    if count > MOST_FILES:
        raise DataError(f"{name} holds more than {MOST_FILES:,} files: name the data set itself")


def _bounded(content: bytes, most: int, name: str) -> bytes:
    if len(content) > most:
        raise DataError(
            f"{name} has over {most >> 20} MiB: it is not {'a picture of a face' if is_picture(name) else 'a table'}"
        )
    if not content:
        raise DataError(f"{name}: the file is empty (0 bytes)")
    return content
