"""Read pictures and videos one after the other, and resume where an earlier run stopped.

A file that cannot be read gives one line of error and does not stop the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_deploy.errors import FerDeployError
from fer_deploy.reading.inputs import Source
from fer_deploy.reading.journal import Journal, pack_faces, unpack_faces
from fer_deploy.reading.outputs import Outputs
from fer_deploy.reading.pictures import FaceReader, read_faces
from fer_deploy.reading.rows import FaceRow
from fer_deploy.reading.smooth import DEFAULT_CONSTANT_S
from fer_deploy.reading.videos import Follower, FrameFaces, Remarks, read_frames, write_outputs


@dataclass(frozen=True)
class Done:
    """A picture or video that is finished.

    Attributes:
        source: the file.
        faces: how many rows it gave.
        error: why it could not be read, or not to its end, in one line; None if it was. There may be rows besides.
        notes: remarks of one line each, such as "a.gif: 2 frames or pages: only the first was read".
        turned: whether this is a picture that was turned upright by its EXIF orientation.
        resumed: an earlier run had read it.
    """

    source: Source
    faces: int
    error: str | None = None
    notes: tuple[str, ...] = ()
    turned: bool = False
    resumed: bool = False


@dataclass(frozen=True)
class SourceReader:
    """Reads files, with these settings.

    Attributes:
        pictures: reads the faces of a picture.
        videos: reads the faces of a video's frame.
        every: read each `every`th frame of a video.
        smoothing_s: time constant of the smoothing of videos, in seconds.
        outputs: where annotated copies and plots go, from `outputs_of`; a source that is missing here has none.
        journal: remembers what is done; None to remember nothing.
        on_frame: called after each frame of a video with the number of frames so far and their total, None if unknown.
    """

    pictures: FaceReader
    videos: FaceReader
    every: int = 1
    smoothing_s: float = DEFAULT_CONSTANT_S
    outputs: Mapping[Source, Outputs] = field(default_factory=dict)
    journal: Journal | None = None
    on_frame: Callable[[int, int | None], None] = field(default=lambda _done, _total: None)

    def read(self, sources: Iterable[Source]) -> Iterator[FaceRow | Done]:
        """Read each source: its rows, then its `Done`.

        Files that an earlier run finished come from the journal; a video that it had begun resumes after its last
        frame. Files that it could not read are tried again: the reason may have been a full disk or a missing package.
        """
        for source in sources:
            yield from self._read_one(source)

    def _read_one(self, source: Source) -> Iterator[FaceRow | Done]:
        # Standard input may hold another picture when the run is resumed, so it is never remembered.
        journal = None if source.is_standard_input else self.journal
        key = _key(source)
        finished = journal is not None and any("done" in entry for entry in journal.entries(key))
        remarks = Remarks()
        if journal is not None and finished:
            steps = self._recall(source, journal.entries(key), remarks)
        elif source.is_video:
            steps = self._read_video(source, key, remarks)
        else:
            steps = self._read_picture(source, key, journal, remarks)
        count = 0
        try:
            for row in steps:
                count += 1
                yield row
        except FerDeployError as error:
            yield Done(source, count, str(error), tuple(remarks.notes))
        else:
            if not count:
                remarks.notes.append(f"{source.name}: no face found: --crops reads a whole picture as one face")
            yield Done(source, count, remarks.loss, tuple(remarks.notes), remarks.turned, resumed=finished)

    def _read_picture(self, source: Source, key: str, journal: Journal | None, remarks: Remarks) -> Iterator[FaceRow]:
        picture = read_faces(source, self.pictures, copy=self._outputs_of(source).copy)
        remarks.notes, remarks.turned = picture.notes, picture.turned
        if journal is not None:
            entry = {"faces": pack_faces(picture.faces), "done": True, "notes": picture.notes, "turned": picture.turned}
            journal.add(key, entry)
        yield from (FaceRow(source.text, face) for face in picture.faces)

    def _read_video(self, source: Source, key: str, remarks: Remarks) -> Iterator[FaceRow]:
        follower = Follower(source.text, self.smoothing_s)
        outputs = self._outputs_of(source)
        rows: list[FaceRow] = []  # kept only where a copy or plot needs them
        for frame in self._frames(source, key, remarks):
            new = follower.rows(frame)
            if outputs != Outputs():
                rows += new
            yield from new
        remarks.notes += write_outputs(source, rows, outputs, labels=self.pictures.recognizer.labels, every=self.every)
        if self.journal is not None:
            self.journal.add(key, {"done": True, "notes": remarks.notes, "loss": remarks.loss})

    def _frames(self, source: Source, key: str, remarks: Remarks) -> Iterator[FrameFaces]:
        """A video's frames: those in the journal, then the rest of the file."""
        start = 0
        for frame in self._remembered_frames(self.journal.entries(key) if self.journal is not None else ()):
            start = frame.number + 1
            yield frame
        rest = read_frames(source.path, self.videos, remarks, every=self.every, start=start, on_frame=self.on_frame)
        for frame in rest:
            if self.journal is not None:
                entry = {"frame": frame.number, "time_s": frame.time_s, "faces": pack_faces(frame.faces)}
                self.journal.add(key, entry)
            yield frame

    def _recall(self, source: Source, entries: Iterable[Mapping[str, Any]], remarks: Remarks) -> Iterator[FaceRow]:
        """The rows of a source that an earlier run finished, and what that run remarked."""
        follower = Follower(source.text, self.smoothing_s)
        for entry in entries:
            if "done" in entry:
                remarks.notes += entry.get("notes", ())
                remarks.loss = entry.get("loss")
                remarks.turned = entry.get("turned", False)
            if source.is_video:
                for frame in self._remembered_frames([entry]):
                    yield from follower.rows(frame)
            else:
                for face in unpack_faces(entry.get("faces", ()), self.pictures.recognizer.labels):
                    yield FaceRow(source.text, face)

    def _remembered_frames(self, entries: Iterable[Mapping[str, Any]]) -> Iterator[FrameFaces]:
        for entry in entries:
            if "frame" in entry:
                faces = unpack_faces(entry["faces"], self.pictures.recognizer.labels)
                yield FrameFaces(entry["frame"], entry["time_s"], faces)

    def _outputs_of(self, source: Source) -> Outputs:
        return self.outputs.get(source, Outputs())


def _key(source: Source) -> str:
    """Identifies a file and its present contents, so that a file that changed is read again."""
    try:
        status = source.path.stat()
    except (OSError, ValueError):
        return f"{source.name}|absent"
    return f"{os.fsencode(source.path)!r}|{status.st_size}|{status.st_mtime_ns}"
