"""Find the files that the words of a command line mean: files, folders, patterns, a list of names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fer_deploy.errors import DataError
from fer_deploy.files import decode_text, marked_encoding, open_regular, shown
from fer_deploy.folders import LeftOut, is_hidden, walk
from fer_deploy.pictures import PICTURE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {
        ".264", ".265", ".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".divx", ".dv", ".dvr-ms", ".f4v", ".flv",
        ".h264", ".h265", ".hevc", ".insv", ".ismv", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2",
        ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf",
        ".nut", ".obu", ".ogm", ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vob", ".webm",
        ".wmv", ".wtv", ".xvid", ".y4m",
    }
)  # fmt: skip
"""Endings, in lower case, of files that are read as videos."""

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://?", re.IGNORECASE)
"""The start of an address, perhaps with one of its slashes lost in a path. A single letter is a drive of Windows."""

_VIDEO_STARTS = (
    *(b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"0&\xb2u\x8ef\xcf\x11", b"DKIF", b"YUV4MPEG2 ", b"\x06\x0e+4"),
    *(b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"),
)
"""First bytes of Matroska, Flash, Ogg, ASF, IVF, YUV4MPEG, MXF, and MPEG program and video streams."""

STANDARD_INPUT = "-"
"""The word for a picture on standard input."""


@dataclass(frozen=True)
class Source:
    """One picture or video to read.

    Attributes:
        path: the file; `Path("-")` is standard input.
        place: the path of its annotated copy within an output folder: its path within the folder that was named, or
            the file's name.
    """

    path: Path
    place: Path

    @property
    def name(self) -> str:
        """The path as one printable line."""
        return shown(self.path)

    @property
    def text(self) -> str:
        """The path as text, for JSON, which escapes control characters itself; bytes that are not UTF-8 are escaped."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    @cached_property
    def is_video(self) -> bool:
        """Whether the file is read as a video: judged by its ending or, if that is unknown, by its first bytes."""
        ending = self.path.suffix.lower()
        if ending in PICTURE_SUFFIXES or self.is_standard_input:
            return False
        return ending in VIDEO_SUFFIXES or _begins_as_video(self.path)

    @property
    def is_standard_input(self) -> bool:
        """Whether this is a picture on standard input."""
        return str(self.path) == STANDARD_INPUT


@dataclass(frozen=True)
class Inputs:
    """The files that were found.

    Attributes:
        sources: pictures and videos, each once, in the order named; those of a folder in `folders.walk`'s order.
        problems: one line for each word that names nothing readable, and for each folder that cannot be searched.
        left_out: counts what the search of folders and patterns left out, by reason.
    """

    sources: tuple[Source, ...]
    problems: tuple[str, ...]
    left_out: LeftOut


def find_inputs(words: Iterable[str | os.PathLike[str]], *, except_in: Collection[Path] = ()) -> Inputs:
    """Find pictures and videos. No file is opened: one that cannot be read is reported when it is read.

    Args:
        words: files (read whatever their ending), folders (searched by the rule of `folders.walk`), patterns with `*`,
            `?`, `[...]` and `**` (for shells that do not expand them), or `-`.
        except_in: folders that are not searched when they lie in another, such as the output folders of earlier runs.
    """
    search = _Search(except_in)
    for word in words:
        search.add_word(os.fspath(word))
    return Inputs(tuple(search.sources.values()), tuple(search.problems), search.left_out)


def read_names(content: bytes) -> Sequence[str]:
    """File names from a list: one per line, or separated by zero bytes as `find -print0` writes them.

    The list may be UTF-8, UTF-16 or UTF-32 with a byte order mark: PowerShell's `>` writes UTF-16. Without a mark its
    names are bytes, as file systems have them, unless every second byte is zero: then it is UTF-16 all the same.

    Raises:
        DataError: the list is empty, or is not text in the encoding that its mark states.
    """
    if encoding := _utf16_without_mark(content):
        content = content.decode(encoding, "replace").encode("utf-8", "surrogatepass")
    elif marked_encoding(content):
        content = decode_text(content, source="the list of files").encode("utf-8", "surrogatepass")
    separator = b"\0" if b"\0" in content else b"\n"
    names = [os.fsdecode(name.removesuffix(b"\r") if separator == b"\n" else name) for name in content.split(separator)]
    names = [name for name in names if name]
    if not names:
        raise DataError("the list of files is empty")
    return names


def _utf16_without_mark(content: bytes) -> str | None:
    """The encoding of a list in UTF-16 without a byte order mark; None for any other."""
    if len(content) < 4 or len(content) % 2 or marked_encoding(content):
        return None
    even, odd = set(content[:200:2]), set(content[1:200:2])
    # A list of names of one character each, separated by zero bytes, would look the same, but is improbable.
    if odd == {0} and 0 not in even:
        return "utf-16-le"
    return "utf-16-be" if even == {0} and 0 not in odd else None


def _begins_as_video(path: Path) -> bool:
    """Whether the first bytes of a file are those of a video container."""
    try:
        with open_regular(path) as file:
            start = file.read(400)
    except (DataError, OSError):
        return False
    if start[4:8] == b"ftyp":  # HEIC and AVIF pictures are files of this family too
        return start[8:12] not in (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis")
    is_transport_stream = any(start[at::packet][:2] == b"GG" for at, packet in ((0, 188), (4, 192)))
    is_avi = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    return is_transport_stream or is_avi or start.startswith(_VIDEO_STARTS) or start[4:8] in (b"moov", b"mdat", b"wide")


class _Search:
    """Collects the files that words mean."""

    def __init__(self, except_in: Collection[Path]) -> None:
        self.sources: dict[str, Source] = {}
        self.problems: list[str] = []
        self.left_out = LeftOut()
        self._except_in = except_in

    def add_word(self, word: str) -> None:
        """Add the files that one word means."""
        if word == STANDARD_INPUT:
            self._add(Path(word), Path(word))
        elif (address := _ADDRESS.match(word)) and not os.path.lexists(word):
            remedy = "name the file by its path" if address[1].lower() == "file" else "download it, and name the file"
            self.problems.append(f"{shown(word)}: addresses are not read: {remedy}")
        elif _is_folder(word):
            self._add_folder(Path(word))
        elif glob.has_magic(word) and not os.path.lexists(word):
            self._add_matches(word)
        else:
            self._add(Path(word), Path(Path(word).name))

    def _add(self, path: Path, place: Path) -> None:
        self.sources.setdefault(os.path.normpath(path), Source(path, place))

    def _add_folder(self, folder: Path) -> None:
        count = 0
        before = len(self.left_out.problems)
        # A folder that is named is searched, even if it is one of the folders that searches of others leave out.
        except_in = [place for place in self._except_in if not _is_same(place, folder)]
        for file in walk(folder, self.left_out, suffixes=PICTURE_SUFFIXES | VIDEO_SUFFIXES, except_in=except_in):
            self._add(folder / file.name, Path(file.name))
            count += 1
        self.problems += self.left_out.problems[before:]
        if not count:
            self.problems.append(f"{shown(folder)}: no picture or video in this folder")

    def _add_matches(self, pattern: str) -> None:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        # As a shell would, a pattern that matches a folder names it; `**` lists the contents of folders itself.
        matches = [match for match in matches if "**" not in pattern or not _is_folder(match)]
        if not matches:
            self.problems.append(f"{shown(pattern)}: no file matches this pattern")
        for match in matches:
            if is_hidden(Path(match).name):
                self.left_out.add_hidden(Path(match).name)
            elif _is_folder(match):
                self._add_folder(Path(match))
            else:
                self._add(Path(match), Path(Path(match).name))


def _is_folder(path: str) -> bool:
    """Whether it is a folder; False for names too long or in a locked folder, for which `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False
