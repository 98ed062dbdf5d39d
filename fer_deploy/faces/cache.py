"""Faces that were read once are kept as plain arrays in the user's cache folder, so that the next start is quick.

The key is a hash of the source's bytes: a changed source has another key and is read anew. A cache file that is
damaged, of another version or not what it says is thrown away and made again; a cache folder that cannot be written is
done without. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fer_deploy.faces.dataset import SPLITS, Faces
from fer_deploy.faces.reading import Reading
from fer_deploy.files import replacing

FORMAT = 1
"""Raised whenever a reader would now give other faces for the same bytes."""

LARGEST = 1 << 30
"""Bytes that the cache may take; FER2013 takes 83 MB. What was used longest ago goes first."""


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


def cached(key: str, read: Callable[[], Reading]) -> Reading:
    """What `read()` gives, taken from the cache when it is in it under `key`, and put there when it is not.

    Args:
        key: names the reader and the source's content, so that another source or reader has another key.
        read: reads the source; its errors pass through, and nothing is kept then.
    """
    name = hashlib.sha256(f"{FORMAT} {key}".encode()).hexdigest()[:40]
    path = cache_folder() / "faces" / f"{name}.npz"
    found = _load(path)
    if found is None:
        found = read()
        with suppress(OSError):  # a cache that cannot be written is done without
            _save(path, found)
            _drop_old(path)
    return found


def _load(path: Path) -> Reading | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:  # each array's checksum is verified as it is read
            splits = {}
            for split in SPLITS:
                votes = arrays.get(f"{split}.votes")
                images, labels, rows = (arrays[f"{split}.{part}"] for part in ("images", "labels", "rows"))
                splits[split] = Faces(images, labels, rows, votes)
            found = Reading(splits, tuple(str(note) for note in arrays["notes"]))
    except FileNotFoundError:
        return None
    except Exception:  # whatever is wrong with a cache file, the source is there to be read again
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        path.touch()  # its last use, for _drop_old
    return found


def _save(path: Path, found: Reading) -> None:
    arrays: dict[str, Any] = {"notes": np.array(found.notes, dtype=np.str_)}
    for split in SPLITS:
        faces = found.splits[split]
        arrays |= {f"{split}.images": faces.images, f"{split}.labels": faces.labels, f"{split}.rows": faces.rows}
        if faces.votes is not None:
            arrays[f"{split}.votes"] = faces.votes
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _drop_old(new: Path) -> None:
    """Drop the files used longest ago until the rest take less than `LARGEST`; the new one always stays."""
    used = sorted(((path.stat(), path) for path in new.parent.glob("*.npz")), key=lambda entry: -entry[0].st_mtime)
    total = 0
    for status, path in used:
        total += status.st_size
        if total > LARGEST and path != new:
            path.unlink()
