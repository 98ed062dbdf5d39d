"""Where data are: a local or shared folder, or an object store (`s3://...`), behind one set of operations.

All names are relative to a place. A file is written whole or not at all: it is moved into place on a file system, and
uploaded in one piece to an object store. Local files follow the rules of `fer_deploy.files`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from fer_deploy.errors import DataError, one_line
from fer_deploy.files import open_regular, read_file, replacing, shown, write_bytes
from fer_deploy.folders import LeftOut, is_hidden, walk

OWN_FOLDER = "_plan"
"""The folder of an output that holds no results. It is left out when an output is scored in turn."""

OWN_FILES = frozenset({"_summary.json", "_SUCCESS", "_metadata", "_common_metadata"})
"""Files without rows that this program, Hadoop and Parquet writers put into a data set. They are left out."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Entry:
    """A file in a place.

    Attributes:
        name: relative to the place, `/` between folders; bytes, since a name need not be UTF-8.
        size: in bytes; -1 if unknown (a link to nothing, for example).
        modified: nanoseconds since 1970; 0 if unknown. Together with `size` it identifies a version of the file.
    """

    name: bytes
    size: int
    modified: int


@dataclass(frozen=True)
class Place:
    """A folder, or a single file, by the address that people write.

    Attributes:
        address: a path, or an address with `://` that pyarrow knows (`s3`, `gs`, `abfs`, `hdfs`), with pyarrow's
            options after a `?`. Each process resolves it for itself.
    """

    address: str

    @classmethod
    def of(cls, address: str) -> Place:
        """The place of an address; a relative path starts at the current folder.

        Raises:
            DataError: an address of an unknown kind.
        """
        if address.startswith("file://"):
            address = address.removeprefix("file://")
        if "://" not in address:
            return cls(os.path.abspath(address))  # noqa: PTH100  keeps links, and bytes that are not UTF-8
        location, mark, options = address.partition("?")
        place = cls(location.rstrip("/") + mark + options)
        _filesystem(place.address)
        return place

    @property
    def is_local(self) -> bool:
        """Whether the address is a path."""
        return "://" not in self.address

    @property
    def public_address(self) -> str:
        """The address without user name and password, for what is stored."""
        return self.address if self.is_local else re.sub(r"://[^/@]*@", "://", self.address, count=1)

    def __str__(self) -> str:
        return shown(self.path(b""))

    def contains(self, other: Place) -> bool:
        """Whether another place is this one or lies inside it."""
        if self.is_local and other.is_local:
            mine, theirs = Path(self.address).resolve(), Path(other.address).resolve()
            return theirs == mine or mine in theirs.parents
        if self.is_local or other.is_local:
            return False
        (store, path), (other_store, other_path) = _filesystem(self.address), _filesystem(other.address)
        return bool(store == other_store and f"{other_path}/".startswith(f"{path}/"))

    def path(self, name: bytes | str) -> str:
        """The path of a file in this place, for messages and for opening local files; the place's for an empty name.

        An address is shown without user name, password and options.
        """
        return _join(self.address if self.is_local else self.public_address.partition("?")[0], os.fsdecode(name))

    def kind(self) -> str:
        """`file`, `folder`, `nothing`, or `other` (a pipe, a device).

        Raises:
            DataError: the place cannot be examined.
        """
        if self.is_local:
            try:
                mode = Path(self.address).stat().st_mode
            except FileNotFoundError:
                return "nothing"
            except OSError as error:
                raise DataError(f"{self}: {error.strerror or error}") from error
            return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
        filesystem, path = _filesystem(self.address)
        info = self._ask(b"", lambda: filesystem.get_file_info(path))
        kinds = {pafs.FileType.File: "file", pafs.FileType.Directory: "folder", pafs.FileType.NotFound: "nothing"}
        return kinds.get(info.type, "other")

    def walk(self, suffixes: tuple[bytes, ...], left_out: LeftOut) -> Iterator[Entry]:
        """All files with one of these endings in a folder and its subfolders, by the rule of `folders.walk`.

        The order is always the same. `OWN_FOLDER` and `OWN_FILES` are left out. On an object store nothing is a link.

        Args:
            suffixes: endings, lower case.
            left_out: counts what is left out, and lists the folders that cannot be read.
        """
        for entry in _walk_local(self.address, left_out) if self.is_local else self._walk_remote(left_out):
            *folders, name = os.fsdecode(entry.name).split("/")
            if OWN_FOLDER in folders:
                left_out.counts[OWN_FOLDER] += 1
            elif name in OWN_FILES:
                left_out.counts[name] += 1
            elif entry.name.lower().endswith(suffixes):
                yield entry
            else:
                left_out.add_file(name)

    def find(self, name: bytes) -> Entry | None:
        """The current size and modification time of a file; None if there is no such file.

        Raises:
            DataError: whether there is one cannot be found out, for lack of permission for example.
        """
        if self.is_local:
            try:
                status = os.stat(self._local(name))  # noqa: PTH116  a path of bytes
            except FileNotFoundError:
                return None
            except OSError as error:
                raise DataError(f"{shown(self.path(name))}: {error.strerror or error}") from error
            return Entry(name, status.st_size, status.st_mtime_ns)
        filesystem, path = _filesystem(self.address)
        info = self._ask(name, lambda: filesystem.get_file_info(_join(path, os.fsdecode(name))))
        return _entry(name, info) if info.type == pafs.FileType.File else None

    def stat(self, name: bytes) -> Entry:
        """As `find`, for a file that should be in this place.

        Raises:
            DataError: there is no such file, or `find` cannot look for it.
        """
        entry = self.find(name)
        if entry is None:
            raise DataError(f"{shown(self.path(name))}: no such file")
        return entry

    @contextmanager
    def open(self, name: bytes | str) -> Iterator[Any]:
        """A file of this place as a seekable pyarrow file. Never blocks on a pipe.

        Raises:
            DataError: there is no such file, or it is not a regular file, or it cannot be read.
        """
        if self.is_local:
            with open_regular(self._local(name)) as stream:
                yield pa.PythonFile(stream, mode="r")
            return
        filesystem, path = _filesystem(self.address)
        with self._ask(name, lambda: filesystem.open_input_file(_join(path, os.fsdecode(name)))) as stream:
            yield stream

    def read(self, name: bytes, *, maximum_bytes: int, what: str = "picture") -> bytes:
        """The bytes of one file.

        Args:
            name: the file.
            maximum_bytes: a larger file is refused.
            what: what the file should be, for the error.

        Raises:
            DataError: as `open`, or the file is empty or larger than `maximum_bytes`.
        """
        if self.is_local:
            return read_file(self._local(name), maximum_bytes=maximum_bytes, what=what)
        with self.open(name) as stream:
            size = self._ask(name, stream.size)
            if size > maximum_bytes:
                raise DataError(f"{shown(self.path(name))}: {size:,} bytes, more than a {what} may have")
            content: bytes = self._ask(name, stream.read)
        if not content:
            raise DataError(f"{shown(self.path(name))}: the file is empty (0 bytes)")
        return content

    def exists(self, name: str) -> bool:
        """Whether the place holds this file. DataError, as `find`, where that cannot be found out."""
        return self.find(name.encode()) is not None

    def names(self, beginning: str) -> list[str]:
        """The files directly in this folder whose names begin so, sorted; none if the folder does not exist."""
        if self.is_local:
            try:
                names = [entry.name for entry in os.scandir(self.address)]
            except FileNotFoundError:
                return []
        else:
            filesystem, path = _filesystem(self.address)
            selector = pafs.FileSelector(path, allow_not_found=True)
            names = [info.base_name for info in self._ask(b"", lambda: filesystem.get_file_info(selector))]
        return sorted(name for name in names if name.startswith(beginning))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            DataError: it cannot be written.
        """
        if self.is_local:
            try:
                write_bytes(Path(self.path(name)), content)
            except OSError as error:
                raise DataError(f"{shown(self.path(name))}: cannot be written: {error.strerror or error}") from error
            return
        with self.writing(name) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a local path to write to, and put the file into this place, whole, if the block does not raise."""
        if self.is_local:
            with replacing(Path(self.path(name))) as temporary:
                yield temporary
            return
        import tempfile

        with tempfile.TemporaryDirectory(prefix="ferdeploy-") as folder:
            temporary = Path(folder) / "file"
            yield temporary
            self._ask(name, lambda: self._put(name, temporary))

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        if self.is_local:
            with suppress(FileNotFoundError):
                Path(self.path(name)).unlink()
            return
        filesystem, path = _filesystem(self.address)
        with suppress(FileNotFoundError):
            filesystem.delete_file(_join(path, name))

    def _put(self, name: str, source: Path) -> None:
        filesystem, path = _filesystem(self.address)
        goal = _join(path, name)
        # An object becomes visible when its upload has ended. Elsewhere others would see half a file, so it is moved.
        in_one_piece = filesystem.type_name in ("s3", "gcs", "abfs", "azure")
        first = goal if in_one_piece else f"{goal}.partial"
        if not in_one_piece:
            filesystem.create_dir(goal.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(first) as stream, source.open("rb") as file:
            while block := file.read(8 << 20):
                stream.write(block)
        if not in_one_piece:
            filesystem.move(first, goal)

    def _local(self, name: bytes | str) -> bytes:
        return os.fsencode(self.path(name))

    def _ask(self, name: bytes | str, question: Callable[[], Answer]) -> Answer:
        """What a store answers; its errors become a DataError of one line."""
        try:
            return question()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{shown(self.path(name))}: {one_line(error, limit=300)}") from error

    def _walk_remote(self, left_out: LeftOut) -> Iterator[Entry]:
        filesystem, root = _filesystem(self.address)
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                infos = filesystem.get_file_info(pafs.FileSelector(_join(root, folder)))
            except (OSError, pa.ArrowException) as error:
                left_out.problems.append(f"{shown(self.path(folder))}: {one_line(error, limit=300)}")
                continue
            folders: list[str] = []
            for info in sorted(infos, key=lambda info: os.fsencode(info.base_name)):
                if is_hidden(info.base_name):
                    left_out.add_hidden(info.base_name)
                elif info.type == pafs.FileType.Directory:
                    folders.append(_join(folder, info.base_name))
                else:
                    yield _entry(os.fsencode(_join(folder, info.base_name)), info)
            waiting.extend(reversed(folders))


@lru_cache(maxsize=8)
def _filesystem(address: str) -> tuple[Any, str]:
    """The store behind an address, and the path in it. Kept, since a new S3 client asks for its bucket's region."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError) as error:
        reason = one_line(error, limit=300).replace(address, str(Place(address)))  # it may quote a password
        raise DataError(f"{Place(address)}: not a known kind of address: {reason}") from error
    return filesystem, path


def _walk_local(folder: str, left_out: LeftOut) -> Iterator[Entry]:
    for file in walk(folder, left_out):
        status = file.status()
        size, modified = (-1, 0) if status is None else (status.st_size, status.st_mtime_ns)
        yield Entry(os.fsencode(file.name), size, modified)


def _entry(name: bytes, info: pafs.FileInfo) -> Entry:
    return Entry(name, -1 if info.size is None else info.size, info.mtime_ns or 0)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
