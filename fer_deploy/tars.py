"""Read tar archives from strangers: one member after another, with every claim checked against the bytes that exist.

Python's `tarfile` believes sizes. A header that claims a terabyte makes it read on for hours after the end of the file,
an extended header is read into memory whatever its size, and packed archives may unpack without end.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

HEADER_BYTES = 1 << 20
"""A larger extended header (a long name, a pax record) is refused."""

LARGEST_RATIO = 100
"""How many times its packed size an archive may unpack to, beyond `RATIO_COUNTS_FROM`. Encoded pictures reach 1.1."""

RATIO_COUNTS_FROM = 1 << 30
"""Unpacked bytes up to which any ratio is accepted."""

DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError, OverflowError)
"""What reading a damaged or hostile archive raises."""

_UNPACK: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def refuse_ratio(unpacked: int, packed: int) -> None:
    """Raise tarfile.ReadError if `packed` bytes that unpack to `unpacked` bytes are more than pictures can be."""
    if unpacked > max(RATIO_COUNTS_FROM, packed * LARGEST_RATIO):
        raise tarfile.ReadError(f"it unpacks to more than {LARGEST_RATIO} times its size")


def members_of(
    stream: IO[bytes], *, check: Callable[[int, int], None] = refuse_ratio
) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The members of a tar, plain or packed with gzip, bzip2 or xz, in the order of the file, with the open archive.

    Read a member with `archive.extractfile(member)` before the next one is taken. Members do not stay in memory.

    Args:
        stream: the file; it can seek.
        check: is called with the number of bytes that were unpacked so far and the size of the file, and raises if
            that is too much.

    Raises:
        tarfile.ReadError: a member claims more bytes than the rest of the file has, or an extended header is too large.
        Exception: one of `DAMAGE`: the archive is damaged or cut short.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(6)
    stream.seek(0)
    unpack = next((opener for magic, opener in _UNPACK.items() if head.startswith(magic)), None)
    source = _Checked(stream if unpack is None else unpack(stream), lambda unpacked: check(unpacked, size))
    # `r|` never seeks back. `ignore_zeros` is off, so that the end of the archive ends the iteration.
    with tarfile.open(fileobj=source, mode="r|", errorlevel=2, tarinfo=_CheckedTarInfo) as archive:  # type: ignore[call-overload]
        for member in archive:
            archive.members.clear()  # tarfile would keep every member in memory
            if unpack is None and archive.offset - tarfile.BLOCKSIZE >= size:  # the next header is beyond the end
                claimed = f"{member.size:,} bytes, more than the rest of the file"
                raise tarfile.ReadError(f"{member.name[:200]} claims {claimed}")
            yield member, archive


class _CheckedTarInfo(tarfile.TarInfo):
    """A member that refuses a huge extended header, which tarfile would read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"a size of {self.size:,} bytes")
        if not self.isreg() and self.size > HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


class _Checked:
    """A stream for tarfile that ends with an error where tarfile would read on, and does not unpack without end."""

    def __init__(self, stream: Any, check: Callable[[int], None]) -> None:
        self._stream, self._check = stream, check
        self._given = self._empty = 0

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._given += len(data)
        if not data:
            # An archive without its end mark is read to its end once. tarfile, in a member that claims more than there
            # is, would never end.
            self._empty += 1
            if self._empty > 3:
                raise EOFError("the file ends in the middle of a member")
        self._check(self._given)
        return data
