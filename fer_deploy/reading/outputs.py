"""Where annotated copies and plots go: no two to one place, and none over a file that is to be read."""

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
    """What is written of one source besides its rows.

    Attributes:
        copy: the annotated picture or video; None for none.
        plot: a video's plot; None for none.
    """

    copy: Path | None = None
    plot: Path | None = None


def outputs_of(sources: Sequence[Source], *, draw: Path | None, plot: Path | None) -> dict[Source, Outputs]:
    """Each source's outputs: annotated copies below the folder `draw`, plots below `plot`, None for none of them.

    A source keeps its place and its name, with an ending behind it where another format is written: clip.mov's copy is
    clip.mov.mp4, its plot clip.mov.png. Where two would be one file, all sources are placed by their paths as they were
    named, a/1.jpg and b/1.jpg, and numbered where that does not tell them apart either. Nothing is written yet.

    Raises:
        DataError: one would be written over a source.
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
    """Outputs by the sources' `whole` paths or their places, and whether none had to be numbered."""
    taken: set[str] = set()
    unique = True

    def free(path: Path) -> Path:
        nonlocal unique
        found, number = path, 1
        while (key := str(found).casefold()) in taken:  # a folder may be one that ignores case
            unique, number = False, number + 1
            found = path.with_name(f"{path.stem}-{number}{path.suffix}")
        taken.add(key)
        return found

    outputs: dict[Source, Outputs] = {}
    for source in sources:
        place = _inside(source, whole=whole)
        copy = free(draw / _copy_of(source, place)) if draw is not None else None
        outputs[source] = Outputs(copy, free(plot / f"{place}.png") if plot is not None and source.is_video else None)
    return outputs, unique


def _inside(source: Source, *, whole: bool) -> Path:
    """Where below an output folder what is made of a source goes; never outside it."""
    if source.is_standard_input:
        return Path("stdin.png")
    named = source.path if whole else source.place
    parts = [part for part in named.parts if part not in ("..", "/", os.sep) and not part.endswith(":\\")]
    return Path(*parts) if parts else Path("picture")


def _copy_of(source: Source, place: Path) -> Path:
    """`place` with an ending that a copy of the source's kind is written with."""
    if source.is_video:
        return place if place.suffix.lower() == ".mp4" else place.with_name(f"{place.name}.mp4")
    from fer_deploy.reading.draw import saved_as

    return saved_as(place)


def _refuse_sources(outputs: dict[Source, Outputs]) -> None:
    """DataError when an output is, by whatever name, a file that is to be read."""
    read = {identity: source for source in outputs if (identity := _identity(source.path)) is not None}
    for source, output in outputs.items():
        for path, what in ((output.copy, "annotated copy"), (output.plot, "plot")):
            identity = None if path is None else _identity(path)
            if path is not None and identity in read:
                over = read[identity]
                raise DataError(
                    f"{source.name}: its {what} would be written over {over.name}, which is to be read: "
                    f"give a folder that nothing is read from, not {shown(path.parent)}"
                )


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from every other one, whatever it is called; None when there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
