"""Data sets that were read once are cached as plain arrays, so that the next start is quick.

The key is a hash of the source's bytes, so a changed source has another key and is read again. A cache file that is
damaged or of another version is deleted and written again. Without a cache folder, or with one that cannot be written,
everything works without a cache. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fer_deploy.faces.dataset import SPLITS, Faces
from fer_deploy.faces.source import SourceFaces
from fer_deploy.files import open_regular, replacing
from fer_deploy.machine import cache_folder

FORMAT = 2
"""Raised whenever a reader returns other faces or notes for the same bytes."""

LARGEST = 1 << 30
"""Bytes that the cache may take; FER2013 takes 83 MB. The files that were used longest ago are deleted first."""


def cached(key: str, read: Callable[[], SourceFaces]) -> SourceFaces:
    """The result of `read()`, from the cache if it holds `key`; otherwise it is read and put into the cache.

    Args:
        key: identifies the reader and the source's content.
        read: reads the source. Its errors pass through, and nothing is cached then.
    """
    folder = cache_folder()
    if folder is None:
        return read()
    name = hashlib.sha256(f"{FORMAT} {key}".encode()).hexdigest()[:40]
    path = folder / "faces" / f"{name}.npz"
    faces = _load(path)
    if faces is None:
        faces = read()
        with suppress(OSError):  # a cache that cannot be written is no error
            _save(path, faces)
            _drop_old(path)
    return faces


def _load(path: Path) -> SourceFaces | None:
    try:
        # np.load would block on a named pipe. Each array's checksum is verified as it is read.
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            splits = {}
            for split in SPLITS:
                votes = arrays.get(f"{split}.votes")
                images, labels, rows = (arrays[f"{split}.{part}"] for part in ("images", "labels", "rows"))
                splits[split] = Faces(images, labels, rows, votes)
            faces = SourceFaces(splits, tuple(str(note) for note in arrays["notes"]))
    except Exception:  # whatever is wrong with the cache file, the source can be read again
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        path.touch()  # records its last use for _drop_old
    return faces


def _save(path: Path, faces: SourceFaces) -> None:
    arrays: dict[str, Any] = {"notes": np.array(faces.notes, dtype=np.str_)}
    for split in SPLITS:
        part = faces.splits[split]
        arrays |= {f"{split}.images": part.images, f"{split}.labels": part.labels, f"{split}.rows": part.rows}
        if part.votes is not None:
            arrays[f"{split}.votes"] = part.votes
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _drop_old(new: Path) -> None:
    """Delete the files used longest ago until the rest take less than `LARGEST`; the new one always stays."""
    used = sorted(((path.stat(), path) for path in new.parent.glob("*.npz")), key=lambda entry: -entry[0].st_mtime)
    total = 0
    for status, path in used:
        total += status.st_size
        if total > LARGEST and path != new:
            path.unlink()
