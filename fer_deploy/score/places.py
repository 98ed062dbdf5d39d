"""Where data are: a folder of this machine or of a shared file system, or an object store by its address (`s3://...`).

Everything is done on names relative to a place. A file is written whole or not at all: moved into place on a file
system, put in one piece to an object store.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from fer_deploy.errors import DataError
from fer_deploy.files import read_file, replacing, shown, write_bytes


@dataclass(frozen=True)
class Entry:
    """A file found in a place.

    Attributes:
        name: relative to the place, `/` between folders; bytes, for a name need not be UTF-8.
        size: bytes; -1 where it is not known (a link to nothing, say).
        modified: nanoseconds since 1970, 0 where it is not known. With `size`, it tells a changed file.
    """

    name: bytes
    size: int
    modified: int


@dataclass(frozen=True)
class WalkNotes:
    """What a walk through folders has to tell.

    Attributes:
        problems: a line for each folder that could not be read.
        left_out: what was left out, and how often.
    """

    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Place:
    """A folder, or a single file, by the address that people write.

    Attributes:
        address: a path, or an address with `://` that pyarrow knows (`s3`, `gs`, `abfs`, `hdfs`, `file`). It is
            resolved anew on each machine.
    """

    address: str

    @classmethod
    def of(cls, address: str) -> Place:
        """The place of an address; a relative path is taken from the current folder.

        Raises:
            DataError: an address of a kind that is not known.
        """
        if address.startswith("file://"):
            address = address.removeprefix("file://")
        if "://" not in address:
            return cls(os.path.abspath(address))  # noqa: PTH100  keeps links, and bytes that are not UTF-8
        place = cls(address.rstrip("/"))
        place._remote()
        return place

    @property
    def is_local(self) -> bool:
        """Whether it is a path, to be opened as a file."""
        return "://" not in self.address

    def __str__(self) -> str:
        return shown(self.address)

    def contains(self, other: Place) -> bool:
        """Whether another place lies in this one, or is this one."""
        if self.is_local and other.is_local:
            mine, theirs = Path(self.address).resolve(), Path(other.address).resolve()
            return theirs == mine or mine in theirs.parents
        return f"{other.address}/".startswith(f"{self.address}/")

    def path(self, name: bytes | str) -> str:
        """The path of a file of this place, for messages and for opening it; the place's own for an empty name."""
        name = os.fsdecode(name)
        return f"{self.address}/{name}" if name else self.address

    def kind(self) -> str:
        """`file`, `folder`, `nothing`, or `other` (a pipe, a device).

        Raises:
            DataError: it cannot be looked at.
        """
        if self.is_local:
            try:
                mode = Path(self.address).stat().st_mode
            except FileNotFoundError:
                return "nothing"
            except OSError as error:
                raise DataError(f"{self}: {error.strerror or error}") from error
            return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
        filesystem, path = self._remote()
        found = self._ask(lambda: filesystem.get_file_info(path))
        kinds = {pafs.FileType.File: "file", pafs.FileType.Directory: "folder", pafs.FileType.NotFound: "nothing"}
        return kinds.get(found.type, "other")

    def walk(self, notes: WalkNotes) -> Iterator[Entry]:
        """All files under a folder, in an order that is always the same; at any time one folder's names are in memory.

        Links to folders are not followed, so that no loop of links can hold it. Names that begin with `.` or `_` are
        left out, as other readers of data sets do.

        Args:
            notes: is told of folders that cannot be read, and of links that are not followed.
        """
        if self.is_local:
            yield from _walk_local(os.fsencode(self.address), notes)
        else:
            yield from self._walk_remote(notes)

    def stat(self, name: bytes) -> Entry:
        """What is known of one file now.

        Raises:
            DataError: it is not there.
        """
        if self.is_local:
            try:
                found = os.stat(self._local(name))  # noqa: PTH116  a path of bytes
            except OSError as error:
                raise DataError(f"{shown(self.path(name))}: {error.strerror or error}") from error
            return Entry(name, found.st_size, found.st_mtime_ns)
        filesystem, path = self._remote()
        info = self._ask(lambda: filesystem.get_file_info(_join(path, os.fsdecode(name))))
        if info.type != pafs.FileType.File:
            raise DataError(f"{shown(self.path(name))}: no such file")
        return Entry(name, info.size, info.mtime_ns or 0)

    @contextmanager
    def open(self, name: bytes | str) -> Iterator[Any]:
        """A file of this place, as a seekable pyarrow file; never blocks on a pipe.

        Raises:
            DataError: it is not there, not a regular file, or cannot be read.
        """
        name = os.fsencode(name)
        if self.is_local:
            with _open_local(self._local(name)) as stream:
                yield pa.PythonFile(stream, mode="r")
            return
        filesystem, path = self._remote()
        try:
            stream = filesystem.open_input_file(_join(path, os.fsdecode(name)))
        except OSError as error:
            raise DataError(f"{shown(self.path(name))}: {_one_line(error)}") from error
        with stream:
            yield stream

    def read(self, name: bytes, *, maximum_bytes: int) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: it is not there, not a regular file, cannot be read, is empty or larger than `maximum_bytes`.
        """
        if self.is_local:
            return read_file(os.fsdecode(self._local(name)), maximum_bytes=maximum_bytes, what="picture")
        with self.open(name) as stream:
            content: bytes = stream.read(maximum_bytes + 1)
        if len(content) > maximum_bytes:
            raise DataError(f"{shown(name)}: more than the {maximum_bytes:,} bytes that a picture may have")
        return content

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        try:
            self.stat(name.encode())
        except DataError:
            return False
        return True

    def names(self, beginning: str) -> list[str]:
        """The files directly in this folder whose names begin so, sorted; none where there is no folder."""
        if self.is_local:
            try:
                found = [entry.name for entry in os.scandir(self.address)]
            except FileNotFoundError:
                return []
        else:
            filesystem, path = self._remote()
            selector = pafs.FileSelector(path, allow_not_found=True)
            found = [info.base_name for info in self._ask(lambda: filesystem.get_file_info(selector))]
        return sorted(name for name in found if name.startswith(beginning))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, or not at all."""
        if self.is_local:
            write_bytes(Path(self.path(name)), content)
            return
        with self.writing(name) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path to write to, and put the file there whole when the block ends well."""
        if self.is_local:
            with replacing(Path(self.path(name))) as temporary:
                yield temporary
            return
        import tempfile

        with tempfile.TemporaryDirectory(prefix="ferdeploy-") as folder:
            temporary = Path(folder) / "file"
            yield temporary
            self._put(name, temporary)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.is_local:
            with suppress(FileNotFoundError):
                Path(self.path(name)).unlink()
            return
        filesystem, path = self._remote()
        with suppress(FileNotFoundError):
            filesystem.delete_file(_join(path, name))

    def _put(self, name: str, source: Path) -> None:
        filesystem, path = self._remote()
        goal = _join(path, name)
        # An object is seen only once its upload has ended. Elsewhere a half-written file would be seen: move it.
        in_one_piece = filesystem.type_name in ("s3", "gcs", "abfs", "azure")
        first = goal if in_one_piece else f"{goal}.partial"
        if not in_one_piece:
            filesystem.create_dir(goal.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(first) as stream, source.open("rb") as file:
            while block := file.read(8 << 20):
                stream.write(block)
        if not in_one_piece:
            filesystem.move(first, goal)

    def _local(self, name: bytes) -> bytes:
        own = os.fsencode(self.address)
        return own + b"/" + name if name else own

    def _remote(self) -> tuple[Any, str]:
        try:
            filesystem, path = pafs.FileSystem.from_uri(self.address)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError) as error:
            raise DataError(f"{self}: not an address that is known: {_one_line(error)}") from error
        return filesystem, path

    def _ask(self, question: Any) -> Any:
        try:
            return question()
        except OSError as error:
            raise DataError(f"{self}: {_one_line(error)}") from error

    def _walk_remote(self, notes: WalkNotes) -> Iterator[Entry]:
        filesystem, root = self._remote()
        waiting: list[str | Entry] = [""]
        while waiting:
            item = waiting.pop()
            if isinstance(item, Entry):
                yield item
                continue
            try:
                found = filesystem.get_file_info(pafs.FileSelector(_join(root, item)))
            except OSError as error:
                notes.problems.append(f"{shown(self.path(item))}: {_one_line(error)}")
                continue
            for info in sorted(found, key=lambda info: info.base_name, reverse=True):
                name = f"{item}/{info.base_name}" if item else info.base_name
                if info.base_name.startswith((".", "_")):
                    continue
                if info.type == pafs.FileType.Directory:
                    waiting.append(name)
                else:
                    waiting.append(Entry(name.encode(), -1 if info.size is None else info.size, info.mtime_ns or 0))


def _walk_local(root: bytes, notes: WalkNotes) -> Iterator[Entry]:
    waiting: list[bytes | Entry] = [b""]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Entry):
            yield item
            continue
        here = root + b"/" + item if item else root
        try:
            with os.scandir(here) as scan:
                found = sorted(scan, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            notes.problems.append(f"{shown(here)}: {error.strerror or error}")
            continue
        for entry in found:
            name = item + b"/" + entry.name if item else entry.name
            if entry.name.startswith((b".", b"_")):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name)
                continue
            try:
                known = entry.stat()
            except OSError:  # a link to nothing, or in a loop: whoever opens it will say so
                waiting.append(Entry(name, -1, 0))
                continue
            if stat.S_ISDIR(known.st_mode):
                notes.left_out["links to folders"] += 1
            else:
                waiting.append(Entry(name, known.st_size, known.st_mtime_ns))


@contextmanager
def _open_local(path: bytes) -> Iterator[IO[bytes]]:
    # O_NONBLOCK: to open a named pipe would wait for a writer for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise DataError(f"{shown(path)}: {error.strerror or error}") from error
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise DataError(f"{shown(path)}: not a regular file")
        yield stream


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if name else folder


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
