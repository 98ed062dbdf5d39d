"""Find a data set and read it, whatever its layout: the one entry point to all readers.

The layout is detected from the content: a table, an archive that holds a table or a tree of pictures, Parquet files, or
a folder that holds any of these.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError, NoDataError
from fer_deploy.faces.cache import cached
from fer_deploy.faces.containers import choose_known, choose_only, kind_of, open_table
from fer_deploy.faces.csv_table import read_table
from fer_deploy.faces.dataset import SPLITS, Dataset
from fer_deploy.faces.ferplus import add_votes, votes_beside
from fer_deploy.faces.hub_parquet import read_parquet, sibling_files, split_of_file
from fer_deploy.faces.official import is_called_fer2013, is_merged_copy, is_official, refuse_damaged
from fer_deploy.faces.source import SourceFaces, source_errors
from fer_deploy.faces.splits import hold_out
from fer_deploy.faces.synthetic import DEFAULT_TRAINING, synthetic_dataset
from fer_deploy.faces.tree import Tree, files_in, folder_tree, read_tree, tree_key, zip_tree
from fer_deploy.files import LeftOut, open_regular, sha256_of, shown
from fer_deploy.pictures import PICTURE_SUFFIXES

VARIABLE = "FERDEPLOY_DATA"
"""The environment variable that names the default data set."""

HELP = (
    "get fer2013.csv from Kaggle (Challenges in Representation Learning: Facial Expression Recognition Challenge) and "
    "name it with --data, or use --data synthetic, which needs nothing"
)

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True, eq=False)
class _FoundData:
    """A data set that was found but not read.

    Attributes:
        name: the file or folder.
        key: a hash of the content. It is a function because it reads everything.
        read: reads the faces.
        table: the file that is or holds the table, for FER+ votes beside it; None for pictures and Parquet.
        notes: what the search left out, one sentence each.
    """

    name: str
    key: Callable[[], str]
    read: Callable[[], SourceFaces]
    table: Path | None = None
    notes: tuple[str, ...] = ()


def load_dataset(source: str | Path | None, *, workspace: Path = Path(), votes: str | Path | None = None) -> Dataset:
    """Read a data set.

    Args:
        source: a file or folder; or the text 'synthetic' or 'synthetic:N' for drawn faces, N of them for training (a
            folder of that name is ./synthetic). None takes $FERDEPLOY_DATA, then data/ in the workspace.
        workspace: the folder that may hold data/.
        votes: FER+'s fer2013new.csv; None takes the one beside the table, if there is one.

    Returns:
        The data set. It is called FER2013 only if it is the official one. Without a validation split, one training face
        in eight of each class is held out for it, and a note says so.

    Raises:
        DataError: there is no data, or it is damaged or incomplete. One line that names file and row.
        UnavailableError: the source is Parquet and polars is not installed.
    """
    if source is None:
        source = os.environ.get(VARIABLE) or workspace / "data"
        if not _is_synthetic(source) and not Path(source).exists():
            named = f"${VARIABLE} names {shown(source)}, which does not exist"
            where = named if os.environ.get(VARIABLE) else f"no --data, ${VARIABLE} or data/"
            raise DataError(f"no data set: {where}: {HELP}")
    if _is_synthetic(source):
        return synthetic_dataset(_synthetic_count(str(source)))
    if not str(source).strip():
        raise DataError(f"the name of the data set is empty: {HELP}")
    path = _at_home(source)
    with source_errors(shown(path)):
        found = _find(path)
        content = _read_cached(found, None if votes is None else _at_home(votes))
    return _judged(found, content)


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


def _find(path: Path) -> _FoundData:
    """The data set at a path, detected from its content."""
    if not path.exists():
        raise DataError(f"no data set at {shown(path)}: there is no such file or folder: {HELP}")
    if path.is_dir():
        return _find_in_folder(path)
    if not path.is_file():
        raise DataError(f"{shown(path)} is neither a file nor a folder: {HELP}")
    name = shown(path.name)
    with open_regular(path, what="data set") as file:
        kind = kind_of(file.read(512))
    if kind == "empty":
        raise DataError(f"{name} is empty (0 bytes): get it again")
    if kind == "parquet":
        return _parquet_source(sibling_files(path), name)
    if kind == "zip" and not _holds_table(path):
        return _zipped_pictures(path, name)

    def read() -> SourceFaces:
        with open_table(path) as (stream, label):
            return read_table(stream, label)

    return _FoundData(name, lambda: f"table {sha256_of(path)}", read, path)


def _find_in_folder(folder: Path) -> _FoundData:
    """Tried in this order: a table with a known name, pictures in folders, Parquet files, the only table or archive."""
    left_out = LeftOut()
    names = files_in(folder, left_out)
    name = shown(folder.resolve().name or folder)
    known = choose_known(file for file in names if file.count("/") <= 2)
    if known is not None:
        return _find(folder / known)
    tree = folder_tree(folder, names, left_out)
    if tree is not None:
        return _tree_source(tree)
    parquet = [folder / file for file in sorted(names) if file.lower().endswith(".parquet")]
    if parquet:
        named = [file for file in parquet if split_of_file(file) is not None] or parquet
        if len(named) < len(parquet):
            left_out.counts["*.parquet without a split in the name"] += len(parquet) - len(named)
        for file in names:
            if not file.lower().endswith(".parquet"):
                left_out.add_file(PurePosixPath(file).name)
        return replace(_parquet_source(named, name), notes=(str(left_out),) if left_out.counts else ())
    only = choose_only(names, (".csv", ".csv.gz"), name) or choose_only(names, _ARCHIVES, name)
    if only is None:
        raise NoDataError(
            f"{shown(folder)} holds no data set: neither fer2013.csv nor an archive of it, no train and test folders "
            f"with a folder for each expression, no Parquet file: {HELP}"
        )
    return _find(folder / only)


def _holds_table(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        return choose_known(members) is not None or not any(_is_picture(member) for member in members)


def _is_picture(member: str) -> bool:
    return PurePosixPath(member).suffix.lower() in PICTURE_SUFFIXES


def _tree_source(tree: Tree) -> _FoundData:
    # The notes are not cached: files that were left out are not part of the key.
    read = replace(tree, notes=())
    return _FoundData(tree.name, lambda: f"tree {tree_key(tree)}", lambda: read_tree(read), notes=tree.notes)


def _zipped_pictures(path: Path, name: str) -> _FoundData:
    def read() -> SourceFaces:
        with zipfile.ZipFile(path) as archive:
            tree = zip_tree(archive, name)
            if tree is None:
                raise DataError(f"{name} holds neither a table of faces nor train and test folders: {HELP}")
            return read_tree(tree)

    return _FoundData(name, lambda: f"zipped tree {sha256_of(path)}", read)


def _parquet_source(files: list[Path], name: str) -> _FoundData:
    def key() -> str:
        return "parquet " + " ".join(f"{split_of_file(file)} {sha256_of(file)}" for file in files)

    return _FoundData(name, key, lambda: read_parquet(files, name))


def _read_cached(found: _FoundData, named_votes: Path | None) -> SourceFaces:
    """The faces of a source with their FER+ votes, from the cache or from the source."""
    votes = named_votes
    if found.table is None and votes is not None:
        raise DataError(f"{shown(votes)}: FER+ votes belong to the rows of FER2013's table, not to {found.name}")
    if found.table is not None and votes is None:
        votes = votes_beside(found.table)
    key = found.key()

    def read() -> SourceFaces:
        content = found.read()
        if found.key() != key:  # the cache must match the source
            raise DataError(f"{found.name} changed while it was read: start again when no program writes to it")
        refuse_damaged(content.splits, found.name)  # before anything is kept
        if votes is not None and (named_votes is not None or is_official(content.splits)):
            with source_errors(shown(votes)):
                return replace(content, splits=add_votes(content.splits, votes))
        return content

    if votes is None:
        return cached(key, read)
    with source_errors(shown(votes)):
        votes_key = sha256_of(votes)
    return cached(f"{key}, votes {votes_key} {named_votes is not None}", read)


def _judged(found: _FoundData, content: SourceFaces) -> Dataset:
    """The data set from its faces: refuses a damaged FER2013, and holds out a validation split if there is none."""
    name, splits, notes = found.name, dict(content.splits), [*found.notes, *content.notes]
    refuse_damaged(splits, name)
    official = is_official(splits)
    if not len(splits["validation"]) and len(splits["training"]) and len(splits["test"]) and found.table is None:
        if is_merged_copy(splits):
            notes.append(
                "PublicTest and PrivateTest are one split here: its figures cannot be compared with published ones"
            )
        splits["training"], splits["validation"] = hold_out(splits["training"], splits["test"])
        notes.append(
            f"there is no validation split: {len(splits['validation']):,} training faces, one in eight of each "
            "expression, were held out for it"
        )
    for split in SPLITS:
        absent = [EMOTIONS[label] for label, count in enumerate(splits[split].counts) if not count]
        if absent and len(splits[split]):
            notes.append(f"the {split} split has no face of {', '.join(absent)}")
    if not official and is_called_fer2013(name):
        name = f"{name} (not the official FER2013)"
    return Dataset.of(
        "FER2013" if official else name,
        splits["training"],
        validation=splits["validation"],
        test=splits["test"],
        official=official,
        notes=tuple(notes),
    )
