"""Count the recordings in a file that was joined from several by their bytes, as `cat` does.

FFmpeg, like most players, reads such a file of these formats only to the first join, and reports nothing. Other formats
(MPEG-TS, Matroska, AVI, fragmented MP4) are read to their end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_MOST_PARTS = 1_000_000
"""A file is followed for at most so many parts."""

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
"""The identifier that every ASF (WMV) file begins with."""


def joined_recordings(file: BinaryIO) -> int:
    """How many recordings lie one after the other in an open video file; 1 for formats that are read to their end.

    Only the sizes of the file's parts are read: boxes of MP4 and MOV, tags of FLV, objects of ASF.
    """
    file.seek(0)
    start = file.read(16)
    if start[4:8] == b"ftyp":
        return _count_mp4(file)
    if start[:4] == b"FLV\x01":
        return _count_flv(file)
    if start == _ASF_HEADER:
        return sum(name == _ASF_HEADER for name, _ in _parts(file, name_bytes=16, size_bytes=8, is_asf=True))
    return 1


def _count_mp4(file: BinaryIO) -> int:
    count = 0
    for name, _ in _parts(file, name_bytes=4, size_bytes=4):
        if name == b"moof":  # a fragmented file, whose joins are read
            return 1
        count += name == b"ftyp"
    return count


def _parts(file: BinaryIO, *, name_bytes: int, size_bytes: int, is_asf: bool = False) -> Iterator[tuple[bytes, int]]:
    """The name and size of each part of a file of boxes (size, then name) or, for ASF, of objects (name, then size)."""
    end = file.seek(0, os.SEEK_END)
    place = 0
    for _ in range(_MOST_PARTS):
        file.seek(place)
        head = file.read(name_bytes + size_bytes)
        if len(head) < name_bytes + size_bytes:
            return
        if is_asf:
            name, size = head[:name_bytes], int.from_bytes(head[name_bytes:], "little")
        else:
            name, size = head[size_bytes:], int.from_bytes(head[:size_bytes], "big")
            if size == 1:  # the size follows, in eight bytes
                size = int.from_bytes(file.read(8), "big")
        yield name, size
        if size < name_bytes + size_bytes or place + size > end:  # to the end of the file, or damaged
            return
        place += size


def _count_flv(file: BinaryIO) -> int:
    """A tag is a byte of its kind, three of its size, seven others, its content, and four of its whole size."""
    count, place = 0, 0
    for _ in range(_MOST_PARTS):
        file.seek(place)
        head = file.read(11)
        if len(head) < 9:
            break
        if head[:4] == b"FLV\x01":
            count += 1
            place += int.from_bytes(head[5:9], "big") + 4
        else:
            place += 11 + int.from_bytes(head[1:4], "big") + 4
    return max(1, count)
