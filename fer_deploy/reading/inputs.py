"""Which files are meant by the words on a command line: files, folders, patterns, a list of names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_deploy.errors import DataError
from fer_deploy.files import shown
from fer_deploy.pictures import PICTURE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
"""Endings, lower case, of files that are read as videos."""

STANDARD_INPUT = "-"
"""The word that stands for a picture's bytes on standard input."""


@dataclass(frozen=True)
class Source:
    """One picture or video to read.

    Attributes:
        path: the file; `Path("-")` stands for standard input.
        place: where its annotated copy goes below an output folder: the path within the folder that was named, or the
            file's name.
    """

    path: Path
    place: Path

    @property
    def name(self) -> str:
        """The path as one printable line."""
        return shown(self.path)

    @property
    def is_video(self) -> bool:
        """Whether the file is read as a video, by its ending."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def is_standard_input(self) -> bool:
        """Whether it is a picture's bytes on standard input."""
        return str(self.path) == STANDARD_INPUT


@dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        sources: pictures and videos, each once, in the order named; a folder's in the order of their names.
        problems: one line for each word that names nothing readable.
        others: how many files in folders are neither pictures nor videos, by their endings.
    """

    sources: tuple[Source, ...]
    problems: tuple[str, ...]
    others: int = 0


def find_inputs(words: Iterable[str | os.PathLike[str]], *, leave_out: Iterable[Path] = ()) -> Inputs:
    """Find the pictures and videos that are meant.

    Args:
        words: files (read whatever their ending), folders (searched with their subfolders, symbolic links to folders
            left alone, so that a loop of them ends), patterns with `*`, `?`, `[...]` and `**` (for shells that do not
            expand them), or `-`.
        leave_out: folders that are left alone where they lie in one that is searched, such as those that a run before
            this one has written its pictures to.

    Returns:
        What was found. Nothing is opened: a file that cannot be read shows when its turn comes.
    """
    sources: dict[str, Source] = {}
    problems: list[str] = []
    others = 0
    written = frozenset(folder.resolve() for folder in leave_out)

    def add(path: Path, place: Path) -> None:
        sources.setdefault(os.path.normpath(path), Source(path, place))

    for word in words:
        path = Path(word)
        if str(word) != STANDARD_INPUT and _is_folder(path):
            before = len(sources)
            for found in _walk(path, problems, leave_out=written):
                if found.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
                    add(found, found.relative_to(path))
                else:
                    others += 1
            if len(sources) == before:
                problems.append(f"{shown(path)}: no picture or video in this folder")
        elif glob.has_magic(str(word)) and not _is_there(path):
            matches = sorted(glob.glob(str(word), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
            files = [Path(match) for match in matches if not _is_folder(Path(match))]
            if not files:
                problems.append(f"{shown(path)}: no file matches this pattern")
            for found in files:
                add(found, Path(found.name))
        else:
            add(path, Path(path.name))
    return Inputs(tuple(sources.values()), tuple(problems), others)


def read_names(content: bytes) -> Sequence[str]:
    """File names from a list: one a line, or separated by zero bytes as `find -print0` writes them.

    Raises:
        DataError: the list is empty.
    """
    separator = b"\0" if b"\0" in content else b"\n"
    names = [os.fsdecode(name.removesuffix(b"\r") if separator == b"\n" else name) for name in content.split(separator)]
    names = [name for name in names if name]
    if not names:
        raise DataError("the list of files is empty")
    return names


def _walk(folder: Path, problems: list[str], *, leave_out: frozenset[Path]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        problems.append(f"{shown(error.filename)}: cannot be searched: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not leave_out or Path(place, name).resolve() not in leave_out)
        for name in sorted(files):
            yield Path(place, name)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder; False, where `Path.is_dir` raises, of a name too long or in a folder that is locked."""
    return os.path.isdir(path)  # noqa: PTH112


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)
