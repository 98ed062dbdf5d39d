"""Decide where results, annotated copies and plots go: never two to one place, and never over an input.

Only regular files are replaced. Results can also go into a pipe or to standard output; devices, sockets and links are
refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fer_deploy.errors import DataError
from fer_deploy.files import identity_of, kind_of_file, shown
from fer_deploy.reading.inputs import Source


@dataclass(frozen=True)
class Outputs:
    """The files written for one source besides its rows.

    Attributes:
        copy: the annotated picture or video; None for none.
        plot: the plot of a video; None for none.
    """

    copy: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True)
class Target:
    """Where the table of results goes.

    Attributes:
        path: the file.
        is_stream: whether rows are written into it as they come: a pipe, or one of this process's own files such as
            /dev/stdout. Other files appear when they are complete.
        descriptor: the number of the process's own file; None for others.
    """

    path: Path
    is_stream: bool = False
    descriptor: int | None = None

    def open(self) -> BinaryIO:
        """Open a stream for writing; a named pipe waits for its reader."""
        return self.path.open("wb") if self.descriptor is None else os.fdopen(os.dup(self.descriptor), "wb")


def target_of(path: Path, inputs: Mapping[str, Iterable[Path]]) -> Target:
    """Check where the table of results is to go. Nothing is written yet.

    Args:
        path: what the user named.
        inputs: files that must not be replaced, by what they are: {"input": ..., "list of names": ...}.

    Raises:
        DataError: it is one of the inputs, under any name, or a device, a socket or a link.
    """
    inherited = re.fullmatch(r"/dev/(?:fd/(\d+)|(stdout)|(stderr))|/proc/self/fd/(\d+)", str(path))
    if inherited:
        number = inherited[1] or inherited[4] or (1 if inherited[2] else 2)
        return Target(path, is_stream=True, descriptor=int(number))
    for what, files in inputs.items():
        for file in files:
            if identity_of(file) is not None and identity_of(file) == identity_of(path):
                raise DataError(f"{shown(path)}: this is the {what} {shown(file)}: name another file for the results")
    if (kind := _kind(path)) == "a named pipe":
        return Target(path, is_stream=True)
    if kind is not None:
        raise DataError(
            f"{shown(path)}: {kind}, which is not replaced: name a file, or redirect the results: --csv > FILE"
        )
    return Target(path)


def outputs_of(
    sources: Sequence[Source],
    *,
    draw: Path | None,
    plot: Path | None,
    others: Mapping[str, Iterable[Path]] | None = None,
) -> dict[Source, Outputs]:
    """Choose the outputs of each source. Nothing is written yet.

    A copy keeps the source's path within its folder, and its name. An ending is appended if the copy has another
    format: the copy of clip.mov is clip.mov.mp4, its plot clip.mov.png. If two copies would be one file, all sources
    keep the paths under which they were named (a/1.jpg and b/1.jpg), and a number is added where those clash too.

    Args:
        sources: all inputs.
        draw: the folder for annotated copies; None for no copies.
        plot: the folder for plots of videos; None for no plots.
        others: further files that must not be replaced, by what they are.

    Raises:
        DataError: an output would overwrite a source or one of `others`, or is a link, a pipe or a device.
    """
    if draw is None and plot is None:
        return {}
    outputs, unique = _lay_out(sources, draw, plot, whole=False)
    if not unique:
        outputs, _ = _lay_out(sources, draw, plot, whole=True)
    _refuse_inputs(outputs, others or {})
    return outputs


def _lay_out(
    sources: Sequence[Source], draw: Path | None, plot: Path | None, *, whole: bool
) -> tuple[dict[Source, Outputs], bool]:
    """Outputs by the sources' `whole` paths or their places, and whether no number had to be added."""
    taken: set[str] = set()
    unique = True

    def free(path: Path) -> Path:
        nonlocal unique
        candidate, number = path, 1
        while (key := str(candidate).casefold()) in taken:  # the file system may ignore case
            unique, number = False, number + 1
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        taken.add(key)
        return candidate

    outputs: dict[Source, Outputs] = {}
    for source in sources:
        place = _inside(source, whole=whole)
        copy = free(draw / _copy_of(source, place)) if draw is not None else None
        outputs[source] = Outputs(copy, free(plot / f"{place}.png") if plot is not None and source.is_video else None)
    return outputs, unique


def _inside(source: Source, *, whole: bool) -> Path:
    """The path of a source's output within an output folder; never outside it."""
    if source.is_standard_input:
        return Path("stdin.png")
    named = source.path if whole else source.place
    parts = [part for part in named.parts if part not in ("..", "/", os.sep) and not part.endswith(":\\")]
    return Path(*parts) if parts else Path("picture")


def _copy_of(source: Source, place: Path) -> Path:
    """`place` with the ending of the format that the copy is written in."""
    if source.is_video:
        return place if place.suffix.lower() == ".mp4" else place.with_name(f"{place.name}.mp4")
    from fer_deploy.reading.draw import saved_as

    return saved_as(place)


def _refuse_inputs(outputs: dict[Source, Outputs], others: Mapping[str, Iterable[Path]]) -> None:
    """DataError if an output is one of the sources or of `others`, under any name, or no regular file."""
    inputs = {
        identity: f"input {source.name}" for source in outputs if (identity := identity_of(source.path)) is not None
    }
    for what, files in others.items():
        inputs |= {identity: f"{what} {shown(file)}" for file in files if (identity := identity_of(file)) is not None}
    for source, output in outputs.items():
        for path, what in ((output.copy, "annotated copy"), (output.plot, "plot")):
            if path is None:
                continue
            if (identity := identity_of(path)) in inputs and identity is not None:
                raise DataError(
                    f"{source.name}: its {what} would overwrite the {inputs[identity]}: "
                    f"name a folder without inputs instead of {shown(path.parent)}"
                )
            if (kind := _kind(path)) is not None:
                raise DataError(f"{source.name}: its {what} would replace {shown(path)}, {kind}: name another folder")


def _kind(path: Path) -> str | None:
    """What is at `path` other than a regular file; None if that is one, or nothing is there."""
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return None if stat.S_ISREG(mode) else kind_of_file(mode)
