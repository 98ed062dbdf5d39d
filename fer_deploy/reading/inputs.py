"""Find the files that the words of a command line mean: files, folders, patterns, a list of names."""

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
"""Endings, in lower case, of files that are read as videos."""

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
    def is_video(self) -> bool:
        """Whether the file is read as a video, judged by its ending."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def is_standard_input(self) -> bool:
        """Whether this is a picture on standard input."""
        return str(self.path) == STANDARD_INPUT


@dataclass(frozen=True)
class Inputs:
    """The files that were found.

    Attributes:
        sources: pictures and videos, each once, in the order named; those of a folder sorted by name.
        problems: one line for each word that names nothing readable.
        others: how many files in folders have the ending of neither a picture nor a video.
    """

    sources: tuple[Source, ...]
    problems: tuple[str, ...]
    others: int = 0


def find_inputs(words: Iterable[str | os.PathLike[str]], *, leave_out: Iterable[Path] = ()) -> Inputs:
    """Find pictures and videos. No file is opened: one that cannot be read is reported when it is read.

    Args:
        words: files (read whatever their ending), folders (searched with their subfolders, but not through symbolic
            links), patterns with `*`, `?`, `[...]` and `**` (for shells that do not expand them), or `-`.
        leave_out: folders that are not searched when they lie in another, such as the output folders of earlier runs.
    """
    sources: dict[str, Source] = {}
    problems: list[str] = []
    others = 0
    excluded = frozenset(folder.resolve() for folder in leave_out)

    def add(path: Path, place: Path) -> None:
        sources.setdefault(os.path.normpath(path), Source(path, place))

    for word in words:
        path = Path(word)
        if str(word) != STANDARD_INPUT and _is_folder(path):
            before = len(sources)
            for found in _walk(path, problems, leave_out=excluded):
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
    """File names from a list: one per line, or separated by zero bytes as `find -print0` writes them.

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
    """Whether it is a folder; False for names too long or in a locked folder, for which `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)
