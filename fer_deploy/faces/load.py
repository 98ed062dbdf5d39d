"""Find a data set and read it, whatever its layout: the one entry point to all readers.

`faces.find` detects the layout, and the readers list what is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.columns import PEOPLE, plain_name
from fer_deploy.faces.dataset import SPLITS, Dataset, Faces
from fer_deploy.faces.ferplus import add_votes, votes_beside
from fer_deploy.faces.find import HELP, find
from fer_deploy.faces.listing import Found, Listing, PictureSource
from fer_deploy.faces.official import is_called_fer2013, is_merged_copy, is_official, refuse_damaged
from fer_deploy.faces.people import groups_by, people_in
from fer_deploy.faces.read import ReadListing, read_listing
from fer_deploy.faces.request import DataRequest, SplitRequest
from fer_deploy.faces.source import source_errors
from fer_deploy.faces.splits import UNSTATED, Rows, draw_splits
from fer_deploy.faces.store import Pictures
from fer_deploy.faces.synthetic import DEFAULT_TRAINING, synthetic_dataset
from fer_deploy.faces.threads import Progress, no_progress
from fer_deploy.files import shown
from fer_deploy.labels import LabelMap, Understood, label_map_for, understand

VARIABLE = "FERDEPLOY_DATA"
"""The environment variable that names the default data set."""


def load_dataset(
    source: str | Path | DataRequest | None,
    *,
    workspace: Path = Path(),
    votes: str | Path | None = None,
    labels: LabelMap | None = None,
    split: SplitRequest | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read a data set.

    Args:
        source: a file or folder; or the text 'synthetic' or 'synthetic:N' for drawn faces, N of them for training (a
            folder of that name is ./synthetic). None takes $FERDEPLOY_DATA, then data/ in the workspace. A request
            holds the source, `votes`, `labels` and `split`.
        workspace: the folder that may hold data/.
        votes: FER+'s fer2013new.csv; None takes the one beside the table, if there is one.
        labels: which raw label is which class; None: see `labels.understand`.
        split: how splits that the source lacks are drawn; None: see `SplitRequest`.
        progress: called while pictures are read, decoded and resized.

    Returns:
        The data set. It is called FER2013 only if it is the official one. Notes state which splits were drawn, and how.

    Raises:
        DataError: there is no data, or it is damaged or incomplete. One line that names file and row.
        UnavailableError: the source is Parquet and polars is not installed.
    """
    request = source if isinstance(source, DataRequest) else DataRequest(source, labels, split, votes)
    return load_with_listing(request, workspace=workspace, progress=progress or no_progress)[0]


def load_with_listing(request: DataRequest, *, workspace: Path, progress: Progress) -> tuple[Dataset, Listing | None]:
    """Read a data set as `load_dataset` does; also what its source lists, or None for drawn faces."""
    source = _named_or_default(request.source, workspace)
    found = find_data(source)
    if found is None:
        drawn = synthetic_dataset(_synthetic_count(str(source)))
        return drawn if request.labels is None else _relabelled(drawn, request), None
    with source_errors(found.name):
        read = read_listing(found, check=lambda listing: _rows(listing, found.name, request), progress=progress)
        return _assembled(found, read, request), read.listing


def find_data(source: str | Path | None, *, workspace: Path = Path()) -> Found | None:
    """Find a data set without reading it; None for drawn faces.

    Args:
        source: as for `load_dataset`.
        workspace: the folder that may hold data/.

    Raises:
        DataError: there is no data set.
    """
    source = _named_or_default(source, workspace)
    if _is_synthetic(source):
        return None
    if not str(source).strip():
        raise DataError(f"the name of the data set is empty: {HELP}")
    path = _at_home(source)
    with source_errors(shown(path)):
        return find(path)


def _named_or_default(source: str | Path | None, workspace: Path) -> str | Path:
    if source is not None:
        return source
    default = os.environ.get(VARIABLE) or workspace / "data"
    if not _is_synthetic(default) and not Path(default).exists():
        named = f"${VARIABLE} names {shown(default)}, which does not exist"
        where = named if os.environ.get(VARIABLE) else f"no --data, ${VARIABLE} or data/"
        raise DataError(f"no data set: {where}: {HELP}")
    return default


def _relabelled(dataset: Dataset, request: DataRequest) -> Dataset:
    """A drawn data set with the labels of the request."""
    parts = [dataset.split(split) for split in SPLITS]
    pictures = np.concatenate([faces.images for faces in parts])
    listing = Listing(
        dataset.name,
        labels=[dataset.labels[label] for faces in parts for label in faces.labels],
        splits=[split for split, faces in zip(SPLITS, parts, strict=True) for _ in range(len(faces))],
        places=[f"face {number}" for number in range(len(pictures))],
        rows=np.arange(len(pictures)),
        pictures=PictureSource.decoded(pictures),
        notes=dataset.notes,
    )
    read = ReadListing(listing, Pictures(pictures), None, ())
    return _assembled(Found(dataset.name, lambda: listing), read, request)


def _at_home(source: str | Path) -> Path:
    """The path with `~` filled in."""
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise DataError(f"no data set at {shown(source)}: there is no such user: {HELP}") from error


def _is_synthetic(source: str | Path) -> bool:
    return isinstance(source, str) and re.fullmatch(r"synthetic(:.*)?", source) is not None


def _synthetic_count(source: str) -> int:
    number = source.partition(":")[2] or str(DEFAULT_TRAINING)
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise DataError(f"{shown(source)} is not understood: write synthetic, or synthetic:N for N training faces")
    return int(number)


@dataclass(frozen=True, eq=False)
class _Rows:
    """How the rows of a listing are understood: their classes, which are kept, and what stays in one split."""

    understood: Understood
    kept: NDArray[np.int64]
    groups: list[str | None] | None
    group_name: str


def _rows(listing: Listing, name: str, request: DataRequest) -> _Rows:
    label_map = label_map_for(request.labels, fer2013_numbers=listing.fer2013_numbers)
    understood = understand(
        listing.labels, declared=listing.declared, label_map=label_map, name=name, places=listing.places
    )
    kept = np.flatnonzero(understood.numbers >= 0)
    return _Rows(understood, kept, *_grouped(listing, kept, request.split))


def _assembled(found: Found, read: ReadListing, request: DataRequest) -> Dataset:
    """The data set from a listing and its pictures: labels are understood, missing splits drawn, FER2013 judged."""
    listing = read.listing
    rows = _rows(listing, found.name, request)
    understood, kept = rows.understood, rows.kept
    stated = np.array([_NUMBERS[split] for split in listing.splits], np.int8)[kept]
    labels, pictures = understood.numbers[kept], read.pictures.take(kept)
    votes = None if listing.votes is None else listing.votes[kept]
    faces = Faces(pictures, labels, listing.rows[kept], votes, classes=len(understood.labels))
    official = _judged(_parts(faces, stated), understood.labels, found.name, request)
    drawn = draw_splits(stated, Rows(labels, pictures, rows.groups, rows.group_name), request.split, name=found.name)
    splits = _parts(faces, drawn.splits)
    if votes_file := _votes_file(found, request, official=official):
        with source_errors(shown(votes_file)):
            splits = add_votes(splits, votes_file, rows=len(listing))
    left_out = (str(listing.left_out),) if listing.left_out.counts else ()
    merged = drawn.record is not None and _is_merged_copy(stated, labels, understood.labels)
    notes = (
        *found.notes, *listing.notes, *left_out, *understood.notes, *((_MERGED,) if merged else ()), *drawn.notes,
        *_absent(splits, understood.labels), *read.notes,
    )  # fmt: skip
    name = f"{found.name} (not the official FER2013)" if is_called_fer2013(found.name) else found.name
    dataset = Dataset.of(
        "FER2013" if official else name,
        splits["training"],
        validation=splits["validation"],
        test=splits["test"],
        official=official,
        notes=notes,
        labels=understood.labels,
    )
    return replace(
        dataset,
        label_map=None if request.labels is None else request.labels.to_dict(),
        labels_source=understood.source,
        drawn=drawn.record,
        colour=read.colour,
    )


_MERGED = "PublicTest and PrivateTest are one split here: its figures cannot be compared with published ones"

_NUMBERS: dict[str | None, int] = {None: UNSTATED} | {split: number for number, split in enumerate(SPLITS)}


def _parts(faces: Faces, splits: NDArray[np.int8]) -> dict[str, Faces]:
    """The faces of each split, from the place in `SPLITS` of each face's."""
    return {split: faces.take(np.flatnonzero(splits == number)) for number, split in enumerate(SPLITS)}


def _judged(splits: Mapping[str, Faces], labels: tuple[str, ...], name: str, request: DataRequest) -> bool:
    """Whether it is the official FER2013; DataError if it is a damaged copy."""
    if not set(labels) <= set(EMOTIONS) or request.labels is not None:
        return False
    if labels != EMOTIONS:  # a class may be what the copy lacks
        numbers = np.array([EMOTIONS.index(label) for label in labels])
        splits = {split: Faces(each.pictures, numbers[each.labels], each.rows) for split, each in splits.items()}
    refuse_damaged(splits, name)
    return is_official(splits)


def _grouped(
    listing: Listing, kept: NDArray[np.int64], request: SplitRequest | None
) -> tuple[list[str | None] | None, str]:
    """What stays in one split besides copies, for the kept rows, and its name; None where nothing is known."""
    by = None if request is None else request.by
    columns = {name.strip().casefold(): column for name, column in listing.columns.items()}
    if by is not None and by.casefold() in columns:
        column = columns[by.casefold()]
        return [column[row] or None for row in kept], f"{by}, a column"
    if listing.people is not None and (by is None or plain_name(by) in PEOPLE):
        return [listing.people[row] or None for row in kept], "person, a column"
    if by is not None:
        places = [listing.places[row] for row in kept]
        groups = groups_by(by, places)
        unmatched = sum(group is None for group in groups)
        if unmatched == len(groups):
            known = f"; the columns are {', '.join(sorted(columns))}" if columns else ""
            raise DataError(
                f"{listing.name}: --split by={by} is no column and matches no picture's name, such as "
                f"{shown(places[0]) if places else 'none'}{known}"
            )
        rest = f" ({unmatched:,} do not match and are drawn by picture)" if unmatched else ""
        return groups, f"by={by}{rest}"
    known_people = people_in([listing.places[row] for row in kept])
    return (known_people[0], f"person (file names as in {known_people[1]})") if known_people else (None, "")  # type: ignore[return-value]


def _votes_file(found: Found, request: DataRequest, *, official: bool) -> Path | None:
    """The file of FER+ votes that the user names, or for FER2013 the one beside its table."""
    named = None if request.votes is None else _at_home(request.votes)
    if found.table is None and named is not None:
        raise DataError(f"{shown(named)}: FER+ votes belong to the rows of FER2013's table, not to {found.name}")
    return votes_beside(found.table) if named is None and official and found.table is not None else named


def _is_merged_copy(stated: NDArray[np.int8], labels: NDArray[np.int64], names: tuple[str, ...]) -> bool:
    """Whether these are FER2013's faces with PublicTest and PrivateTest in one test split."""
    if names != EMOTIONS:
        return False
    counts = {
        split: tuple(np.bincount(labels[stated == number], minlength=len(names)).tolist())
        for number, split in enumerate(SPLITS)
    }
    return is_merged_copy(counts)


def _absent(splits: Mapping[str, Faces], labels: tuple[str, ...]) -> Iterator[str]:
    """A note for each split that lacks a class, with the reason where the class is too small."""
    totals = np.sum([splits[split].counts for split in SPLITS], axis=0)
    for split in SPLITS:
        absent = [label for label, count in enumerate(splits[split].counts) if not count]
        few = [f"{labels[label]} has {totals[label]:,}" for label in absent if totals[label] < len(SPLITS)]
        reason = f": too few pictures for three splits: {', '.join(few)}" if few else ""
        if absent and len(splits[split]):
            yield f"the {split} split has no picture of {', '.join(labels[label] for label in absent)}{reason}"
