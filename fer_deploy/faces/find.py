"""Find the data set at a path: its layout is detected from its content, not from its name.

It is a table, an archive that holds a table or a tree of pictures, Parquet files, or a folder that holds any of these.
"""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fer_deploy.errors import DataError, NoDataError
from fer_deploy.faces.containers import choose_known, choose_only, kind_of, open_table
from fer_deploy.faces.csv_table import read_table
from fer_deploy.faces.hub_parquet import read_parquet, sibling_files, split_of_file
from fer_deploy.faces.listing import Found
from fer_deploy.faces.source import SourceFaces, listing_of
from fer_deploy.faces.tree import Tree, files_in, folder_tree, read_tree, tree_key, zip_tree
from fer_deploy.files import open_regular, sha256_of, shown
from fer_deploy.folders import LeftOut
from fer_deploy.pictures import PICTURE_SUFFIXES

HELP = (
    "get fer2013.csv from Kaggle (Challenges in Representation Learning: Facial Expression Recognition Challenge) and "
    "name it with --data, or use --data synthetic, which needs nothing"
)

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")


def find(path: Path) -> Found:
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

    return Found(name, lambda: listing_of(read(), name), lambda: f"table {sha256_of(path)}", path)


def _find_in_folder(folder: Path) -> Found:
    """Tried in this order: a table with a known name, pictures in folders, Parquet files, the only table or archive."""
    left_out = LeftOut()
    names = files_in(folder, left_out)
    name = shown(folder.resolve().name or folder)
    known = choose_known(file for file in names if file.count("/") <= 2)
    if known is not None:
        return find(folder / known)
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
    return find(folder / only)


def _holds_table(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        return choose_known(members) is not None or not any(_is_picture(member) for member in members)


def _is_picture(member: str) -> bool:
    return PurePosixPath(member).suffix.lower() in PICTURE_SUFFIXES


def _tree_source(tree: Tree) -> Found:
    # The notes are not cached: files that were left out are not part of the key.
    read = replace(tree, notes=())
    return Found(
        tree.name, lambda: listing_of(read_tree(read), tree.name), lambda: f"tree {tree_key(tree)}", notes=tree.notes
    )


def _zipped_pictures(path: Path, name: str) -> Found:
    def read() -> SourceFaces:
        with zipfile.ZipFile(path) as archive:
            tree = zip_tree(archive, name)
            if tree is None:
                raise DataError(f"{name} holds neither a table of faces nor train and test folders: {HELP}")
            return read_tree(tree)

    return Found(name, lambda: listing_of(read(), name), lambda: f"zipped tree {sha256_of(path)}")


def _parquet_source(files: list[Path], name: str) -> Found:
    def key() -> str:
        return "parquet " + " ".join(f"{split_of_file(file)} {sha256_of(file)}" for file in files)

    return Found(name, lambda: listing_of(read_parquet(files, name), name), key)
