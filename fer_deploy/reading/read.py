"""Read pictures and videos one after the other, and go on where an earlier run stood.

One bad file gives one line and does not stop the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fer_deploy.detection.box import Box
from fer_deploy.detection.detector import FaceDetector
from fer_deploy.errors import DataError, FerDeployError
from fer_deploy.files import shown
from fer_deploy.pictures import MAXIMUM_BYTES, Pixels, read_picture
from fer_deploy.reading.inputs import Source
from fer_deploy.reading.journal import Journal
from fer_deploy.reading.outputs import Outputs
from fer_deploy.reading.rows import Row
from fer_deploy.reading.smooth import DEFAULT_CONSTANT_S, Smoother
from fer_deploy.recognizer import Recognition, Recognizer


@dataclass(frozen=True)
class Done:
    """A picture or video that is finished.

    Attributes:
        source: which.
        faces: how many rows it gave.
        error: why it could not be read, in one line; None when it could.
        notes: remarks, each one line, such as that only the first frame of an animation was read.
        was_done: an earlier run had done it.
    """

    source: Source
    faces: int
    error: str | None = None
    notes: tuple[str, ...] = ()
    was_done: bool = False


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        recognizer: the model.
        detector: finds the faces; None when each picture is a face.
        video_detector: finds those of videos; None takes `detector`.
        every: of videos, every how many frames one is read.
        smoothing_s: the time constant of videos' smoothing, seconds.
        outputs: where annotated copies and plots go, as `outputs_of` gives it; a source that it lacks has none.
        journal: remembers what is done; None for nothing to be remembered.
        on_frame: called with the number of frames of a video that were read, and how many there are, if known.
    """

    recognizer: Recognizer
    detector: FaceDetector | None = None
    video_detector: FaceDetector | None = None
    every: int = 1
    smoothing_s: float = DEFAULT_CONSTANT_S
    outputs: Mapping[Source, Outputs] = field(default_factory=dict)
    journal: Journal | None = None
    on_frame: Callable[[int, int | None], None] = field(default=lambda _done, _of: None)

    def read(self, sources: Iterable[Source]) -> Iterator[Row | Done]:
        """Read each source: its rows, then its `Done`.

        What an earlier run has done comes from the journal; a video that it stood in goes on after its last frame. What
        it could not read is tried again: a full disk or an absent package may have been the reason.
        """
        for source in sources:
            faces = 0
            notes: list[str] = []
            key = _key(source)
            journal = self._journal_of(source)
            finished = journal is not None and _is_finished(journal.entries(key))
            steps = self._again(source, key) if finished else self._anew(source, key, notes)
            try:
                for row in steps:
                    faces += 1
                    yield row
            except FerDeployError as error:
                text = " ".join(str(error).split())
                yield Done(source, faces, text, tuple(notes))
            else:
                if not faces and not notes:
                    notes.append(f"{source.name}: no face found")
                yield Done(source, faces, None, tuple(notes), was_done=finished)

    def _anew(self, source: Source, key: str, notes: list[str]) -> Iterator[Row]:
        if source.is_video:
            return self._video(source, key, notes)
        return self._picture(source, key, notes)

    def _again(self, source: Source, key: str) -> Iterator[Row]:
        """A finished source's rows, from the journal."""
        assert self.journal is not None
        smoothing = _Following(self.smoothing_s)
        for entry in self.journal.entries(key):
            faces = self._unpack(entry.get("faces", ()))
            if "frame" in entry:
                yield from smoothing.rows(source.name, entry["frame"], entry["time_s"], faces)
            else:
                yield from (Row(source.name, face) for face in faces)

    def _picture(self, source: Source, key: str, notes: list[str]) -> Iterator[Row]:
        if source.is_standard_input:
            content = sys.stdin.buffer.read(MAXIMUM_BYTES + 1)
            picture = read_picture(content, name="standard input")
        else:
            picture = read_picture(source.path)
        if picture.frames > 1:
            notes.append(f"{source.name}: {picture.frames} frames or pages, of which the first was read")
        faces = self._faces(picture.pixels, self.detector)
        if not faces:
            notes.append(f"{source.name}: no face found")
        copy = self._outputs(source).copy
        if copy is not None:
            from fer_deploy.reading.draw import annotate, save

            save(copy, annotate(picture.pixels, faces))
        journal = self._journal_of(source)
        if journal is not None:
            journal.add(key, {"faces": self._pack(faces), "done": True})
        yield from (Row(source.name, face) for face in faces)

    def _video(self, source: Source, key: str, notes: list[str]) -> Iterator[Row]:
        from fer_deploy.reading.decode import Video

        following = _Following(self.smoothing_s)
        kept: list[Row] | None = [] if self._outputs(source) != Outputs() else None
        start = 0
        with Video(source.path) as video:
            if self.journal is not None:
                for entry in self.journal.entries(key):
                    if "frame" not in entry:  # an error, as journals once noted them
                        continue
                    start = entry["frame"] + 1
                    rows = following.rows(source.name, entry["frame"], entry["time_s"], self._unpack(entry["faces"]))
                    if kept is not None:
                        kept += rows
                    yield from rows
            for frame in video.frames(every=self.every, start=start):
                faces = self._faces(frame.pixels, self.video_detector or self.detector)
                if self.journal is not None:
                    entry = {"frame": frame.number, "time_s": frame.time_s, "faces": self._pack(faces)}
                    self.journal.add(key, entry)
                self.on_frame(frame.number + 1, video.facts.frames)
                rows = following.rows(source.name, frame.number, frame.time_s, faces)
                if kept is not None:
                    kept += rows
                yield from rows
        if kept is not None:
            self._show_video(source, kept, notes)
        if self.journal is not None:
            self.journal.add(key, {"done": True})

    def _show_video(self, source: Source, rows: Sequence[Row], notes: list[str]) -> None:
        labels = self.recognizer.labels
        outputs = self._outputs(source)
        try:
            self._write_video(source, rows, outputs, labels, notes)
        except OSError as error:
            where = shown(error.filename or outputs.plot or outputs.copy or source.path)
            raise DataError(f"{where}: cannot be written: {error.strerror or error}") from error

    def _write_video(
        self, source: Source, rows: Sequence[Row], outputs: Outputs, labels: tuple[str, ...], notes: list[str]
    ) -> None:
        if outputs.plot is not None:
            from fer_deploy.reading.plot import plot_probabilities

            left_out = plot_probabilities(outputs.plot, rows, labels, title=source.name)
            if left_out:
                notes.append(f"{source.name}: the plot shows the faces seen longest and leaves out {left_out}")
        if outputs.copy is not None:
            from fer_deploy.reading.render import render

            render(source.path, outputs.copy, rows, every=self.every)

    def _journal_of(self, source: Source) -> Journal | None:
        """The journal; None for standard input, which may hold another picture in the run that goes on."""
        return None if source.is_standard_input else self.journal

    def _outputs(self, source: Source) -> Outputs:
        return self.outputs.get(source, Outputs())

    def _faces(self, pixels: Pixels, detector: FaceDetector | None) -> list[Recognition]:
        if detector is None:
            return [self.recognizer.predict(pixels)]
        return self.recognizer.read_pixels(pixels, detector=detector)

    def _pack(self, faces: Sequence[Recognition]) -> list[list[Any]]:
        """Faces as plain numbers: box (or null) and probabilities."""
        packed: list[list[Any]] = []
        for face in faces:
            box = face.box
            edges = None if box is None else [box.left, box.top, box.right, box.bottom, box.score]
            packed.append([edges, list(face.probabilities.values())])
        return packed

    def _unpack(self, packed: Iterable[list[Any]]) -> list[Recognition]:
        return [
            Recognition.from_row(values, self.recognizer.labels, box=None if edges is None else Box(*edges))
            for edges, values in packed
        ]


class _Following:
    """Turns the faces of frames into rows: a track for each, and the smoothed result."""

    def __init__(self, constant_s: float) -> None:
        from fer_deploy.reading.track import Tracker

        self._tracker, self._smoother = Tracker(), Smoother(constant_s)

    def rows(self, name: str, frame: int, time_s: float, faces: Sequence[Recognition]) -> list[Row]:
        whole = Box(0, 0, 1, 1)  # for videos that are a face already: one track
        tracks = self._tracker.update([face.box or whole for face in faces], time_s)
        return [
            Row(name, face, frame, time_s, track, self._smoother.update(track, face, time_s))
            for face, track in zip(faces, tracks, strict=True)
        ]


def _key(source: Source) -> str:
    """Names a file and its contents as they are now; a file that changed is read again."""
    try:
        status = source.path.stat()
    except (OSError, ValueError):
        return f"{source.name}|absent"
    return f"{os.fsencode(source.path)!r}|{status.st_size}|{status.st_mtime_ns}"


def _is_finished(entries: Iterable[dict[str, Any]]) -> bool:
    return any("done" in entry for entry in entries)
