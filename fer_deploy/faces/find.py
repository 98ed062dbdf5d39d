"""Find the data set at a path: its layout is detected from its content, not from its name.

It is a table, pictures in folders, a published layout, Parquet files, an archive of these, or a folder that holds them.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fer_deploy.errors import DataError, NoDataError
from fer_deploy.faces.columns import find_columns
from fer_deploy.faces.containers import choose_known, choose_only, kind_of, open_table
from fer_deploy.faces.csv_table import FaceTable, first_row_of, read_table
from fer_deploy.faces.file_sets import FileSet, folder_files, is_picture, is_tar, joined_files, tar_files, zip_files
from fer_deploy.faces.hub_parquet import configurations, list_parquet, sibling_files, split_of_file
from fer_deploy.faces.levels import split_in, understand_folders
from fer_deploy.faces.listing import Found, Listing
from fer_deploy.faces.path_tables import NamedTable, list_paths, read_tables, tables_in
from fer_deploy.faces.published import published_listing
from fer_deploy.faces.tree import tree_listing
from fer_deploy.files import open_regular, sha256_of, shown
from fer_deploy.folders import LeftOut

HELP = (
    "name a folder that has a folder of pictures for each label, or a table such as Kaggle's fer2013.csv, or take "
    "'synthetic', which draws faces: docs/data.md shows every layout that is read"
)

EXPECTED = (
    "expected a folder for each class, in train, validation and test or without them; a table with the columns label "
    "and pixels, or label and path; or Parquet files: docs/data.md shows every layout that is read"
)

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")


def find(path: Path) -> Found:
    """The data set at a path, detected from its content.

    Raises:
        DataError: nothing is there, or no data set. The message states what is there, what was expected and what to do.
    """
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
        return _parquet(sibling_files(path), name)
    if kind == "zip" and not _holds_table(path):
        return _in_archive(path, zip_files(path))
    if kind != "zip" and is_tar(path):
        files = tar_files(path)
        if choose_known(files.names) is None and (files.pictures or not _only_table(files)):
            return _in_archive(path, files)

    def read() -> Listing:
        table = read_table(lambda: open_table(path))
        return table.listing() if table.columns.pixels else _beside(path, table)

    with open_table(path) as (stream, label):
        header, row = first_row_of(stream, label)
    if not find_columns(header, label, row).pixels:
        return Found(name, read)
    return Found(name, read, lambda: f"table {sha256_of(path)}", path)


def _beside(path: Path, table: FaceTable) -> Listing:
    """The listing of a table that names pictures in its own folder."""
    files = folder_files(path.parent)
    listing = list_paths(files, [(table, NamedTable(path.name, split_in(path.stem), has_pixels=False))])
    return replace(listing, name=shown(path.name))


def _only_table(files: FileSet) -> bool:
    return choose_only(files.names, (".csv",), files.name) is not None


def _find_in_folder(folder: Path) -> Found:
    """Tried in this order: FER2013's table by its name, then `_find_in`, Parquet files, and the only archive."""
    files = folder_files(folder)
    known = choose_known(file for file in files.names if file.count("/") <= 2)
    if known is not None:
        return find(folder / known)
    reasons: list[str] = []
    if (read := _find_in(files, reasons)) is not None:
        return Found(files.name, read)
    if any(file.lower().endswith(".parquet") for file in files.names):
        return _parquet_folder(folder, files)
    archives = [file for file in files.names if file.lower().endswith(_ARCHIVES)]
    splits = [split_in(PurePosixPath(file).name.split(".")[0]) for file in archives]
    if len(archives) > 1 and None not in splits and len(set(splits)) == len(splits):
        parts = {PurePosixPath(file).name.split(".")[0]: _open_archive(folder / file) for file in archives}
        joined = joined_files(files.name, parts)
        if (read := _find_in(joined, reasons)) is not None:
            return Found(files.name, read)
    only = choose_only(files.names, _ARCHIVES, files.name)
    if only is None:
        raise NoDataError(
            f"{shown(folder)} holds no data set: {_seen(files, reasons)}: {EXPECTED}; 'synthetic' draws faces"
        )
    return find(folder / only)


def _open_archive(path: Path) -> FileSet:
    return zip_files(path) if zipfile.is_zipfile(path) else tar_files(path)


def _find_in(files: FileSet, reasons: list[str]) -> Callable[[], Listing] | None:
    """How to list the data set in a folder or archive; None if it holds none, with reasons why tables are none.

    Folders of expressions come first. Tables come before other folders, whose names may be numbers of pictures.
    """
    levels = understand_folders(files.pictures, files.name, only_expressions=True) if files.pictures else None
    if levels is None:
        published = published_listing(files)
        if published is not None:
            return lambda: published
        tables = tables_in(files, reasons)
        if tables:
            return lambda: read_tables(files, tables)
        levels = understand_folders(files.pictures, files.name) if files.pictures else None
    return None if levels is None else lambda: tree_listing(files, levels)


def _in_archive(path: Path, files: FileSet) -> Found:
    reasons: list[str] = []
    read = _find_in(files, reasons)
    if read is None:
        raise DataError(
            f"{files.name} holds no data set: {_seen(files, reasons)}: {EXPECTED}: unpack it if it holds archives or "
            "Parquet files"
        )
    return Found(files.name, read, lambda: f"archive {sha256_of(path)}")


def _seen(files: FileSet, reasons: Sequence[str]) -> str:
    """What a folder or archive holds, in words."""
    if not files.names:
        return "it is empty" + (f" ({files.left_out})" if files.left_out.counts else "")
    endings = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in files.names)
    kinds = ", ".join(f"{count:,} {shown(ending)}" for ending, count in endings.most_common(4))
    folders = sorted({str(PurePosixPath(name).parent) for name in files.names if "/" in name})
    where = f" in folders such as {', '.join(map(shown, folders[:3]))}" if folders else " and no folders"
    tables = "".join(f"; {reason}" for reason in reasons[:2])
    return f"found {len(files.names):,} files ({kinds}){where}{tables}"


def _holds_table(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if choose_known(members) is not None:
            return True
        tables = [name for name in members if name.lower().endswith((".csv", ".csv.gz"))]
        return len(tables) == 1 and not any(is_picture(member) for member in members)


def _parquet_folder(folder: Path, files: FileSet) -> Found:
    parquet = [folder / file for file in files.names if file.lower().endswith(".parquet")]
    named = [file for file in parquet if split_of_file(file) is not None] or parquet
    several = configurations(named)
    if len(several) > 1:
        raise DataError(
            f"{files.name} holds several configurations of a data set ({', '.join(map(shown, sorted(several)[:4]))}): "
            "name the folder of one"
        )
    left_out = LeftOut(Counter(files.left_out.counts))
    if len(named) < len(parquet):
        left_out.counts["*.parquet without a split in the name"] += len(parquet) - len(named)
    for file in files.names:
        if not file.lower().endswith(".parquet"):
            left_out.add_file(PurePosixPath(file).name)
    return replace(_parquet(named, files.name), notes=(str(left_out),) if left_out.counts else ())


def _parquet(files: list[Path], name: str) -> Found:
    def key() -> str:
        return "parquet " + " ".join(f"{split_of_file(file)} {sha256_of(file)}" for file in files)

    return Found(name, lambda: list_parquet(files, name), key)
