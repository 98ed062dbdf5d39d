"""Tables in folders and archives: files that name pictures, or hold pixels, one table or one for each split."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from fer_deploy.errors import DataError
from fer_deploy.faces.columns import find_columns, plain_name
from fer_deploy.faces.containers import OTHER_FILES, several_data_sets
from fer_deploy.faces.csv_table import FaceTable, first_row_of, read_table
from fer_deploy.faces.file_sets import FileSet
from fer_deploy.faces.levels import split_in
from fer_deploy.faces.listing import Listing
from fer_deploy.files import shown
from fer_deploy.folders import LeftOut
from fer_deploy.labels import NUMBERINGS

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".txt", ".lst", ".list")
"""How tables of faces or of pictures' names may end."""

_LISTS = (".txt", ".lst", ".list")

MOST_TABLES = 64
"""In a folder with more files of these endings, .txt files are notes to single pictures, and no tables."""


@dataclass(frozen=True)
class NamedTable:
    """A table in a file set.

    Attributes:
        file: its name.
        split: the split that its name or its folder states, or None.
        has_pixels: whether it holds pixels; otherwise it names pictures.
    """

    file: str
    split: str | None
    has_pixels: bool


def tables_in(files: FileSet, reasons: list[str]) -> list[NamedTable]:
    """The tables with labels among the files that form one data set: one table, or one for each split.

    Args:
        files: a folder or archive.
        reasons: gets one line for each table that is none of faces, and why.

    Raises:
        DataError: there are several, and their names do not tell which to read.
    """
    found = list(_candidates(files, reasons))
    with_split = [table for table in found if table.split is not None]
    several = [split for split, count in Counter(table.split for table in with_split).items() if count > 1]
    if len(found) <= 1 or (len(with_split) > 1 and not several):
        return with_split if len(with_split) > 1 else found
    raise several_data_sets(files.name, [table.file for table in found])


def _candidates(files: FileSet, reasons: list[str]) -> Iterator[NamedTable]:
    names = [name for name in files.names if name.lower().endswith(ENDINGS)]
    if len(names) > MOST_TABLES:
        names = [name for name in names if not name.lower().endswith(_LISTS)][:MOST_TABLES]
    for name in names:
        if PurePosixPath(name).name.lower() in OTHER_FILES:
            continue
        try:
            with files.open_table(name) as (stream, label):
                header, row = first_row_of(stream, label)
            columns = find_columns(header, label, row)
        except DataError as error:
            if not name.lower().endswith(_LISTS):  # most texts are notes, and no tables
                reasons.append(str(error).removeprefix(f"{files.name}: "))
            continue
        stem = PurePosixPath(name).name.split(".")[0]
        parents = [split for part in reversed(PurePosixPath(name).parts[:-1]) if (split := split_in(part))]
        yield NamedTable(name, split_in(stem) or next(iter(parents), None), bool(columns.pixels))


def read_tables(files: FileSet, tables: Sequence[NamedTable]) -> Listing:
    """The listing of tables, all of pixels or all of files.

    Raises:
        DataError: a table is damaged, their pictures have several sizes, or their files are not there.
    """
    read = [(table, read_table(partial(files.open_table, table.file))) for table in tables]
    if all(table.has_pixels for table in tables):
        return replace(_joined([(each, table.split) for table, each in read], files.name),
                       left_out=files.without(table.file for table in tables))  # fmt: skip
    if with_pixels := [shown(table.file) for table in tables if table.has_pixels]:
        others = [shown(table.file) for table in tables if not table.has_pixels]
        raise DataError(
            f"{files.name}: {', '.join(with_pixels[:3])} holds pixels, and {', '.join(others[:3])} names files: "
            "expected tables of one kind: name the one to read"
        )
    return list_paths(files, [(each, table) for table, each in read])


def _joined(tables: Sequence[tuple[FaceTable, str | None]], name: str) -> Listing:
    """One listing of several tables of pixels."""
    parts = [table.listing() for table, _ in tables]
    if len(parts) == 1:
        table, split = tables[0]
        stated = [each or split for each in table.splits]
        return replace(parts[0], splits=stated)
    sizes = {part.pictures.pixels.shape[1:] for part in parts if part.pictures.pixels is not None}
    if len(sizes) > 1:
        raise DataError(f"{name}: its tables have pictures of several sizes: {sorted(sizes)}")
    pixels = np.concatenate([part.pictures.pixels for part in parts if part.pictures.pixels is not None])
    splits = [split or own for (table, own) in tables for split in table.splits]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    notes.append("the splits are the tables' names: " + ", ".join(f"{table.name} {own}" for table, own in tables))
    labels = [label for part in parts for label in part.labels]
    places = [f"{table.name}, row {row}" for table, _ in tables for row in range(len(table.labels))]
    people = [person for table, _ in tables for person in table.people or [""] * len(table.labels)]
    return replace(
        parts[0],
        name=name,
        labels=labels,
        splits=splits,
        places=places,
        rows=np.arange(len(labels)),
        pictures=type(parts[0].pictures).decoded(pixels),
        people=people if any(people) else None,
        columns={},
        fer2013_numbers=all(part.fer2013_numbers for part in parts),
        notes=tuple(notes),
    )


def list_paths(files: FileSet, tables: Sequence[tuple[FaceTable, NamedTable]]) -> Listing:
    """The listing of tables that name pictures of a file set.

    Raises:
        DataError: less than half of the pictures are there.
    """
    left_out = LeftOut(Counter(files.left_out.counts))
    names: list[str] = []
    labels: list[str] = []
    splits: list[str | None] = []
    people: list[str] = []
    notes: list[str] = []
    columns = dict.fromkeys(column for table, _ in tables for column in table.others)
    others: dict[str, list[str]] = {column: [] for column in columns}
    missing: list[str] = []
    find = Finder(files)
    for table, named in tables:
        base = posixpath.dirname(named.file)
        words, note = _affectnet_words(table)
        notes += [*table.notes, *([note] if note else [])]
        for row, (path, label, split) in enumerate(zip(table.paths, words, table.splits, strict=True)):
            split = split or named.split
            if label is None:
                left_out.counts["of AffectNet's classes 8, 9 and 10, which are no expressions"] += 1
                continue
            name = find(path, base, split)
            if name is None:
                missing.append(path)
                continue
            names.append(name)
            labels.append(label)
            splits.append(split or split_of_folders(name))
            people.append(table.people[row] if table.people else "")
            for column in columns:
                others[column].append(table.others[column][row] if column in table.others else "")
    _refuse_missing(files.name, missing, len(names), tables[0][0])
    if missing:
        left_out.counts["rows whose picture is not there"] = len(missing)
    if rest := len(set(files.pictures) - set(names)):
        left_out.counts["pictures that no table names"] = rest
    used = {*files.pictures, *(named.file for _, named in tables)}
    for name in files.names:
        if name not in used:
            left_out.add_file(PurePosixPath(name).name)
    return files.listing(
        names,
        labels,
        splits,
        notes=dict.fromkeys(notes),
        left_out=left_out,
        people=people if any(people) else None,
        columns=others,
    )


def _refuse_missing(name: str, missing: Sequence[str], there: int, table: FaceTable) -> None:
    if not there and not missing:
        raise DataError(f"{name}: no row of its table has an expression")
    if len(missing) > there:
        listed = ", ".join(shown(path)[:80] for path in missing[:3])
        raise DataError(
            f"{table.name}: {len(missing):,} of {len(missing) + there:,} pictures that it names are not there (such as "
            f"{listed}): expected them in the folder of the table, under these names: put the table and the pictures "
            "into one folder"
        )


def split_of_folders(name: str) -> str | None:
    """The split that the folders of a file state, the deepest first; None if none does."""
    return next((split for part in reversed(PurePosixPath(name).parts[:-1]) if (split := split_in(part))), None)


def _affectnet_words(table: FaceTable) -> tuple[Sequence[str | None], str]:
    """The labels; as words if the table is AffectNet's own, whose numbers are known. None: no expression."""
    names = {plain_name(column) for column in table.columns.names}
    if not {"subdirectoryfilepath", "expression"} <= names:
        return table.labels, ""
    numbering = {str(number): word for number, word in NUMBERINGS["affectnet"].names.items()}
    words = [numbering.get(label.strip().removesuffix(".0"), label) for label in table.labels]
    return words, "the columns are AffectNet's: its numbers were read as its expressions (0 neutral, 1 happy, ...)"


class Finder:
    """Finds the pictures that a table names, wherever they lie in a file set."""

    def __init__(self, files: FileSet) -> None:
        """Index the pictures by their names and by their stems."""
        self._names = set(files.pictures)
        self._folded = {name.casefold(): name for name in files.pictures}
        self._by_name: dict[str, list[str]] = {}
        for name in files.pictures:
            path = PurePosixPath(name)
            self._by_name.setdefault(path.name.casefold(), []).append(name)
            self._by_name.setdefault(path.stem.casefold(), []).append(name)

    def __call__(self, written: str, base: str, split: str | None) -> str | None:
        """The picture for a path as a table has it; None if there is none, or if several fit equally well.

        Args:
            written: absolute or relative, with / or \\, perhaps without an ending.
            base: the folder of the table.
            split: the split of the row, which tells apart pictures of the same name.
        """
        parts = [part for part in re.split(r"[/\\]+", written.strip()) if part not in ("", ".")]
        if not parts:
            return None
        plain = posixpath.normpath(posixpath.join(base, *parts))
        for name in (plain, posixpath.normpath("/".join(parts))):
            if name in self._names:
                return name
            if (folded := self._folded.get(name.casefold())) is not None:
                return folded
        found = self._by_name.get(parts[-1].casefold(), [])
        for tail in range(len(parts) - 1, 0, -1):  # the more folders agree, the better
            if len(found) < 2:
                break
            end = "/".join(parts[-tail - 1 :]).casefold()
            fit = [
                name
                for name in found
                if f"/{name}".casefold().endswith((f"/{end}", f"/{end}{PurePosixPath(name).suffix}".casefold()))
            ]
            found = fit or found
        if len(found) > 1:
            found = [name for name in found if posixpath.dirname(name).startswith(base)] or found
        if len(found) > 1 and split is not None:
            found = [name for name in found if split_of_folders(name) == split] or found
        return found[0] if len(found) == 1 else None
