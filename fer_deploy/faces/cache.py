"""Pictures that were read or resized once are kept in files, so that the next start is quick and memory stays small.

A file holds pixels, which are memory-mapped if they are many, and after them some arrays that describe them. Its name
is a hash of a key, which depends on everything that the content depends on. Files are whole or absent. A damaged file,
or one of another version, is deleted and written again. Of two processes that need the same file, the second waits for
the first. Where the cache cannot be written, pictures go to a temporary file or to memory. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.files import lock, open_regular, replacing
from fer_deploy.machine import cache_folder, memory_bytes

FORMAT = 4
"""Increased whenever the same key may identify other content."""

IN_MEMORY = 256 << 20
"""Bytes of pixels up to which a file is read into memory, and its checksum verified; more are mapped."""

SHARE_OF_DISK = 4
"""The cache may take 1 / this of the disk's free space and its own size together, but always `LEAST`."""

LEAST = 1 << 30
"""Bytes that the cache may always take; FER2013 takes 83 MB."""

ABANDONED = 24 * 3600
"""Seconds without a change after which an unfinished file counts as left by a killed process."""

_MAGIC = b"ferfaces"
_TRAILER = len(_MAGIC) + 8


class Write(Protocol):
    """Appends pixels to a file of the cache."""

    def __call__(self, pixels: NDArray[np.uint8], /) -> None:
        """Append pixels of any shape."""


Build = Callable[[Write], Mapping[str, NDArray[Any]]]
"""Writes all pixels and returns the arrays that describe them. It may run again after a failure to write."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The content of a file of the cache.

    Attributes:
        pixels: uint8 (bytes,). Above `IN_MEMORY` bytes it is a mapped file that cannot be written to.
        arrays: what describes the pixels.
        notes: one sentence if the content could not be kept in the cache.
    """

    pixels: NDArray[np.uint8]
    arrays: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...] = ()


class _UnwritableError(Exception):
    """A file cannot be written: the reason is the text."""


def stored(key: str, build: Build) -> Kept:
    """What `build` makes: from the cache if it holds `key`; otherwise it is built, and kept if possible.

    Args:
        key: identifies the content.
        build: makes it. Its errors pass through, and nothing is kept then.

    Raises:
        DataError: neither the disk nor the memory has room.
    """
    folder = cache_folder()
    if folder is None:
        return _without_cache(build, "there is no folder for it")
    name = hashlib.sha256(f"{FORMAT} {key}".encode()).hexdigest()[:40]
    path = folder / "faces" / f"{name}.faces"
    entry = _load(path)
    if entry is not None:
        return entry
    with ExitStack() as held:
        try:
            held.enter_context(lock(path.with_suffix(".lock")))
        except (OSError, NotImplementedError) as error:  # NotImplementedError: a network folder without locks
            return _without_cache(build, getattr(error, "strerror", None) or str(error))
        entry = _load(path)  # another process may have written it while this one waited
        if entry is not None:
            return entry
        try:
            _save(path, build)
        except _UnwritableError as error:
            return _without_cache(build, str(error))
        with suppress(OSError):
            _drop_old(path)
        return _load(path) or _without_cache(build, "the file vanished")


def _load(path: Path) -> Kept | None:
    try:
        # open_regular does not block on a named pipe. np.load verifies the checksum of each array.
        with open_regular(path) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(size - _TRAILER)
            trailer = file.read(_TRAILER)
            length = int.from_bytes(trailer[len(_MAGIC) :], "little")
            count = size - _TRAILER - length
            if not trailer.startswith(_MAGIC) or count < 0:
                raise ValueError("not a file of the cache")
            file.seek(count)
            with np.load(io.BytesIO(file.read(length)), allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            if int(arrays.pop("pixel bytes")) != count:
                raise ValueError("cut short")
            pixels = _pixels(file, count)
            checksum = int(arrays.pop("checksum"))
            if count <= IN_MEMORY and checksum != zlib.crc32(pixels.data):
                raise ValueError("damaged")
    except Exception:  # whatever is wrong with the file, its content can be made again
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        path.touch()  # records its last use for _drop_old
    return Kept(pixels, arrays)


def _pixels(file: IO[bytes], count: int) -> NDArray[np.uint8]:
    """The first `count` bytes of a file, in memory or mapped."""
    if count > IN_MEMORY:
        return np.memmap(file, np.uint8, "r", shape=(count,))
    pixels = np.empty(count, np.uint8)
    file.seek(0)
    if file.readinto(pixels.data) != count:  # type: ignore[attr-defined]  # binary files have it, and IO does not say so
        raise OSError("the file is shorter than it was")
    return pixels


def _save(path: Path, build: Build) -> None:
    """Write the file. What `build` raises passes through; _UnwritableError if writing fails."""
    passing: list[Exception] = []
    try:
        with suppress(OSError):
            for partial in path.parent.glob(f".{path.name}.*.partial"):  # we hold the lock: nobody writes to these
                partial.unlink()
        with replacing(path) as temporary, temporary.open("wb", buffering=0) as file:
            writer = _PixelWriter(file, lambda: _make_room(path))
            try:
                arrays = build(writer)
            except Exception as error:
                passing.append(error)
                raise
            writer.finish(arrays)
    except OSError as error:
        if error in passing:
            raise
        raise _UnwritableError(error.strerror or str(error)) from error


class _PixelWriter:
    """Appends pixels to an unbuffered file and sums them up."""

    def __init__(self, file: IO[bytes], make_room: Callable[[], bool]) -> None:
        self._file, self._make_room = file, make_room
        self.checksum = self.size = 0

    def __call__(self, pixels: NDArray[np.uint8], /) -> None:
        content = np.ascontiguousarray(pixels).reshape(-1).data
        self.checksum = zlib.crc32(content, self.checksum)
        self.size += len(content)
        self._write(content)

    def finish(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the arrays and the trailer."""
        content = io.BytesIO()
        counts = {"pixel bytes": np.array(self.size), "checksum": np.array(self.checksum)}
        np.savez(content, **{**arrays, **counts})  # type: ignore[arg-type]
        length = content.tell()
        self._write(content.getbuffer())
        self._write(memoryview(_MAGIC + length.to_bytes(8, "little")))

    def _write(self, content: memoryview) -> None:
        while len(content):
            try:
                content = content[self._file.write(content) :]
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._make_room():
                    raise _UnwritableError(error.strerror or str(error)) from error


def _without_cache(build: Build, reason: str) -> Kept:
    """The content in a temporary file, which vanishes with this process, or in memory."""
    note = f"the cache cannot be written ({reason}): what is read or resized now is not kept for the next time"
    try:
        temporary = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  it is closed below
    except OSError:
        temporary = None
    if temporary is not None:
        with temporary, suppress(_UnwritableError):
            writer = _PixelWriter(temporary, lambda: False)
            arrays = build(writer)
            return Kept(_pixels(temporary, writer.size), arrays, (note,))
    memory = _Memory()
    arrays = build(memory)
    return Kept(np.frombuffer(memory.content, np.uint8), arrays, (note,))


class _Memory:
    """Keeps pixels in memory, up to half of the machine's."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._most = (memory_bytes() or 4 << 30) // 2

    def __call__(self, pixels: NDArray[np.uint8], /) -> None:
        self.content += np.ascontiguousarray(pixels).reshape(-1).data
        if len(self.content) > self._most:
            raise DataError(
                "the pictures fit neither on the disk of the cache, nor into temporary files, nor into half of the "
                "memory: free some space, or name a folder with room in $FERDEPLOY_CACHE"
            )


def _files(folder: Path, *, but: Path) -> list[tuple[float, int, Path]]:
    """The finished files of the cache with their last use and size, least recently used first."""
    found = []
    for path in [*folder.glob("*.faces"), *folder.glob("*.npz")]:  # .npz: of earlier versions
        if path != but:
            with suppress(OSError):  # another process deleted it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
    return sorted(found)


def _make_room(path: Path) -> bool:
    """Delete the file that was used longest ago; whether there was one."""
    for _used, _size, oldest in _files(path.parent, but=path):
        with suppress(OSError):
            oldest.unlink()
            return True
    return False


def _drop_old(new: Path) -> None:
    """Delete the files that were used longest ago until the cache takes no more than it may; the new one stays."""
    others = _files(new.parent, but=new)
    taken = new.stat().st_size + sum(size for _, size, _ in others)
    allowed = max(LEAST, (shutil.disk_usage(new.parent).free + taken) // SHARE_OF_DISK)
    for _, size, path in others:
        if taken <= allowed:
            break
        path.unlink()
        taken -= size
    for path in [*new.parent.glob(".*.partial"), *new.parent.glob("*.lock")]:
        if path.stem != new.stem and time.time() - path.stat().st_mtime > ABANDONED:
            path.unlink()
