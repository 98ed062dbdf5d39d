"""What a long run has done so far, kept on disk, so that a run that was stopped goes on where it stood.

One JSON line for each thing done, appended and handed to the operating system at once. A line that a kill cut short is
dropped when the journal is read. The journal stands beside the output as `<output>.partial` and goes when the output is
written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fer_deploy.errors import DataError

_VERSION = 1


class Journal:
    """An append-only list of JSON objects for one set of settings.

    Args:
        path: the journal's file.
        settings: plain values; a journal written with other settings is set aside and a new one begun.
        restart: begin anew even where there is one.

    Attributes:
        discarded: why a journal that was there is not continued; empty when it is, or when there was none.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.discarded = ""
        header = {"journal": _VERSION, "settings": json.loads(json.dumps(settings))}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        self._lock()  # before anything is read: another run may be writing
        self._segments: dict[str, list[tuple[int, int]]] = {}
        self._end = 0 if restart else self._read_index(header)
        if not self._end and os.fstat(self._file.fileno()).st_size:
            self.discarded = "asked to begin anew" if restart else "it was made with other settings or another version"
        self._file.truncate(self._end)
        self._file.seek(self._end)
        if not self._end:
            self._write(header)

    def add(self, key: str, entry: Mapping[str, Any]) -> None:
        """Append one entry about `key`; it survives a kill of this process from here on."""
        start = self._end
        self._write({"key": key, **entry})
        self._note(key, start, self._end)

    def __contains__(self, key: str) -> bool:
        return key in self._segments

    def entries(self, key: str) -> Iterator[dict[str, Any]]:
        """The entries about `key`, oldest first, read from disk one at a time."""
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
        """Remember where entries about `key` lie: entries that follow each other are one segment."""
        segments = self._segments.setdefault(key, [])
        if segments and segments[-1][1] == start:
            segments[-1] = (segments[-1][0], end)
        else:
            segments.append((start, end))

    def close(self, *, remove: bool = False) -> None:
        """Close the file; `remove` it when all it holds has been written elsewhere."""
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)

    def _read_index(self, header: Mapping[str, Any]) -> int:
        """Find what the journal holds; where its last whole entry ends, 0 when it does not begin with `header`."""
        start = 0
        for end, entry in self._lines():
            if start == 0 and entry != header:
                return 0
            if start:
                self._note(str(entry.get("key")), start, end)
            start = end
        return start

    def _lock(self) -> None:
        if os.name != "posix":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{self.path}: another run is writing this output: wait for it, or name another") from error

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(end, entry) of each whole line up to the first that is not JSON."""
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                end += len(line)
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    return
                if not isinstance(entry, dict):
                    return
                yield end, entry
