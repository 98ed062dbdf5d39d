"""Read faces from pictures in folders: <split>/<expression>/<picture>, on the disk or in a .zip.

Splits are train and test, or train, validation and test. Expressions are the seven names. Both may be in any case, and
aliases are known. Pictures of another size are resized to 48x48 and colour becomes grey (Rec. 601 luma); a note says
so. Folders are searched by the rule of `folders.walk`, and what is left out is counted in a note.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError
from fer_deploy.faces.containers import refuse_bomb
from fer_deploy.faces.dataset import SIZE, SPLITS, Faces
from fer_deploy.faces.source import SourceFaces, label_notes
from fer_deploy.faces.splits import split_of
from fer_deploy.files import read_file, shown
from fer_deploy.folders import LeftOut, is_hidden, walk
from fer_deploy.pictures import PICTURE_SUFFIXES, read_picture, to_grey

LARGEST_PICTURE = 16 << 20
"""Bytes that one picture may have."""

MOST_PIXELS = 16_000_000
"""Pixels that one picture may have before it is resized."""

MOST_FILES = 2_000_000
"""A folder that holds more files is refused."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The pictures of a data set that is stored as folders.

    Attributes:
        name: the folder or archive, for errors.
        files: for each split, the class and the relative name of each picture, sorted by name.
        read: returns a picture's bytes by its relative name.
        notes: what was left out and which labels were read as others, one sentence each.
    """

    name: str
    files: Mapping[str, tuple[tuple[int, str], ...]]
    read: Callable[[str], bytes]
    notes: tuple[str, ...]


def files_in(folder: Path, left_out: LeftOut) -> list[str]:
    """The relative names (with /) of the files in a folder and its subfolders, by the rule of `folders.walk`.

    Raises:
        DataError: a folder cannot be read, or there are more than two million files.
    """
    names: list[str] = []
    for file in walk(folder, left_out):
        if left_out.problems:
            break
        names.append(file.name)
        if len(names) > MOST_FILES:
            raise DataError(f"{shown(folder)} holds more than {MOST_FILES:,} files: name the data set itself")
    if left_out.problems:
        raise DataError(left_out.problems[0])
    return names


def find_tree(name: str, names: Iterable[str], read: Callable[[str], bytes], left_out: LeftOut) -> Tree | None:
    """The tree among relative file names, wherever its split folders lie; None if there is none.

    Args:
        name: the folder or archive, for errors.
        names: the files.
        read: returns a file's bytes.
        left_out: what the search left out already; files that do not belong to the tree are added.

    Raises:
        DataError: there are two trees, a split or an expression is missing, or a folder is none of the seven.
    """
    paths = [PurePosixPath(file) for file in names]
    roots = {root for path in paths if (root := _root(path)) is not None}
    if not roots:
        return None
    if len(roots) > 1:
        listed = ", ".join(sorted(shown(root) for root in roots)[:4])
        raise DataError(f"{name} holds several trees of pictures ({listed}): name the one to read")
    root = roots.pop()
    files: dict[str, list[tuple[int, str]]] = {split: [] for split in SPLITS}
    folders: dict[str, str] = {}
    labels: set[str] = set()
    for path in paths:
        place = _place_in_tree(path, root, name)
        if place is None:
            left_out.add_file(path.name)
            continue
        split, label, folder = place
        if folders.setdefault(split, folder) != folder:
            raise DataError(f"{name}: the folders {folders[split]} and {folder} are both the {split} split: keep one")
        files[split].append((label, str(path)))
        labels.add(path.relative_to(root).parts[1])
    _refuse_incomplete(name, root, files, folders)
    by_name = {split: tuple(sorted(pictures, key=lambda file: file[1])) for split, pictures in files.items()}
    notes = [str(left_out)] if left_out.counts else []
    return Tree(name, by_name, read, (*notes, *label_notes(labels)))


def _place_in_tree(path: PurePosixPath, root: PurePosixPath, name: str) -> tuple[str, int, str] | None:
    """A file's split, class and the folder of its split; None if it is not a picture of the tree."""
    if not path.is_relative_to(root):
        return None
    inside = path.relative_to(root).parts
    split = split_of(inside[0])
    if split is None or len(inside) < 2 or path.suffix.lower() not in PICTURE_SUFFIXES:
        return None
    if len(inside) == 2:
        raise DataError(f"{name}: {shown(path)} lies in no folder of an expression ({', '.join(EMOTIONS)})")
    label = emotion_index(inside[1])
    if label is None:
        raise DataError(
            f"{name}: the folder {shown(root / inside[0] / inside[1])} is none of the seven expressions "
            f"({', '.join(EMOTIONS)}): rename or remove it"
        )
    return split, label, inside[0]


def _refuse_incomplete(
    name: str, root: PurePosixPath, files: Mapping[str, list[tuple[int, str]]], folders: Mapping[str, str]
) -> None:
    for split in ("training", "test"):
        if not files[split]:
            raise DataError(
                f"{name} has no folder for the {split} split: train and test are needed, validation is optional"
            )
    for split, folder in folders.items():
        counts = Counter(label for label, _ in files[split])
        missing = [EMOTIONS[label] for label in range(len(EMOTIONS)) if not counts[label]]
        if missing:
            raise DataError(
                f"{name}: {root / folder} has no pictures of {', '.join(missing)}: all seven expressions are needed"
            )


def folder_tree(folder: Path, names: Iterable[str], left_out: LeftOut) -> Tree | None:
    """The tree in a folder, from the names and the `left_out` of `files_in`; None if there is none."""

    def read(name: str) -> bytes:
        return read_file(folder / name, maximum_bytes=LARGEST_PICTURE, what="picture")

    return find_tree(shown(folder.resolve().name or folder), names, read, left_out)


def zip_tree(archive: zipfile.ZipFile, name: str) -> Tree | None:
    """The tree in an open .zip; None if there is none. DataError if it unpacks to too much."""
    left_out = LeftOut()
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        hidden = next((part for part in PurePosixPath(member.filename).parts if is_hidden(part)), None)
        if member.is_dir():
            continue
        if hidden is not None:
            left_out.add_hidden(hidden)
        elif stat.S_ISLNK(member.external_attr >> 16):
            left_out.counts["link"] += 1
        else:
            members[member.filename] = member

    def read(member: str) -> bytes:
        with archive.open(members[member]) as file:
            content = file.read(LARGEST_PICTURE + 1)
        if len(content) > LARGEST_PICTURE:
            raise DataError(
                f"{name}: {shown(member)} has over {LARGEST_PICTURE >> 20} MiB: it is not a picture of a face"
            )
        return content

    tree = find_tree(name, members, read, left_out)
    if tree is not None:
        pictures = [members[file] for files in tree.files.values() for _, file in files]
        refuse_bomb(sum(each.file_size for each in pictures), sum(each.compress_size for each in pictures), name)
    return tree


def tree_key(tree: Tree) -> str:
    """A hash of every picture's name and bytes: equal for the same tree."""
    whole = hashlib.sha256()
    for split in SPLITS:
        for label, name in tree.files[split]:
            whole.update(f"{split} {label} {name}\n".encode("utf-8", "surrogateescape"))
            whole.update(hashlib.sha256(tree.read(name)).digest())
    return whole.hexdigest()


def read_tree(tree: Tree) -> SourceFaces:
    """The faces of a tree. `Faces.rows` number its pictures from 0 across all splits, in the order of `Tree.files`.

    If there is no validation folder and every test picture is called PublicTest… or PrivateTest…, as in a common copy
    of FER2013, the names of the files tell the two splits apart.

    Raises:
        DataError: a file is not a picture, or is damaged.
    """
    splits: dict[str, Faces] = {}
    notes = list(tree.notes)
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
        notes.append(resized_note(resized))
    in_test = [split_of(PurePosixPath(name).name.partition("_")[0]) for _, name in tree.files["test"]]
    is_public = np.array([split == "validation" for split in in_test])
    if not len(splits["validation"]) and None not in in_test and is_public.any() and not is_public.all():
        splits["validation"], splits["test"] = splits["test"].take(is_public), splits["test"].take(~is_public)
        notes.append("the test folder was split into PublicTest and PrivateTest by the names of its files")
    return SourceFaces(splits, tuple(notes))


def resized_note(count: int) -> str:
    """The note about pictures that were not 48x48."""
    return f"{count:,} pictures of another size were resized to {SIZE}x{SIZE}"


def face_from_picture(content: bytes, name: str) -> tuple[NDArray[np.uint8], bool]:
    """A picture as a grey face, uint8 (48, 48), and whether it was resized. DataError, with `name`, if damaged."""
    grey = to_grey(read_picture(content, name=name, maximum_pixels=MOST_PIXELS).pixels)
    if grey.shape == (SIZE, SIZE):
        return grey, False
    from PIL import Image

    return np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)), True


def _root(path: PurePosixPath) -> PurePosixPath | None:
    """The folder that holds the split folder of a picture. The last split/expression pair in its path counts."""
    parts = path.parts
    for place in range(len(parts) - 3, -1, -1):
        if split_of(parts[place]) is not None and emotion_index(parts[place + 1]) is not None:
            return PurePosixPath(*parts[:place])
    return None
