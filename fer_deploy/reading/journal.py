"""What a long run has done so far, kept on disk, so that a stopped run can be resumed.

The journal is next to the output, as `<output>.partial`, and is removed when the output is written. It holds one JSON
line for each thing done, appended and handed to the operating system at once. A last line that a kill cut short is
dropped when the journal is read. A file of that name that is no journal is never touched.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from fer_deploy.detection.box import Box
from fer_deploy.errors import DataError
from fer_deploy.files import shown
from fer_deploy.recognizer import Recognition

_VERSION = 2
"""Changes when the same file and settings give other rows."""

_FIRST_BYTES = b'{"journal":'
"""Every journal begins so."""


class Journal:
    """An append-only list of JSON objects that belongs to one set of settings.

    Args:
        path: the journal's file.
        settings: plain values; a journal that was written with other settings is dropped and a new one started.
        restart: start a new journal in any case.

    Attributes:
        discarded: why an existing journal was dropped; empty if it was continued or there was none.

    Raises:
        DataError: another run is writing this journal, or there is something else under its name.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.discarded = ""
        header = {"journal": _VERSION, "settings": json.loads(json.dumps(settings))}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open(path)
        self._lock()  # before anything is read, since another run may be writing
        self._segments: dict[str, list[tuple[int, int]]] = {}
        self._end = 0 if restart else self._read_index(header)
        if not self._end and os.fstat(self._file.fileno()).st_size:
            self.discarded = "--restart was given" if restart else "it was made with other settings or another version"
        self._file.truncate(self._end)
        self._file.seek(self._end)
        if not self._end:
            self._write(header)

    def add(self, key: str, entry: Mapping[str, Any]) -> None:
        """Append an entry for `key`. Once this returns, a kill of the process cannot lose it."""
        start = self._end
        self._write({"key": key, **entry})
        self._note(key, start, self._end)

    def __contains__(self, key: str) -> bool:
        return key in self._segments

    def entries(self, key: str) -> Iterator[dict[str, Any]]:
        """The entries for `key`, oldest first, read from disk one at a time."""
        with self.path.open("rb") as file:
            for start, end in tuple(self._segments.get(key, ())):
                file.seek(start)
                while file.tell() < end:
                    yield json.loads(file.readline())

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self._end += len(line)

    def _note(self, key: str, start: int, end: int) -> None:
        """Remember the position of an entry. Entries that follow each other share one segment: a video has many."""
        segments = self._segments.setdefault(key, [])
        if segments and segments[-1][1] == start:
            segments[-1] = (segments[-1][0], end)
        else:
            segments.append((start, end))

    def close(self, *, remove: bool = False) -> None:
        """Close the file, and `remove` it if its contents have been written elsewhere."""
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)

    def _read_index(self, header: Mapping[str, Any]) -> int:
        """Index the journal; returns where its last complete entry ends, 0 if it does not begin with `header`."""
        start = 0
        for end, entry in self._lines():
            if start == 0 and entry != header:
                return 0
            if start:
                self._note(str(entry.get("key")), start, end)
            start = end
        return start

    def _lock(self) -> None:
        # The journal itself is the lock file, since a separate one would remain when the run is finished.
        if os.name != "posix":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{self.path}: another run is writing this output: wait for it, or name another") from error

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(end, entry) for each complete line up to the first that is not a JSON object."""
        end = 0
        with _open(self.path) as file:  # a second one, which moves no position of the first
            for line in file:
                end += len(line)
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    return
                if not isinstance(entry, dict):
                    return
                yield end, entry


def _open(path: Path) -> IO[bytes]:
    """Open a journal, or create it.

    Raises:
        DataError: there is something else under its name: a link, a pipe, a file that was not made here.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    remedy = "move it away, or name another output"
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if path.is_symlink():
            raise DataError(f"{shown(path)}: a symbolic link, not the journal of a stopped run: {remedy}") from error
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        file = os.fdopen(descriptor, "r+b")
        if _FIRST_BYTES.startswith(file.read(len(_FIRST_BYTES))):  # or what a kill left of them
            file.seek(0)
            return file
        file.close()
    else:
        os.close(descriptor)
    raise DataError(f"{shown(path)}: this is not the journal of a stopped run: {remedy}")


def pack_faces(faces: Iterable[Recognition]) -> list[list[Any]]:
    """Faces as plain numbers for a journal: for each its box [left, top, right, bottom, score] or None, and its
    probabilities in the model's label order."""
    packed: list[list[Any]] = []
    for face in faces:
        box = face.box
        edges = None if box is None else [box.left, box.top, box.right, box.bottom, box.score]
        packed.append([edges, list(face.probabilities.values())])
    return packed


def unpack_faces(packed: Iterable[Sequence[Any]], labels: Sequence[str]) -> list[Recognition]:
    """The inverse of `pack_faces`; `labels` are the model's, in its order.

    Raises:
        DataError: something changed the journal.
    """
    try:
        return [
            Recognition.from_row(values, labels, box=None if edges is None else Box(*edges)) for edges, values in packed
        ]
    except (TypeError, ValueError) as error:
        raise DataError("the journal of the stopped run is damaged: read everything again with --restart") from error
