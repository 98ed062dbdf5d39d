"""What a data set holds, for people and for records: classes, splits, sizes, copies, and what is wrong with it.

`Dataset.summary()` summarises a data set that was loaded; `faces.survey` also one that `train` would refuse.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.faces.near_copies import BITS, THRESHOLD, near_groups, perceptual_hashes

if TYPE_CHECKING:
    from fer_deploy.faces.dataset import Dataset
    from fer_deploy.faces.store import Pictures

FORMAT = 1
"""Version of `Summary.to_dict`."""

UNSTATED = "unstated"
"""The name of the split of pictures for which the source states none, in data that was refused."""

EXAMPLES = 10
"""Pairs of copies that a summary names."""

SMALL = 48
"""Pixels: a picture with a shorter side than the released networks see is counted as small."""

UNBALANCED = 3.0
"""`train`'s short form names the imbalance from this ratio of the largest class to the smallest on."""


@dataclass(frozen=True)
class SplitSummary:
    """One split."""

    name: str
    """training, validation, test; or unstated."""
    title: str
    """The name in reports: PublicTest for FER2013's validation split."""
    pictures: int
    """Its pictures."""
    classes: tuple[int, ...]
    """Pictures of each class, in the order of the labels."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the pictures in pixels, height and width. Of pictures without a size all are zero."""

    smallest: tuple[int, int] = (0, 0)
    """The size with the fewest pixels."""
    median: tuple[int, int] = (0, 0)
    """The median height and the median width."""
    largest: tuple[int, int] = (0, 0)
    """The size with the most pixels."""
    distinct: int = 0
    """How many different sizes there are."""
    not_square: int = 0
    """Pictures that are stretched to the square that a network sees."""
    small: int = 0
    """Pictures whose shorter side is below 48 pixels: they have less detail than the smallest input size shows."""


@dataclass(frozen=True)
class Copies:
    """Pictures that are copies of each other."""

    repeated: Mapping[str, int] = field(default_factory=dict)
    """For each split that has some: its pictures that another picture of the split already shows."""
    across: Mapping[str, int] = field(default_factory=dict)
    """For `training, test` and so on: pictures of the first split that have a copy in the second."""
    other_label: int = 0
    """Pictures that have a copy with another label."""
    examples: tuple[tuple[str, str], ...] = ()
    """Places of copies: first those with different labels, then those in different splits. At most ten pairs."""


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be read."""

    place: str
    """The file or row."""
    reason: str
    """What is wrong with it."""


@dataclass(frozen=True)
class Summary:
    """What a data set holds. `to_dict` is the JSON of `ferdeploy data --json` and `data.summary` of a run's record."""

    name: str
    """FER2013 for the official one, else the file's or folder's name."""
    official: bool
    """Whether it is FER2013 with all its faces."""
    sha256: str | None
    """`Dataset.sha256`; null where `train` would refuse the data."""
    labels: tuple[str, ...]
    """The classes in order; where labels are not understood, the words or numbers of the source, sorted."""
    label_source: str
    """Where the labels and their order come from."""
    splits: tuple[SplitSummary, ...]
    """Each split with its counts."""
    sizes: Sizes
    """Sizes of the pictures as they are stored."""
    colour: int | None
    """Pictures in colour, which networks see in grey; null where the source has grey values only."""
    blank: int
    """Pictures of a single grey value."""
    copies: Copies
    """Exact copies: equal pixels."""
    near_copies: Copies
    """Near copies, which are not exact: see `faces.near_copies`."""
    unreadable: tuple[Unreadable, ...] = ()
    """Pictures that cannot be read."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What was left out, counted by reason."""
    notes: tuple[str, ...] = ()
    """How the data was understood, one sentence each."""
    problems: tuple[str, ...] = ()
    """Why `train` would refuse the data; empty where it would not."""

    @property
    def pictures(self) -> int:
        """All pictures."""
        return sum(split.pictures for split in self.splits)

    @property
    def balance(self) -> tuple[str, int, str, int] | None:
        """The largest training class and the smallest, each with its pictures; None without training pictures."""
        counts = next((split.classes for split in self.splits if split.name in ("training", UNSTATED)), ())
        if not sum(counts):
            return None
        most, least = int(np.argmax(counts)), int(np.argmin(counts))
        return self.labels[most], counts[most], self.labels[least], counts[least]

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, with `format`, `pictures`, `balance` and the threshold of near copies."""
        values = dataclasses.asdict(self)
        balance = self.balance
        more = {
            "format": FORMAT,
            "pictures": self.pictures,
            "balance": None if balance is None else dict(zip(_BALANCE, balance, strict=True)),
            "near_copies": {**values["near_copies"], "hash_bits": BITS, "most_differing_bits": THRESHOLD},
        }
        return {"format": FORMAT, **values, **more}

    def short(self) -> tuple[str, ...]:
        """What a person should see before training, one line each: the size, and whatever is unusual."""
        lines = [f"{self.pictures:,} pictures, {described_sizes(self.sizes)}; {len(self.labels):,} classes"]
        balance = self.balance
        if balance is not None and balance[1] >= UNBALANCED * max(1, balance[3]):
            lines.append(described_balance(balance))
        lines += described_copies(self)
        if self.blank:
            lines.append(f"{self.blank:,} pictures have a single grey value")
        return tuple(lines)


_BALANCE = ("largest", "largest_pictures", "smallest", "smallest_pictures")


def described_sizes(sizes: Sizes) -> str:
    """The sizes in words, height before width.

    >>> described_sizes(Sizes((48, 48), (48, 48), (48, 48), 1))
    '48x48 pixels'
    """
    if sizes.distinct <= 1:
        text = f"{sizes.smallest[0]}x{sizes.smallest[1]} pixels"
    else:
        low, middle, high = (f"{height}x{width}" for height, width in (sizes.smallest, sizes.median, sizes.largest))
        text = f"{low} to {high} pixels ({sizes.distinct:,} sizes, median {middle})"
    if sizes.not_square:
        text += f", {sizes.not_square:,} not square"
    return text


def described_balance(balance: tuple[str, int, str, int]) -> str:
    """The balance of the training classes in words.

    >>> described_balance(("happy", 7215, "disgust", 436))
    'balance: happy has 7,215 training pictures, disgust 436: 16.5 to 1'
    """
    most, many, least, few = balance
    if many == few:
        return f"balance: every class has {many:,} training pictures"
    ratio = f"{few:,}: {many / few:.1f} to 1" if few else "none"
    return f"balance: {most} has {many:,} training pictures, {least} {ratio}"


def described_copies(summary: Summary) -> list[str]:
    """The copies in lines for people; none where there are none."""
    lines = []
    for kind, copies in (("exact copies", summary.copies), ("near copies", summary.near_copies)):
        parts = []
        for pair, count in copies.across.items():
            first, second = pair.split(", ")
            parts.append(f"{count:,} of {first} in {second}")
        parts += [f"{count:,} repeated in {split}" for split, count in copies.repeated.items()]
        if copies.other_label:
            parts.append(f"{copies.other_label:,} with another label")
        if parts:
            lines.append(f"{kind}: {', '.join(parts)}")
    return lines


@dataclass(frozen=True, eq=False)
class PictureFacts:
    """What a summary needs to know of each picture; all arrays have one entry for each.

    Attributes:
        keys: equal for exact copies, and only for them.
        hashes: uint16 (n, 16), see `near_copies.perceptual_hashes`.
        sizes: int64 (n, 2), height and width.
        blank: bool (n,), whether all pixels are equal.
    """

    keys: Sequence[bytes]
    hashes: NDArray[np.uint16]
    sizes: NDArray[np.int64]
    blank: NDArray[np.bool_]

    @classmethod
    def of(cls, pictures: Pictures) -> PictureFacts:
        """The facts of pictures that are decoded."""
        blank = np.zeros(len(pictures), bool)
        for places, group in pictures.by_shape():
            blank[places] = is_blank(group)
        return cls(pictures.keys(), perceptual_hashes(pictures.by_shape(), len(pictures)), pictures.sizes, blank)

    @classmethod
    def joined(cls, parts: Iterable[PictureFacts]) -> PictureFacts:
        """The facts of several sets of pictures, one after the other."""
        parts = list(parts)
        return cls(
            [key for part in parts for key in part.keys],
            np.concatenate([part.hashes for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.blank for part in parts]),
        )


def is_blank(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the pictures uint8 (m, height, width) have a single grey value, bool (m,)."""
    flat = pictures.reshape(len(pictures), -1)
    return np.asarray(flat.min(axis=1) == flat.max(axis=1))


def sizes_of(sizes: NDArray[np.int64]) -> Sizes:
    """The summary of sizes int64 (n, 2)."""
    if not len(sizes):
        return Sizes()
    distinct, counts = np.unique(sizes, axis=0, return_counts=True)
    areas = distinct.prod(axis=1)
    height, width = np.median(sizes, axis=0).astype(int).tolist()

    def at(place: Any) -> tuple[int, int]:
        return int(distinct[place, 0]), int(distinct[place, 1])

    return Sizes(
        smallest=at(areas.argmin()),
        median=(height, width),
        largest=at(areas.argmax()),
        distinct=len(distinct),
        not_square=int(counts[distinct[:, 0] != distinct[:, 1]].sum()),
        small=int(counts[distinct.min(axis=1) < SMALL].sum()),
    )


@dataclass(frozen=True, eq=False)
class Placed:
    """The split, the class and the place of each picture whose copies are counted."""

    names: tuple[str, ...]
    """The splits' names."""
    splits: NDArray[np.int64]
    """The split of each picture, an index into `names`."""
    labels: NDArray[np.int64]
    """The class of each picture."""
    place: Callable[[int], str] | None = None
    """Where picture i is; without it no examples are named."""


def exact_copies(keys: Sequence[bytes], placed: Placed) -> tuple[Copies, NDArray[np.int64]]:
    """The exact copies among pictures, and the group of each: the first picture with its pixels."""
    first: dict[bytes, int] = {}
    groups = np.fromiter((first.setdefault(key, place) for place, key in enumerate(keys)), np.int64, len(keys))
    return _count_copies(groups, np.arange(len(keys)), placed), groups


def near_copies(facts: PictureFacts, groups: NDArray[np.int64], placed: Placed) -> Copies:
    """The near copies among pictures. Exact copies of each other and blank pictures do not count.

    Args:
        facts: the pictures.
        groups: the group of exact copies of each picture.
        placed: their splits and classes.
    """
    firsts = np.unique(groups[~facts.blank])
    joined = np.arange(len(groups))
    joined[firsts] = firsts[near_groups(facts.hashes[firsts])]
    return _count_copies(joined[groups], groups, placed)


def _count_copies(groups: NDArray[np.int64], items: NDArray[np.int64], placed: Placed) -> Copies:
    """Count the copies among pictures.

    Args:
        groups: the group of each picture; pictures of a group are copies of each other.
        items: pictures with the same item count as one: exact copies, where near copies are counted.
        placed: their splits and classes.
    """
    members: dict[int, list[int]] = {}
    item_count: dict[int, set[int]] = {}
    for place, (group, item) in enumerate(zip(groups.tolist(), items.tolist(), strict=True)):
        members.setdefault(group, []).append(place)
        item_count.setdefault(group, set()).add(item)
    repeated: Counter[str] = Counter()
    across: Counter[tuple[int, int]] = Counter()
    other_label = 0
    examples: list[tuple[int, int, int]] = []
    splits, labels = placed.splits.tolist(), placed.labels.tolist()
    for group, places in members.items():
        if len(item_count[group]) < 2:
            continue
        by_split: dict[int, list[int]] = {}
        for place in places:
            by_split.setdefault(splits[place], []).append(place)
        for split, here in by_split.items():
            repeated[placed.names[split]] += len({int(items[place]) for place in here}) - 1
            for other, there in by_split.items():
                if split < other and len({int(items[place]) for place in (*here, *there)}) > 1:
                    across[split, other] += len(here)
        differing = len({labels[place] for place in places}) > 1
        other_label += len(places) * differing
        examples.append(_example(places, splits, labels))
    named = sorted(examples)[:EXAMPLES]
    where = placed.place
    return Copies(
        repeated={name: repeated[name] for name in placed.names if repeated[name]},
        across={f"{placed.names[a]}, {placed.names[b]}": count for (a, b), count in sorted(across.items())},
        other_label=other_label,
        examples=() if where is None else tuple((where(first), where(second)) for _, first, second in named),
    )


def _example(places: Sequence[int], splits: Sequence[int], labels: Sequence[int]) -> tuple[int, int, int]:
    """A pair of a group, after its rank: 0 if its labels differ, 1 if its splits differ, else 2."""
    first = places[0]
    for rank, values in enumerate((labels, splits)):
        other = next((place for place in places if values[place] != values[first]), None)
        if other is not None:
            return rank, first, other
    return 2, first, places[1]


def summarise(dataset: Dataset, *, place_of_row: Callable[[int], str] | None = None) -> Summary:
    """The summary of a data set that was loaded.

    Args:
        dataset: the data set.
        place_of_row: where the picture of a row of the source is; without it no copies are named.
    """
    from fer_deploy.faces.dataset import SPLITS

    splits = [dataset.split(name) for name in SPLITS]
    titles = dataset.split_names
    facts = PictureFacts.joined(PictureFacts.of(faces.pictures) for faces in splits)
    rows = np.concatenate([faces.rows for faces in splits]).tolist()
    placed = Placed(
        SPLITS,
        np.repeat(np.arange(len(SPLITS)), [len(faces) for faces in splits]),
        np.concatenate([faces.labels for faces in splits]),
        None if place_of_row is None else lambda picture: place_of_row(rows[picture]),
    )
    copies, groups = exact_copies(facts.keys, placed)
    return Summary(
        name=dataset.name,
        official=dataset.official,
        sha256=dataset.sha256,
        labels=dataset.labels,
        label_source=dataset.labels_source,
        splits=tuple(
            SplitSummary(name, titles[name], len(faces), faces.counts)
            for name, faces in zip(SPLITS, splits, strict=True)
        ),
        sizes=sizes_of(facts.sizes),
        colour=dataset.colour,
        blank=int(facts.blank.sum()),
        copies=copies,
        near_copies=near_copies(facts, groups, placed),
        notes=dataset.notes,
    )
