"""Look at a data set before training: also at one that `train` would refuse, with all that is wrong with it at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError, printable
from fer_deploy.faces.dataset import SPLITS, Dataset
from fer_deploy.faces.decode import Decoded, decode
from fer_deploy.faces.listing import Found, Listing
from fer_deploy.faces.load import find_data, load_with_listing
from fer_deploy.faces.near_copies import BITS, perceptual_hashes
from fer_deploy.faces.request import DataRequest
from fer_deploy.faces.sheet import Band, pictures_per_class, spread
from fer_deploy.faces.source import source_errors
from fer_deploy.faces.summary import (
    UNSTATED,
    Copies,
    PictureFacts,
    Placed,
    SplitSummary,
    Summary,
    Unreadable,
    exact_copies,
    is_blank,
    near_copies,
    sizes_of,
    summarise,
)
from fer_deploy.faces.threads import Progress, in_order, no_progress
from fer_deploy.labels import label_map_for, understand


@dataclass(frozen=True, eq=False)
class Survey:
    """A data set's summary, and a look at its pictures."""

    summary: Summary
    pictures_of: Callable[[int, int], list[NDArray[np.uint8]]]
    """The pictures of class (first argument), at most so many (second), spread evenly: uint8 (height, width) each."""

    def bands(self) -> list[Band]:
        """What a contact sheet shows."""
        summary = self.summary
        wanted = pictures_per_class(len(summary.labels))
        bands = []
        for number, label in enumerate(summary.labels):
            counts = ", ".join(f"{split.classes[number]:,} {split.name}" for split in summary.splits)
            bands.append(Band(f"{label}: {counts}", self.pictures_of(number, wanted)))
        return bands


def survey_data(request: DataRequest, *, workspace: Path = Path(), progress: Progress = no_progress) -> Survey:
    """Summarise a data set, whether or not `train` would take it.

    Args:
        request: the data set, and how its labels and splits are to be understood.
        workspace: the folder that may hold data/.
        progress: called while pictures are read.

    Raises:
        DataError: nothing there looks like a data set.
    """
    try:
        dataset, listing = load_with_listing(request, workspace=workspace, progress=progress)
    except DataError as error:
        found = find_data(request.source, workspace=workspace)
        if found is None:
            raise
        return _survey_refused(_listing(found), request, error, progress)
    if listing is None:
        return Survey(summarise(dataset), _from_dataset(dataset))
    place_of_row = dict(zip(listing.rows.tolist(), listing.places, strict=True))
    summary = summarise(dataset, place_of_row=lambda row: place_of_row.get(row, f"row {row}"))
    return Survey(replace(summary, left_out=dict(listing.left_out.counts)), _from_dataset(dataset))


def _listing(found: Found) -> Listing:
    with source_errors(found.name):
        listing = found.read()
    return replace(listing, notes=(*found.notes, *listing.notes))


def _from_dataset(dataset: Dataset) -> Callable[[int, int], list[NDArray[np.uint8]]]:
    def pictures_of(label: int, wanted: int) -> list[NDArray[np.uint8]]:
        places = [
            (faces, int(place))
            for faces in (dataset.split(name) for name in SPLITS)
            for place in np.flatnonzero(faces.labels == label)
        ]
        chosen = [places[place] for place in spread(len(places), wanted)]
        return [faces.pictures[place] for faces, place in chosen]

    return pictures_of


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of one picture that was decoded."""

    key: bytes
    hash: NDArray[np.uint16]
    size: tuple[int, int]
    blank: bool
    colour: bool


def _look(listing: Listing, place: int) -> _Seen | Unreadable:
    """Decode one picture of a listing; its pixels are not kept."""
    try:
        decoded = _decoded(listing, place)
    except DataError as error:
        return Unreadable(listing.places[place], str(error))
    grey = decoded.grey
    key = hashlib.sha256(b"%d %d " % grey.shape + grey.tobytes()).digest()
    (one,) = perceptual_hashes([(np.zeros(1, np.int64), grey[None])], 1)
    return _Seen(key, one, (grey.shape[0], grey.shape[1]), bool(is_blank(grey[None])[0]), decoded.colour)


def _decoded(listing: Listing, place: int) -> Decoded:
    """A picture as grey values. DataError if it cannot be read."""
    if listing.pictures.pixels is not None:
        return Decoded(listing.pictures.pixels[place], colour=False, reduced=False)
    assert listing.pictures.read is not None
    name = printable(listing.places[place])
    with source_errors(name):
        content = listing.pictures.read(place)
    return decode(content, name)


def _survey_refused(listing: Listing, request: DataRequest, refusal: DataError, progress: Progress) -> Survey:
    """Summarise data that `train` would refuse, from its listing alone."""
    labels, numbers, source, problems = _labels_of(listing, request)
    seen: list[_Seen] = []
    readable: list[int] = []
    unreadable: list[Unreadable] = []
    looked = in_order(lambda place: _look(listing, place), len(listing), what="looking at pictures", progress=progress)
    for place, result in enumerate(looked):
        if isinstance(result, Unreadable):
            unreadable.append(result)
        elif numbers[place] >= 0:
            seen.append(result)
            readable.append(place)
    names = (*SPLITS, UNSTATED)
    if unreadable:
        count = f"{len(unreadable):,} of {len(listing):,} pictures cannot be read"
        problems.append(f"{listing.name}: {count}: replace or remove them")
    kept = np.array(readable, np.int64)
    splits = np.array([names.index(listing.splits[place] or UNSTATED) for place in readable], np.int64)
    placed = Placed(names, splits, numbers[kept], lambda place: listing.places[readable[place]])
    copies, near = _copies_of(seen, placed)
    summary = Summary(
        name=listing.name,
        official=False,
        sha256=None,
        labels=labels,
        label_source=source,
        splits=tuple(
            SplitSummary(name, name, len(here), tuple(np.bincount(here, minlength=len(labels)).tolist()))
            for number, name in enumerate(names)
            if len(here := placed.labels[splits == number])
        ),
        sizes=sizes_of(np.array([each.size for each in seen], np.int64).reshape(-1, 2)),
        colour=None if listing.pictures.read is None else sum(each.colour for each in seen),
        blank=sum(each.blank for each in seen),
        copies=copies,
        near_copies=near,
        unreadable=tuple(unreadable),
        left_out=dict(listing.left_out.counts),
        notes=listing.notes,
        problems=tuple(problems) or (str(refusal),),
    )

    def pictures_of(label: int, wanted: int) -> list[NDArray[np.uint8]]:
        places = kept[placed.labels == label]
        return [_decoded(listing, place).grey for place in places[spread(len(places), wanted)].tolist()]

    return Survey(summary, pictures_of)


def _labels_of(listing: Listing, request: DataRequest) -> tuple[tuple[str, ...], NDArray[np.int64], str, list[str]]:
    """The labels, each picture's class, where they come from, and what is wrong with them."""
    label_map = label_map_for(request.labels, fer2013_numbers=listing.fer2013_numbers)
    try:
        understood = understand(
            listing.labels, declared=listing.declared, label_map=label_map, name=listing.name, places=listing.places
        )
    except DataError as error:
        raw = tuple(sorted(Counter(listing.labels)))
        numbers = {label: number for number, label in enumerate(raw)}
        return raw, np.array([numbers[label] for label in listing.labels], np.int64), "not understood", [str(error)]
    return understood.labels, understood.numbers, understood.source, []


def _copies_of(seen: Sequence[_Seen], placed: Placed) -> tuple[Copies, Copies]:
    if not seen:
        return Copies(), Copies()
    facts = PictureFacts(
        [each.key for each in seen],
        np.stack([each.hash for each in seen]).reshape(-1, BITS // 16),
        np.array([each.size for each in seen], np.int64),
        np.array([each.blank for each in seen]),
    )
    copies, groups = exact_copies(facts.keys, placed)
    return copies, near_copies(facts, groups, placed)
