"""FER+ votes: the labels that ten people gave each face of FER2013, from Microsoft's fer2013new.csv.

Source: github.com/microsoft/FERPlus; Barsoum and others, "Training deep networks for facial expression recognition with
crowd-sourced label distribution", ICMI 2016.

The file has one row for each row of fer2013.csv, in the same order. Votes are an extra column of `Faces` and never
replace FER2013's labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.faces.cache import stored
from fer_deploy.faces.dataset import SPLITS, VOTE_NAMES, Faces
from fer_deploy.faces.pixel_text import at_row
from fer_deploy.faces.splits import split_of
from fer_deploy.files import decode_text, read_file, sha256_of, shown

FILE_NAME = "fer2013new.csv"
LARGEST = 64 << 20
"""Bytes that the file may have; the real one has 1.6 MB."""


def votes_beside(table: Path) -> Path | None:
    """The file fer2013new.csv, in any case, in the same folder as a table; None if there is none."""
    try:
        paths = [path for path in table.parent.iterdir() if path.name.lower() == FILE_NAME and path.is_file()]
    except OSError:
        return None
    return min(paths, default=None)


def add_votes(splits: Mapping[str, Faces], path: Path, *, rows: int | None = None) -> dict[str, Faces]:
    """Add the votes to each face.

    Args:
        splits: faces whose `rows` are rows of FER2013's table.
        path: fer2013new.csv.
        rows: how many rows the table has, if faces of some were left out.

    Raises:
        DataError: the file is not FER+'s, or its rows do not match those of the faces.
    """
    content = stored(f"votes {sha256_of(path)}", lambda _write: _read(path)).arrays
    votes, usage = content["votes"], content["usage"]
    rows = sum(len(faces) for faces in splits.values()) if rows is None else rows
    if len(votes) != rows:
        raise DataError(
            f"{path.name} has votes for {len(votes):,} faces, and the table has {rows:,}: they do not belong together"
        )
    for number, split in enumerate(SPLITS):
        differing = np.flatnonzero(usage[splits[split].rows] != number)
        if len(differing):
            row = int(splits[split].rows[differing[0]])
            raise DataError(f"{at_row(path.name, row)} has another split than the table: they do not belong together")
    return {split: replace(faces, votes=votes[faces.rows]) for split, faces in splits.items()}


def _read(path: Path) -> dict[str, NDArray[Any]]:
    content = read_file(path, maximum_bytes=LARGEST, what="file of FER+ votes")
    lines = decode_text(content, source=shown(path.name)).splitlines()
    header = [column.strip().lower() for column in lines[0].split(",")] if lines else []
    names = ["nf" if name == "not_face" else name for name in VOTE_NAMES]
    if header[:1] != ["usage"] or [column for column in header if column in names] != names:
        raise DataError(f"{path.name} is not FER+'s file: its first line must be Usage,Image name,{','.join(names)}")
    places = [header.index(name) for name in names]
    votes: list[list[int]] = []
    usage: list[int] = []
    for row, line in enumerate(lines[1:]):
        fields = line.split(",")
        split = split_of(fields[0])
        try:
            counted = [int(fields[place]) for place in places]
        except (ValueError, IndexError):
            counted = [-1]
        if split is None or len(fields) != len(header) or not all(0 <= count <= 255 for count in counted):
            raise DataError(f"{at_row(path.name, row)} is not a row of votes: {line[:60]!r}")
        votes.append(counted)
        usage.append(SPLITS.index(split))
    return {"votes": np.array(votes, np.uint8).reshape(-1, len(VOTE_NAMES)), "usage": np.array(usage, np.int64)}
