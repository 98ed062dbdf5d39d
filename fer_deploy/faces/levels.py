"""Which folder level is which: the one description of how folders name splits and classes.

`train/happy/1.png`, `happy/train/1.png`, `happy/1.png`, `images/train/happy/1.png`, `train/train/happy/1.png`,
`FER2013Train/0_happy/person 3/1.png`: every such layout is one rule. Folders whose names are splits tell the split. Of
the others, the level whose folders are expressions is the class; without expressions, the only level whose folders
differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fer_deploy.errors import DataError
from fer_deploy.faces.splits import split_of
from fer_deploy.files import shown
from fer_deploy.labels import expression_in

_AFTER = re.compile(r"(set|data|images|imgs|faces)$", re.IGNORECASE)
"""What people write after the name of a split, in one word or two: testset, train images."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True)
class Levels:
    """What the folders of pictures tell.

    Attributes:
        labels: the class folder of each picture; None for a picture that lies in no class folder.
        splits: the split of each picture, or None where no folder states one.
        are_expressions: whether the class folders are expressions; otherwise they are other words or numbers.
        note: how the folders were understood, one sentence.
    """

    labels: tuple[str | None, ...]
    splits: tuple[str | None, ...]
    are_expressions: bool
    note: str


def split_in(name: str) -> str | None:
    """The split that a name means or that its first or last word means; None for other names.

    >>> split_in("PublicTest"), split_in("FER2013Train"), split_in("train_images"), split_in("partial-test")
    ('validation', 'training', 'training', 'test')
    >>> split_in("train_test"), split_in("latest"), split_in("7")
    (None, None, None)
    """
    if (split := split_of(name)) is not None:
        return split
    words = [_AFTER.sub("", word) for word in _WORD.findall(name)]
    words = [word for word in words if word.lower() not in ("", "of", "fer", "plus")]
    found = {split_of(word) for word in words} - {None}
    ends = {split_of(word) for word in (words[:1] + words[-1:])} - {None}
    return ends.pop() if len(found) == 1 and ends else None


def understand_folders(pictures: Sequence[str], name: str, *, only_expressions: bool = False) -> Levels | None:
    """The class and split of each picture by its folders; None if no folders name classes.

    Args:
        pictures: relative names, `/` between folders.
        name: the data set's name, for errors.
        only_expressions: give None if the classes are no expressions.

    Raises:
        DataError: several trees hold the same split, or several levels could be the classes.
    """
    folders = [tuple(picture.split("/")[:-1]) for picture in pictures]
    counts = Counter(folders)
    others = {folder: tuple(part for part in folder if split_in(part) is None) for folder in counts}
    level, are_expressions = _class_level(others, counts, name, only_expressions)
    if level is None:
        return None
    labels = {folder: rest[level] if len(rest) > level else None for folder, rest in others.items()}
    splits = {folder: next((s for part in reversed(folder) if (s := split_in(part))), None) for folder in counts}
    named = [folder for folder in counts if labels[folder] is not None]
    _refuse_doubles({folder: others[folder][:level] for folder in named}, splits, name)
    by_files = _splits_of_files(pictures) if not any(splits.values()) else None
    largest: tuple[str, ...] = max(named, key=lambda folder: counts[folder])
    example = shown("/".join(largest))
    kinds = sorted({labels[folder] or "" for folder in named})
    listed = ", ".join(shown(kind) for kind in kinds[:8]) + (", ..." if len(kinds) > 8 else "")
    note = f"folders such as {example} were read: the classes are {listed}"
    if by_files:
        note += "; the names of the files tell the splits"
    return Levels(
        tuple(labels[folder] for folder in folders),
        tuple(by_files or (splits[folder] for folder in folders)),
        are_expressions,
        note,
    )


def _class_level(
    others: dict[tuple[str, ...], tuple[str, ...]], counts: Counter[tuple[str, ...]], name: str, only_expressions: bool
) -> tuple[int | None, bool]:
    """The place of the class among the folders that are no splits, and whether the classes are expressions."""
    places: Counter[int] = Counter()
    for folder, rest in others.items():
        deepest = max((place for place, part in enumerate(rest) if expression_in(part)), default=None)
        if deepest is not None:
            places[deepest] += counts[folder]
    if places:
        level = places.most_common(1)[0][0]
        if len(places) > 1:
            trees = sorted({shown("/".join(rest[:place])) or "." for rest in others.values() for place in places
                            if len(rest) > place and expression_in(rest[place])})  # fmt: skip
            raise DataError(f"{name} holds several trees of pictures ({', '.join(trees[:4])}): name the one to read")
        return level, True
    if only_expressions:
        return None, False
    deep = [rest for rest in others.values() if rest]
    shortest = min(map(len, deep), default=0)
    varying = [place for place in range(shortest) if len({rest[place] for rest in deep}) > 1]
    if len(varying) > 1:
        seen = "; ".join(", ".join(sorted({shown(rest[place]) for rest in deep})[:4]) for place in varying[:3])
        raise DataError(
            f"{name}: the folders have {len(varying)} levels that could be the classes ({seen}): expected one folder "
            "for each class, alone or in train, validation and test: move the pictures, or name their classes in a "
            "table with the columns path and label"
        )
    return (varying[0] if varying else None), False


def _refuse_doubles(
    roots: dict[tuple[str, ...], tuple[str, ...]], splits: dict[tuple[str, ...], str | None], name: str
) -> None:
    """Refuse two folders that claim the same split: one of them is a copy, or a part that belongs elsewhere."""
    stated: dict[str, set[tuple[str, ...]]] = {}
    trees: dict[str | None, set[tuple[str, ...]]] = {}
    for folder, root in roots.items():
        split = splits[folder]
        trees.setdefault(split, set()).add(root)
        if split is not None:
            stated.setdefault(split, set()).add(tuple(part.casefold() for part in folder if split_in(part) is not None))
    for split, chains in stated.items():
        if len(chains) > 1:
            first, second = sorted("/".join(chain) for chain in chains)[:2]
            raise DataError(
                f"{name}: the folders {shown(first)} and {shown(second)} are both the {split} split: keep one"
            )
    for several in trees.values():
        if len(several) > 1:
            listed = ", ".join(sorted(shown("/".join(root)) or "." for root in several)[:4])
            raise DataError(
                f"{name} holds several trees of pictures ({listed}): name the one to read, or, if they are persons, "
                "name all pictures in a table with the columns path, label and person"
            )


def split_in_name(picture: str) -> str | None:
    """The split that the first word of a file's name states (`Training_12.jpg`, `test_0001.png`); None if none."""
    return split_of(re.split(r"[_\-. ]", PurePosixPath(picture).name, maxsplit=1)[0])


def _splits_of_files(pictures: Sequence[str]) -> list[str | None] | None:
    """The splits by the first words of files' names, if every picture has one."""
    found = [split_in_name(picture) for picture in pictures]
    return found if found and None not in found and len(set(found)) > 1 else None
