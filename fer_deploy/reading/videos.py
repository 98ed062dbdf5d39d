"""Read the faces of a video frame by frame, follow each through time, and write its annotated copy and plot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fer_deploy.detection.box import Box
from fer_deploy.errors import DataError
from fer_deploy.files import shown
from fer_deploy.reading.inputs import Source
from fer_deploy.reading.outputs import Outputs
from fer_deploy.reading.pictures import FaceReader
from fer_deploy.reading.rows import FaceRow
from fer_deploy.reading.smooth import DEFAULT_CONSTANT_S, Smoother
from fer_deploy.reading.track import Tracker
from fer_deploy.recognizer import Recognition

_WHOLE_FRAME = Box(0, 0, 1, 1)
"""Stands for the box of a face that fills its frame: the same box in every frame makes one track."""


@dataclass(frozen=True)
class FrameFaces:
    """The faces of one frame.

    Attributes:
        number: the frame's number from 0.
        time_s: its time in seconds since the first frame.
        faces: what was read.
    """

    number: int
    time_s: float
    faces: Sequence[Recognition]


class Follower:
    """Turns the faces of successive frames into rows: adds each face's track and smoothed result.

    Args:
        name: the video's name, for the rows.
        constant_s: the time constant of smoothing, in seconds.
    """

    def __init__(self, name: str, constant_s: float = DEFAULT_CONSTANT_S) -> None:
        self._name = name
        self._tracker, self._smoother = Tracker(), Smoother(constant_s)

    def rows(self, frame: FrameFaces) -> list[FaceRow]:
        """One row for each face of the next frame."""
        tracks = self._tracker.update([face.box or _WHOLE_FRAME for face in frame.faces], frame.time_s)
        return [
            FaceRow(
                self._name, face, frame.number, frame.time_s, track, self._smoother.update(track, face, frame.time_s)
            )
            for face, track in zip(frame.faces, tracks, strict=True)
        ]


@dataclass
class Remarks:
    """What a user must know about a file that was read.

    Attributes:
        notes: what was assumed or changed, one line each.
        loss: what the file states but could not be read, in one line; None if all was read.
        turned: whether this is a picture that was turned upright.
    """

    notes: list[str] = field(default_factory=list)
    loss: str | None = None
    turned: bool = False


def read_frames(
    path: Path,
    reader: FaceReader,
    remarks: Remarks,
    *,
    every: int,
    start: int,
    on_frame: Callable[[int, int | None], None],
) -> Iterator[FrameFaces]:
    """Read the faces of a video's frames.

    Args:
        path: the video.
        reader: finds and classifies the faces.
        remarks: filled when the last frame has been read.
        every: read each `every`th frame.
        start: read no frame before this number.
        on_frame: called after each frame with the number of frames so far and their total, None if unknown.

    Raises:
        DataError: the video cannot be read.
    """
    from fer_deploy.reading.decode import Video

    with Video(path) as video:
        for frame in video.frames(every=every, start=start):
            yield FrameFaces(frame.number, frame.time_s, reader.read(frame.pixels))
            on_frame(frame.number + 1, video.facts.frames)
        remarks.notes += video.notes()
        remarks.loss = video.loss()


def write_outputs(
    source: Source, rows: Sequence[FaceRow], outputs: Outputs, *, labels: tuple[str, ...], every: int
) -> list[str]:
    """Write a video's plot and annotated copy.

    Args:
        source: the video.
        rows: all its rows, in order of time.
        outputs: where to write.
        labels: the model's labels.
        every: which frames were read: each `every`th.

    Returns:
        Remarks of one line each.

    Raises:
        DataError: a file cannot be written, or the video cannot be read again.
    """
    notes = []
    try:
        if outputs.plot is not None:
            from fer_deploy.reading.plot import plot_probabilities

            remarks = plot_probabilities(outputs.plot, rows, labels, title=source.name)
            notes += [f"{source.name}: {remark}" for remark in remarks]
        if outputs.copy is not None:
            _write_copy(source.path, outputs.copy, rows, every=every)
    except OSError as error:
        where = shown(error.filename or outputs.plot or outputs.copy or source.path)
        raise DataError(f"{where}: cannot be written: {error.strerror or error}") from error
    return notes


def _write_copy(source: Path, target: Path, rows: Sequence[FaceRow], *, every: int) -> None:
    """Write an MP4 file without sound: frames between those that were read show the boxes of the last one read."""
    from fer_deploy.reading.decode import Video
    from fer_deploy.reading.draw import annotate
    from fer_deploy.reading.encode import writing_video

    by_frame: dict[int, list[FaceRow]] = {}
    for row in rows:
        by_frame.setdefault(row.frame or 0, []).append(row)
    with Video(source) as video, writing_video(target, frames_per_s=video.facts.frames_per_s) as writer:
        for frame in video.frames():
            drawn = by_frame.get(frame.number - frame.number % every, [])
            faces = [row.smoothed or row.face for row in drawn]
            names = [f"#{row.track}" for row in drawn]
            writer.write(annotate(frame.pixels, faces, names=names), frame.time_s)
