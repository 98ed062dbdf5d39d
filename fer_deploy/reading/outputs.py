"""Decide where annotated copies and plots go: never two to one place, and never over an input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_deploy.errors import DataError
from fer_deploy.files import shown
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


def outputs_of(sources: Sequence[Source], *, draw: Path | None, plot: Path | None) -> dict[Source, Outputs]:
    """Choose the outputs of each source. Nothing is written yet.

    A copy keeps the source's path within its folder, and its name. An ending is appended if the copy has another
    format: the copy of clip.mov is clip.mov.mp4, its plot clip.mov.png. If two copies would be one file, all sources
    keep the paths under which they were named (a/1.jpg and b/1.jpg), and a number is added where those clash too.

    Args:
        sources: all inputs.
        draw: the folder for annotated copies; None for no copies.
        plot: the folder for plots of videos; None for no plots.

    Raises:
        DataError: an output would overwrite a source.
    """
    if draw is None and plot is None:
        return {}
    outputs, unique = _lay_out(sources, draw, plot, whole=False)
    if not unique:
        outputs, _ = _lay_out(sources, draw, plot, whole=True)
    _refuse_sources(outputs)
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


def _refuse_sources(outputs: dict[Source, Outputs]) -> None:
    """DataError if an output is one of the sources, under any name."""
    inputs = {identity: source for source in outputs if (identity := _identity(source.path)) is not None}
    for source, output in outputs.items():
        for path, what in ((output.copy, "annotated copy"), (output.plot, "plot")):
            identity = None if path is None else _identity(path)
            if path is not None and identity in inputs:
                raise DataError(
                    f"{source.name}: its {what} would overwrite the input {inputs[identity].name}: "
                    f"name a folder without inputs instead of {shown(path.parent)}"
                )


def _identity(path: Path) -> tuple[int, int] | None:
    """Identifies a file whatever its name, also through links; None if there is no such file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
