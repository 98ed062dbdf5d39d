"""Small data sets with random pictures, drawn in the layouts that people have, for the tests of the readers."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fer_deploy.emotions import EMOTIONS
from fer_deploy.faces.find import find
from fer_deploy.faces.listing import Listing
from fer_deploy.labels import FER2013, LabelMap, understand
from fer_deploy.pictures import read_picture, to_grey

SPLITS = ("train", "validation", "test")


def draw(root: Path, *names: str, size: int = 8) -> Path:
    """Random grey pictures under these names; the same names give the same pictures."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = np.frombuffer(name.encode(), np.uint8).tolist()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(path)
    return root


def tree(
    root: Path,
    pattern: str = "{split}/{label}/{number}.png",
    *,
    splits: Sequence[str] = SPLITS,
    labels: Iterable[str] = EMOTIONS,
    count: int = 2,
) -> Path:
    """A tree of pictures, `count` for each label of each split."""
    return draw(
        root,
        *(
            pattern.format(split=split, label=label, number=number)
            for split in splits
            for label in labels
            for number in range(count)
        ),
    )


def text(root: Path, name: str, *lines: str) -> Path:
    """A text file."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return root


def listed(path: Path) -> Listing:
    """The listing of what lies at a path."""
    return find(path).read()


def words(listing: Listing, labels: str = "") -> Counter[tuple[str | None, str]]:
    """How many pictures each split has of each class; fails if a picture cannot be read."""
    label_map = LabelMap.parse(labels) if labels else FER2013 if listing.fer2013_numbers else None
    found = understand(listing.labels, declared=listing.declared, label_map=label_map, name=listing.name)
    assert all(picture.size for picture in pixels(listing))
    return Counter(
        (split, found.labels[number])
        for split, number in zip(listing.splits, found.numbers, strict=True)
        if number >= 0
    )


def pixels(listing: Listing) -> list[np.ndarray]:
    """The pictures of a listing, grey."""
    if listing.pictures.pixels is not None:
        return list(listing.pictures.pixels)
    read: Callable[[int], bytes] = listing.pictures.read or (lambda _: b"")
    return [to_grey(read_picture(read(place), name="x").pixels) for place in range(len(listing))]


def encoded(seed: int, kind: str = "PNG", size: int = 8) -> bytes:
    """A random picture as a file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def row_of_pixels(seed: int, size: int = 8, separator: str = " ") -> str:
    """Random grey values as a table has them."""
    return separator.join(map(str, np.random.default_rng(seed).integers(0, 256, size * size)))
