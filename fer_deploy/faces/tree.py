"""Read faces from pictures in folders: <split>/<expression>/<picture>, on the disk or in a .zip.

Splits are train and test, or train, validation and test; expressions are the seven names; both in any case and by any
of their aliases. Pictures of another size are resized to 48x48, colour becomes grey (Rec. 601 luma), and both are said.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError
from fer_deploy.faces.containers import refuse_bomb
from fer_deploy.faces.dataset import SIZE, SPLITS, Faces
from fer_deploy.faces.reading import Reading
from fer_deploy.faces.splits import split_of
from fer_deploy.files import read_file, shown
from fer_deploy.pictures import PICTURE_SUFFIXES, read_picture, to_grey

LARGEST_PICTURE = 16 << 20
"""Bytes that one picture may have."""

MOST_PIXELS = 16_000_000
"""Pixels that one picture may have before it is resized."""

MOST_FILES = 2_000_000
"""Files that are looked at before a folder is refused."""

DEEPEST = 8
"""Folders within folders that are looked into."""

_NOT_MEANT = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, eq=False)
class Tree:
    """The pictures of a data set that is stored as folders.

    Attributes:
        name: the folder or archive, for errors.
        files: for each split, the class and the relative name of each picture, sorted by name.
        read: gives a picture's bytes by its relative name.
    """

    name: str
    files: Mapping[str, tuple[tuple[int, str], ...]]
    read: Callable[[str], bytes]


def walk(folder: Path) -> Iterator[str]:
    """The relative names (with /) of the files below a folder, hidden ones and pipes left out.

    Links are followed, but no folder is entered twice, so a link that leads back to its own parent ends.

    Raises:
        DataError: there are more than two million files.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [("", folder)]
    found = 0
    while waiting:
        prefix, here = waiting.pop()
        status = here.stat()
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                name = prefix + entry.name
                try:
                    is_folder = entry.is_dir()
                    is_file = not is_folder and (entry.is_symlink() or entry.is_file())
                except OSError:  # a link that leads back to itself
                    is_folder, is_file = False, True
                if is_folder and name.count("/") < DEEPEST:
                    waiting.append((name + "/", here / entry.name))
                elif is_file:
                    found += 1
                    if found > MOST_FILES:
                        raise DataError(
                            f"{shown(folder)} holds more than {MOST_FILES:,} files; name the data set itself"
                        )
                    yield name


def find_tree(name: str, names: Iterable[str], read: Callable[[str], bytes]) -> Tree | None:
    """The tree among relative file names, wherever its split folders lie; None when there is none.

    Raises:
        DataError: there are two trees, a split or an expression is missing, or a folder is none of the seven.
    """
    paths = [PurePosixPath(each) for each in names]
    roots = {root for path in paths if (root := _root(path)) is not None}
    if not roots:
        return None
    if len(roots) > 1:
        listed = ", ".join(sorted(str(root) for root in roots)[:4])
        raise DataError(f"{name} holds several trees of pictures ({listed}); name the one to read")
    root = roots.pop()
    files: dict[str, list[tuple[int, str]]] = {split: [] for split in SPLITS}
    folders: dict[str, str] = {}
    for path in paths:
        if not path.is_relative_to(root):
            continue
        inside = path.relative_to(root).parts
        split = split_of(inside[0])
        if split is None or len(inside) < 2 or path.name.lower() in _NOT_MEANT:
            continue
        if len(inside) == 2:  # a list or a read-me beside the class folders is nobody's face; a picture is
            if path.suffix.lower() in PICTURE_SUFFIXES:
                raise DataError(f"{name}: {path} lies in no folder of an expression ({', '.join(EMOTIONS)})")
            continue
        label = emotion_index(inside[1])
        if label is None:
            raise DataError(
                f"{name}: the folder {root / inside[0] / inside[1]} is none of the seven expressions "
                f"({', '.join(EMOTIONS)}); rename or remove it"
            )
        if folders.setdefault(split, inside[0]) != inside[0]:
            raise DataError(
                f"{name}: the folders {folders[split]} and {inside[0]} are both the {split} split; keep one"
            )
        files[split].append((label, str(path)))
    for split in ("training", "test"):
        if not files[split]:
            raise DataError(
                f"{name} has no folder for the {split} split; there must be train and test, and may be validation"
            )
    for split, folder in folders.items():
        counts = Counter(label for label, _ in files[split])
        missing = [EMOTIONS[label] for label in range(len(EMOTIONS)) if not counts[label]]
        if missing:
            raise DataError(
                f"{name}: {root / folder} has no pictures of {', '.join(missing)}; all seven expressions are needed"
            )
    return Tree(name, {split: tuple(sorted(each, key=lambda file: file[1])) for split, each in files.items()}, read)


def folder_tree(folder: Path, names: Iterable[str]) -> Tree | None:
    """The tree below a folder, of the names that `walk` found there; None when there is none."""
    return find_tree(
        shown(folder.resolve().name or folder),
        names,
        lambda name: read_file(folder / name, maximum_bytes=LARGEST_PICTURE, what="picture"),
    )


def zip_tree(archive: zipfile.ZipFile, name: str) -> Tree | None:
    """The tree inside an open .zip; None when there is none. DataError when it unpacks to too much."""
    members = {
        member.filename: member
        for member in archive.infolist()
        if not member.is_dir() and not stat.S_ISLNK(member.external_attr >> 16) and not _is_hidden(member.filename)
    }

    def read(member: str) -> bytes:
        with archive.open(members[member]) as file:
            content = file.read(LARGEST_PICTURE + 1)
        if len(content) > LARGEST_PICTURE:
            raise DataError(f"{name}: {shown(member)} has over {LARGEST_PICTURE >> 20} MiB; it is no picture of a face")
        return content

    tree = find_tree(name, members, read)
    if tree is not None:
        sizes = [members[file] for files in tree.files.values() for _, file in files]
        refuse_bomb(sum(each.file_size for each in sizes), sum(each.compress_size for each in sizes), name)
    return tree


def tree_key(tree: Tree) -> str:
    """A hash of every picture's name and bytes, to know the same tree again."""
    whole = hashlib.sha256()
    for split in SPLITS:
        for label, name in tree.files[split]:
            whole.update(f"{split} {label} {name}\n".encode("utf-8", "surrogateescape"))
            whole.update(hashlib.sha256(tree.read(name)).digest())
    return whole.hexdigest()


def read_tree(tree: Tree) -> Reading:
    """The faces of a tree. `Faces.rows` number its pictures from 0, all splits together, in the order of `Tree.files`.

    Where there is no validation folder and every test picture is called PublicTest… or PrivateTest…, as in a common
    copy of FER2013, the names tell the two splits apart.

    Raises:
        DataError: a file is not a picture, or is damaged; the message names it.
    """
    splits: dict[str, Faces] = {}
    notes: list[str] = []
    resized = 0
    first = 0
    for split in SPLITS:
        files = tree.files[split]
        images = np.empty((len(files), SIZE, SIZE), np.uint8)
        for row, (_, name) in enumerate(files):
            images[row], was_resized = face_from_picture(tree.read(name), f"{tree.name}: {shown(name)}")
            resized += was_resized
        labels = np.array([label for label, _ in files], np.int64)
        splits[split] = Faces(images, labels, np.arange(first, first + len(files)))
        first += len(files)
    if resized:
        notes.append(f"{resized:,} pictures of another size were resized to {SIZE}x{SIZE}")
    in_test = [split_of(PurePosixPath(name).name.partition("_")[0]) for _, name in tree.files["test"]]
    is_public = np.array([split == "validation" for split in in_test])
    if not len(splits["validation"]) and None not in in_test and is_public.any() and not is_public.all():
        splits["validation"], splits["test"] = splits["test"].take(is_public), splits["test"].take(~is_public)
        notes.append("the test folder was parted into PublicTest and PrivateTest by the names of its files")
    return Reading(splits, tuple(notes))


def face_from_picture(content: bytes, name: str) -> tuple[NDArray[np.uint8], bool]:
    """A picture's bytes as a grey face, uint8 (48, 48), and whether it had to be resized. DataError names the file."""
    grey = to_grey(read_picture(content, name=name, maximum_pixels=MOST_PIXELS).pixels)
    if grey.shape == (SIZE, SIZE):
        return grey, False
    from PIL import Image

    return np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)), True


def _root(path: PurePosixPath) -> PurePosixPath | None:
    """The folder that holds the split folder above a picture: the last split/expression pair of its path counts."""
    parts = path.parts
    for place in range(len(parts) - 3, -1, -1):
        if split_of(parts[place]) is not None and emotion_index(parts[place + 1]) is not None:
            return PurePosixPath(*parts[:place])
    return None


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
