"""A data set of faces: three splits of labelled grey faces of any size, and the exact copies among them.

A `Dataset` is called FER2013 only if its class counts are the official ones (`OFFICIAL_COUNTS`). Any other keeps the
name of its source and is never reported as FER2013.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.resize import pictures_at
from fer_deploy.faces.store import SIZE as SIZE  # for the rooms above
from fer_deploy.faces.store import Pictures
from fer_deploy.faces.threads import Progress, no_progress

if TYPE_CHECKING:
    from fer_deploy.faces.summary import Summary

SPLITS: tuple[str, ...] = ("training", "validation", "test")
"""The splits in order; FER2013 calls them Training, PublicTest and PrivateTest."""

OFFICIAL_COUNTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
        "validation": (467, 56, 496, 895, 653, 415, 607),
        "test": (491, 55, 528, 879, 594, 416, 626),
    }
)
"""Faces of each class in each split of FER2013, as its authors published it (ICML 2013 workshop, Kaggle)."""

VOTE_NAMES: tuple[str, ...] = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "not_face",
)  # fmt: skip
"""The ten columns of FER+ votes, in the order of fer2013new.csv (github.com/microsoft/FERPlus)."""


@dataclass(frozen=True, eq=False, init=False)
class Faces:
    """Labelled grey faces, in the order of their source.

    Attributes:
        pictures: the faces, uint8, of one size or of many; an array uint8 (n, height, width) is accepted.
        labels: int64 (n,), 0 to `classes` - 1, in the order of the data set's labels.
        rows: int64 (n,), the row (from 0, header not counted) or file number of each face in its source.
        votes: uint8 (n, 10) FER+ votes in the order of `VOTE_NAMES`, or None where there are none.
        classes: the number of classes, whether or not each occurs.
    """

    pictures: Pictures
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    votes: NDArray[np.uint8] | None
    classes: int

    def __init__(
        self,
        pictures: Pictures | NDArray[np.uint8],
        labels: NDArray[np.int64],
        rows: NDArray[np.int64],
        votes: NDArray[np.uint8] | None = None,
        *,
        classes: int = len(EMOTIONS),
    ) -> None:
        """See the class. ValueError if the arrays do not fit together."""
        values = {"pictures": Pictures.of(pictures), "labels": labels, "rows": rows, "votes": votes, "classes": classes}
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen
        count = len(self.pictures)
        _expect("labels", self.labels, np.int64, (count,))
        _expect("rows", self.rows, np.int64, (count,))
        if self.votes is not None:
            _expect("votes", self.votes, np.uint8, (count, len(VOTE_NAMES)))
        if count and not (self.labels.min() >= 0 and self.labels.max() < classes):
            raise ValueError(f"labels must be 0 to {classes - 1}, got {self.labels.min()} to {self.labels.max()}")

    def __len__(self) -> int:
        """The number of faces."""
        return len(self.pictures)

    @property
    def images(self) -> NDArray[np.uint8]:
        """All faces as one array, uint8 (n, height, width): (n, 48, 48) for FER2013. ValueError if sizes differ."""
        return self.pictures.array()

    def at(self, input_size: int, *, progress: Progress = no_progress) -> NDArray[np.uint8]:
        """The faces for a network of this input size, uint8 (n, side, side), possibly a mapped file.

        Do not write to them. Squares of one size that is not above `input_size` stay unchanged, so that side may be
        smaller. All others are resized, once and from the original: see `resize.pictures_at`.
        """
        return pictures_at(self.pictures, input_size, progress=progress)

    def by_shape(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """The unchanged faces, those of one size together: their places int64 (m,), and uint8 (m, height, width)."""
        return self.pictures.by_shape()

    def take(self, which: NDArray[Any] | slice) -> Self:
        """The faces that an index array, a boolean mask (n,) or a slice picks, in that order."""
        votes = None if self.votes is None else self.votes[which]
        pictures = self.pictures.take(which)
        return type(self)(pictures, self.labels[which], self.rows[which], votes, classes=self.classes)

    @cached_property
    def images_sha256(self) -> str:
        """SHA-256 of the pictures in their order. (`Dataset.sha256` does not depend on the order.)"""
        if self.pictures.digests is None:
            return hashlib.sha256(np.ascontiguousarray(self.images).data).hexdigest()
        return hashlib.sha256(b"".join(self.pictures.keys())).hexdigest()

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of faces of each class."""
        return tuple(int(count) for count in np.bincount(self.labels, minlength=self.classes))

    @classmethod
    def empty(cls, classes: int = len(EMOTIONS)) -> Self:
        """No faces at all."""
        none = np.empty(0, np.int64)
        return cls(np.empty((0, SIZE, SIZE), np.uint8), none, none, classes=classes)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of faces, with their name, hash and notes.

    Attributes:
        name: "FER2013" for the official one only, "synthetic", or the name of the source file or folder.
        official: whether the class counts of every split are FER2013's.
        sha256: 64 hexadecimal digits that depend on pixels, labels and splits only: not on the kind of file, its
            compression or the order of its rows.
        training: the training faces. A network whose score is reported trains on `clean_training`.
        validation: the faces on which every choice is made (PublicTest).
        test: the faces that are scored once, for the report (PrivateTest).
        notes: what a user should know about how the data was read, one sentence each.
        labels: the classes in order; position i is class i in data, networks and files.
        label_map: the `LabelMap.to_dict()` that made the classes; None without one.
        labels_source: where the labels and their order come from, a few words.
        drawn: how missing splits were drawn, for records: "splits", "shares", "seed" and "by"; None if none was drawn.
        colour: how many of the source's pictures have colour; None if it holds grey values only.
    """

    name: str
    official: bool
    sha256: str
    training: Faces
    validation: Faces
    test: Faces
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = EMOTIONS
    label_map: Mapping[str, Any] | None = None
    labels_source: str = "the expressions in FER2013's order"
    drawn: Mapping[str, Any] | None = None
    colour: int | None = None

    def split(self, name: str) -> Faces:
        """The faces of the split "training", "validation" or "test"; ValueError for any other name."""
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}: the splits are {', '.join(SPLITS)}")
        faces: Faces = getattr(self, name)
        return faces

    @property
    def split_names(self) -> Mapping[str, str]:
        """The name of each split in reports: FER2013's names for FER2013."""
        names = ("Training", "PublicTest", "PrivateTest") if self.official else SPLITS
        return dict(zip(SPLITS, names, strict=True))

    def described(self) -> tuple[str, ...]:
        """The data set in lines for people: its name, the counts of each split, and the notes."""
        lines = [f"{self.name}, {sum(len(self.split(split)) for split in SPLITS):,} faces"]
        for split, title in self.split_names.items():
            faces = self.split(split)
            counts = ", ".join(f"{count:,} {name}" for name, count in zip(self.labels, faces.counts, strict=True))
            lines.append(f"{title}: {len(faces):,} ({counts})")
        return (*lines, *self.notes)

    def summary(self) -> Summary:
        """What the data set holds, with exact and near copies. It takes seconds for 30,000 pictures."""
        from fer_deploy.faces.summary import summarise

        return summarise(self)

    @cached_property
    def copies(self) -> NDArray[np.bool_]:
        """Training rows, bool (n,), whose pixels equal those of any validation or test row: 703 in FER2013."""
        return _occurs_in(self.training, _pixels(self.validation) | _pixels(self.test))

    @cached_property
    def clean_training(self) -> Faces:
        """Training without `copies`: 28,006 faces in FER2013."""
        return self.training.take(~self.copies)

    @cached_property
    def unseen_test(self) -> NDArray[np.bool_]:
        """Test rows, bool (n,), whose pixels occur in no training or validation row: 3,275 in FER2013."""
        return ~_occurs_in(self.test, _pixels(self.training) | _pixels(self.validation))

    def with_share(self, share: float) -> Dataset:
        """The same validation and test faces with a random share of the training faces, to measure the effect of data.

        Args:
            share: of the training faces, in (0, 1]. A larger share contains the faces of a smaller one; 1 is `self`.

        Raises:
            ValueError: the share is out of range.
        """
        if not 0 < share <= 1:
            raise ValueError(f"the share of training faces must lie in (0, 1], got {share}")
        if share == 1:
            return self
        order = np.random.default_rng(0).permutation(len(self.training))
        kept = np.sort(order[: max(1, round(share * len(order)))])
        training = self.training.take(kept)
        sha256 = content_sha256({"training": training, "validation": self.validation, "test": self.test}, self.labels)
        name = f"{self.name}, {share:.0%} of its training faces"
        return replace(self, name=name, official=False, sha256=sha256, training=training)

    @classmethod
    def of(
        cls,
        name: str,
        training: Faces,
        *,
        validation: Faces,
        test: Faces,
        official: bool,
        notes: tuple[str, ...] = (),
        labels: tuple[str, ...] = EMOTIONS,
    ) -> Self:
        """A data set from its splits; computes `sha256`. DataError if a split has no face."""
        splits = {"training": training, "validation": validation, "test": test}
        for split, faces in splits.items():
            if not len(faces):
                raise DataError(f"{name}: the {split} split has no face: all of {', '.join(SPLITS)} are needed")
            if faces.classes != len(labels):
                raise ValueError(f"{name}: {len(labels)} labels, and the {split} split has {faces.classes} classes")
        sha256 = content_sha256(splits, labels)
        return cls(name, official, sha256, training, validation, test, notes, labels)


def content_sha256(splits: Mapping[str, Faces], labels: tuple[str, ...] = EMOTIONS) -> str:
    """A SHA-256 of pixels, labels and splits that does not depend on the order of rows.

    Each row is hashed together with the numbers of its split and label; the sorted digests are hashed again. Other
    labels than the seven, and other sizes than 48x48, are part of the hash.
    """
    sizes = {faces.pictures.uniform for faces in splits.values() if len(faces)}
    if labels != EMOTIONS or not sizes <= {(SIZE, SIZE)}:
        return _sha256_of_any(splits, labels)
    digests: list[bytes] = []
    for number, split in enumerate(SPLITS):
        faces = splits[split]
        images = np.ascontiguousarray(faces.images).reshape(len(faces), -1)
        for image, label in zip(images, faces.labels.tolist(), strict=True):
            digest = hashlib.sha256(bytes((number, label)))
            digest.update(image.data)
            digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _sha256_of_any(splits: Mapping[str, Faces], labels: tuple[str, ...]) -> str:
    """As `content_sha256`, with the labels' names and each picture's shape. Reads no pixels of a mapped file."""
    digests = [
        hashlib.sha256(b"%d %d " % (number, label) + key).digest()
        for number, split in enumerate(SPLITS)
        for key, label in zip(splits[split].pictures.keys(), splits[split].labels.tolist(), strict=True)
    ]
    names = "\n".join(labels).encode()
    return hashlib.sha256(b"%d %s\n" % (len(names), names) + b"".join(sorted(digests))).hexdigest()


def pixel_keys(faces: Faces) -> list[bytes]:
    """Bytes for each face: equal for exact copies, and only for them."""
    return faces.pictures.keys()


def _pixels(faces: Faces) -> set[bytes]:
    return set(pixel_keys(faces))


def _occurs_in(faces: Faces, others: set[bytes]) -> NDArray[np.bool_]:
    return np.fromiter((key in others for key in pixel_keys(faces)), bool, len(faces))


def _expect(what: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{what} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
