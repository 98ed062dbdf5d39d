"""Faces that were read once are kept as plain arrays in the user's cache folder, so that the next start is quick.

The key is a hash of the source's bytes: a changed source has another key and is read anew. A cache file that is damaged,
of another version or not what it says is thrown away and made again; a cache folder that cannot be written is done
without. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from fer_deploy.faces.dataset import SPLITS, Faces
from fer_deploy.files import replacing

FORMAT = 1
"""Raised whenever a reader would now give other faces for the same bytes."""

KEPT = 4
"""Data sets that stay in the cache; FER2013 takes 83 MB. The ones used longest ago go first."""


def cache_folder() -> Path:
    """Where read data sets are kept: $FERDEPLOY_CACHE, else the place that the system has for such things."""
    named = os.environ.get("FERDEPLOY_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ferdeploy"


def cached(key: str, read: Callable[[], Mapping[str, Faces]]) -> Mapping[str, Faces]:
    """The faces of `read()`, taken from the cache when they are in it under `key`, and put there when not."""
    name = hashlib.sha256(f"{FORMAT} {key}".encode()).hexdigest()[:40]
    path = cache_folder() / "faces" / f"{name}.npz"
    found = _load(path)
    if found is not None:
        return found
    splits = read()
    with suppress(OSError):  # a cache that cannot be written is done without
        _save(path, splits)
        _drop_old(path.parent)
    return splits


def _load(path: Path) -> dict[str, Faces] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = {}
            for split in SPLITS:
                votes = arrays[f"{split}.votes"]
                splits[split] = Faces(
                    arrays[f"{split}.images"],
                    arrays[f"{split}.labels"],
                    arrays[f"{split}.rows"],
                    votes if votes.size else None,
                )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        path.touch()  # the last use, for _drop_old
    return splits


def _save(path: Path, splits: Mapping[str, Faces]) -> None:
    arrays = {}
    for split in SPLITS:
        faces = splits[split]
        arrays[f"{split}.images"] = faces.images
        arrays[f"{split}.labels"] = faces.labels
        arrays[f"{split}.rows"] = faces.rows
        arrays[f"{split}.votes"] = np.empty((0, 10), np.uint8) if faces.votes is None else faces.votes
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _drop_old(folder: Path) -> None:
    newest_first = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first[KEPT:]:
        path.unlink()
