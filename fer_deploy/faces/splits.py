"""The usual names of the three splits, and how splits are drawn for data sets that lack them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import SPLITS
from fer_deploy.faces.request import SplitRequest
from fer_deploy.faces.store import SIZE, Pictures

HELD_OUT = 8
"""If one split is missing, one training picture in this many is drawn for it, as in FER2013 (3,589 of 28,709)."""

TRAINING, VALIDATION, TEST, UNSTATED = 0, 1, 2, -1

_DEFAULT_SHARES = (80.0, 10.0, 10.0)

_NAMES: dict[str, str] = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}


def split_of(name: str) -> str | None:
    """The split that a name means, in any case, with or without - and _; None for other names.

    >>> split_of("PublicTest"), split_of("private_test"), split_of("Train"), split_of("faces")
    ('validation', 'test', 'training', None)
    """
    return _NAMES.get(re.sub(r"[\s_-]+", "", name).lower())


@dataclass(frozen=True, eq=False)
class Rows:
    """What drawing depends on. Names and order of files do not matter.

    Attributes:
        labels: int64 (n,), the class of each picture.
        pictures: the pictures; exact copies stay in one split.
        groups: pictures with the same text stay in one split: persons. None where nothing is known.
        group_name: what the groups are, for notes: "person (file names as in CK+)".
    """

    labels: NDArray[np.int64]
    pictures: Pictures
    groups: Sequence[str | None] | None = None
    group_name: str = ""

    @property
    def grouping(self) -> str:
        """What follows "groups" in a note: "by person", or "by=REGEX" of `--split`."""
        return self.group_name if self.group_name.startswith("by=") else f"by {self.group_name}"


@dataclass(frozen=True, eq=False)
class Drawn:
    """The split of each picture after missing ones were drawn.

    Attributes:
        splits: int8 (n,), places in `SPLITS`.
        notes: what was drawn, one sentence each.
        record: the same for `Dataset.drawn`; None if nothing was drawn.
    """

    splits: NDArray[np.int8]
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class _Group:
    """Pictures that stay in one split."""

    rows: list[int]
    key: bytes
    """The smallest key among them: it depends on pixels alone."""
    first: int
    """The row that has this key."""
    counts: NDArray[np.int64] = field(repr=False)
    """Pictures of each class."""


def draw_splits(stated: NDArray[np.int8], rows: Rows, request: SplitRequest | None, *, name: str) -> Drawn:
    """Draw the splits that a data set lacks from its training pictures, or from those without a split.

    Each class gives its share. Exact copies stay in one split, and so do the pictures of a person. What is also in a
    stated validation or test split is never drawn. The selection depends on pixels, labels, groups and the seed only.

    Args:
        stated: int8 (n,), the place in `SPLITS` of each picture's split, -1 where the source states none.
        rows: the pictures.
        request: shares, groups and seed; None: the defaults.
        name: the data set's name, for errors.

    Raises:
        DataError: there is no picture to draw from, or fewer groups than splits although the user named the groups.
    """
    request = request or SplitRequest()
    missing = [split for split in (TEST, VALIDATION) if not (stated == split).any()]
    pool = (stated == TRAINING) | (stated == UNSTATED)
    splits = np.where(stated == UNSTATED, TRAINING, stated).astype(np.int8)
    unstated = int(np.count_nonzero(stated == UNSTATED))
    partly = 0 < unstated < len(stated)
    notes = [f"{unstated:,} pictures have no split: they count as training"] if partly else []
    if not missing:
        return Drawn(splits, (*notes, *_useless(request)))
    if not pool.any():
        present = " and ".join(SPLITS[split] for split in sorted(set(stated.tolist())))
        raise DataError(f"{name} has no training pictures, only {present}: name a folder that holds training pictures")
    groups, fixed = _groups(pool, rows)
    by_group = rows.groups is not None
    if by_group and len(groups) + len(fixed) <= len(missing):
        reason = f"{len(groups) + len(fixed)} groups {rows.grouping} are too few to draw {len(missing)} splits"
        if request.by is not None:
            raise DataError(f"{name}: {reason}: choose others with --split by=..., or leave by= out")
        notes.append(f"{reason}: they were drawn by picture")
        return _with_notes(draw_splits(stated, Rows(rows.labels, rows.pictures), request, name=name), notes)
    shares = _fractions(missing, request)
    totals = np.bincount(rows.labels[pool], minlength=int(rows.labels.max()) + 1)
    for split in missing:
        order = _ordered(groups, rows.pictures, request.seed, split)
        wanted = _wanted(totals, shares[split], np.bincount(rows.labels[splits == TRAINING], minlength=len(totals)))
        chosen = _nearest(order, wanted, keep=missing[-1] != split) if by_group else _fitting(order, wanted)
        if not chosen:
            raise DataError(
                f"{name}: no picture can be drawn for the {SPLITS[split]} split, because one of each class remains for "
                "training: expected a class of 3 different pictures or more, or other shares with --split"
            )
        for group in chosen:
            splits[group.rows] = split
        taken = {id(group) for group in chosen}
        groups = [group for group in groups if id(group) not in taken]
        notes.append(_note(split, int((splits == split).sum()), shares[split], rows, len(chosen), request))
    drawn = sorted(missing)
    record = {
        "splits": [SPLITS[split] for split in drawn],
        "shares": [round(shares[split], 6) for split in drawn],
        "seed": request.seed,
        "by": "picture" if rows.groups is None else rows.group_name,
    }
    return Drawn(splits, tuple(notes), record)


def _useless(request: SplitRequest) -> list[str]:
    """The note for a `--split` that draws nothing, because the data have all splits."""
    return ["--split draws nothing: the data set states all three splits"] if request != SplitRequest() else []


def _with_notes(drawn: Drawn, notes: Sequence[str]) -> Drawn:
    return Drawn(drawn.splits, (*notes, *drawn.notes), drawn.record)


def _fractions(missing: Sequence[int], request: SplitRequest) -> dict[int, float]:
    """For each missing split, the share of the pool that is drawn for it."""
    if request.shares is None and len(missing) == 1:
        return {missing[0]: 1 / HELD_OUT}
    shares = request.shares or _DEFAULT_SHARES
    total = shares[TRAINING] + sum(shares[split] for split in missing)
    return {split: shares[split] / total for split in missing}


def _wanted(totals: NDArray[np.int64], share: float, remaining: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pictures of each class to draw: at least one, as long as one remains for training."""
    wanted = np.maximum(1, np.round(totals * share).astype(np.int64))
    return np.minimum(wanted, np.maximum(remaining - 1, 0))


def _groups(pool: NDArray[np.bool_], rows: Rows) -> tuple[list[_Group], list[_Group]]:
    """The groups of the pool's pictures: those that may be drawn, and those that are also in a stated split."""
    keys = rows.pictures.keys()
    parent: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for row, key in enumerate(keys):
        group = rows.groups[row] if rows.groups is not None else None
        if group is not None:
            parent[root(key)] = root(("group", group))
    members: dict[Any, list[int]] = {}
    elsewhere = set()
    for row, key in enumerate(keys):
        node = root(key)
        if pool[row]:
            members.setdefault(node, []).append(row)
        else:
            elsewhere.add(node)
    free: list[_Group] = []
    fixed: list[_Group] = []
    classes = int(rows.labels.max()) + 1
    for node, places in members.items():
        first = min(places, key=lambda row: keys[row])
        counts = np.bincount(rows.labels[places], minlength=classes)
        (fixed if node in elsewhere else free).append(_Group(places, keys[first], first, counts))
    return free, fixed


def _ordered(groups: Sequence[_Group], pictures: Pictures, seed: int, split: int) -> list[_Group]:
    """The groups in the random order of a seed."""

    def order(group: _Group) -> bytes:
        # FER2013's pictures are ordered by their pixels: earlier versions did so, and runs name the splits by a hash.
        content = pictures[group.first].tobytes() if pictures.uniform == (SIZE, SIZE) else group.key
        salt = b"test" if split == TEST else b""
        return hashlib.sha256(seed.to_bytes(8, "little", signed=True) + salt + content).digest()

    return sorted(groups, key=order)


def _fitting(groups: Sequence[_Group], wanted: NDArray[np.int64]) -> list[_Group]:
    """For each class, groups in their order as long as they fit; the first class of copies with several counts."""
    chosen = []
    taken = np.zeros_like(wanted)
    for group in groups:
        label = int(np.flatnonzero(group.counts)[0])
        # A group of copies may be too large for what is missing; a later one may fit.
        if taken[label] + len(group.rows) <= wanted[label]:
            taken[label] += len(group.rows)
            chosen.append(group)
    return chosen


def _nearest(groups: Sequence[_Group], wanted: NDArray[np.int64], *, keep: bool) -> list[_Group]:
    """Groups in their order, each if it brings the counts of all classes nearer to the wanted ones; at least one.

    Args:
        groups: persons, usually with pictures of several classes each.
        wanted: pictures of each class.
        keep: leave one group for another split besides training.
    """
    scale = np.maximum(wanted, 1)
    most = len(groups) - (1 + keep)

    def distance(counts: NDArray[np.int64]) -> float:
        return float((((counts - wanted) / scale) ** 2).sum())

    chosen: list[_Group] = []
    taken = np.zeros_like(wanted)
    for group in groups:
        if len(chosen) < max(most, 1) and distance(taken + group.counts) < distance(taken):
            taken = taken + group.counts
            chosen.append(group)
    return chosen or [min(groups, key=lambda group: distance(group.counts))]


def _note(split: int, pictures: int, share: float, rows: Rows, groups: int, request: SplitRequest) -> str:
    """The sentence about a split that was drawn."""
    part = "one in eight" if share == 1 / HELD_OUT else f"{100 * share:.3g}%"
    how = f"{part} of each class"
    if rows.groups is not None:
        how = f"about {part}, {groups:,} group{'' if groups == 1 else 's'} {rows.grouping}"
    seed = f" (seed {request.seed})" if request.seed else ""
    return f"there is no {SPLITS[split]} split: {pictures:,} training pictures, {how}, were drawn for it{seed}"
