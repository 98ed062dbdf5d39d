"""Layouts of published data sets whose labels lie neither in folders nor in one table.

- FER+: FER2013Train/label.csv with ten votes for each picture (github.com/microsoft/FERPlus).
- RAF-DB: EmoLabel/list_patition_label.txt and Image/aligned (www.whdeng.cn/RAF/model1.html).
- AffectNet: train_set/images/1.jpg and train_set/annotations/1_exp.npy (mohammadmahoor.com/affectnet).
- CK+: Emotion/S005/001/S005_001_00000011_emotion.txt and cohn-kanade-images/S005/001 (Lucey and others, 2010).
- KDEF: AF01ANS.JPG (kdef.se), and JAFFE: KA.AN1.39.tiff (zenodo.org/record/3451524), by the names of their files.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import VOTE_NAMES
from fer_deploy.faces.file_sets import LARGEST_TABLE, FileSet
from fer_deploy.faces.levels import split_in
from fer_deploy.faces.listing import Listing
from fer_deploy.faces.path_tables import Finder, split_of_folders
from fer_deploy.files import decode_text, shown
from fer_deploy.folders import LeftOut
from fer_deploy.labels import NUMBERINGS, expression_in

MOST_LABELS = 1 << 20
"""Bytes that a file with one picture's label may have."""


def published_listing(files: FileSet) -> Listing | None:
    """The listing of a published layout; None if the files have none of them."""
    for read in (_ferplus, _raf_db, _affectnet, _ck_plus, _codes):
        if (listing := read(files)) is not None:
            return listing
    return None


def _ferplus(files: FileSet) -> Listing | None:
    tables = [name for name in files.names if PurePosixPath(name).name.lower() == "label.csv"]
    rows = [(table, row) for table in tables for row in _ferplus_rows(files, table)]
    if not rows:
        return None
    words = {name: expression_in(name) for name in VOTE_NAMES}
    left_out = LeftOut(Counter(files.left_out.counts))
    find = Finder(files)
    names: list[str] = []
    labels: list[str] = []
    splits: list[str | None] = []
    for table, (file, votes) in rows:
        folder = str(PurePosixPath(table).parent)
        split = split_in(PurePosixPath(table).parent.name)
        word = _majority(votes)
        name = find(file, "" if folder == "." else folder, split)
        if word is None or words[word] is None:
            left_out.counts["without a majority of votes for an expression"] += 1
        elif name is None:
            left_out.counts["rows whose picture is not there"] += 1
        else:
            names.append(name)
            labels.append(words[word] or "")
            splits.append(split)
    if not names:
        raise DataError(
            f"{files.name}: FER+'s label.csv names {len(rows):,} pictures, and none of them is there: expected them "
            "beside it, as FERPlus's generate_training_data.py writes them"
        )
    left_out.counts.update(_rest(files, names, tables))
    note = "label.csv holds FER+'s votes: each label has more than half of them, votes of a single person aside"
    return files.listing(names, labels, splits, notes=[note], left_out=left_out)


def _ferplus_rows(files: FileSet, table: str) -> list[tuple[str, list[int]]]:
    """File and votes of each row; nothing if the table is not FER+'s."""
    text = decode_text(files.read(table, LARGEST_TABLE), source=shown(table))
    rows: list[tuple[str, list[int]]] = []
    for row, fields in enumerate(csv.reader(io.StringIO(text))):
        votes = fields[2:]
        if len(votes) != len(VOTE_NAMES) or not all(re.fullmatch(r"[0-9]{1,3}", vote.strip()) for vote in votes):
            if not row or not fields:
                continue  # a line of names, or an empty one
            if not rows:
                return []
            raise DataError(f"{files.name}: {shown(table)}, line {row + 1} is not a row of FER+'s votes: {fields[:4]}")
        rows.append((fields[0], [int(vote) for vote in votes]))
    return rows


def _majority(votes: Sequence[int]) -> str | None:
    """FER+'s rule of the majority (FERPlusReader in src/ferplus.py): votes of one person are dropped first."""
    kept = [vote if vote > 1 else 0 for vote in votes]
    most = max(kept)
    return VOTE_NAMES[kept.index(most)] if 2 * most > sum(kept) else None


def _raf_db(files: FileSet) -> Listing | None:
    lists = [name for name in files.names if re.fullmatch(r"list_par?tition_label\.txt", PurePosixPath(name).name)]
    if not lists:
        return None
    text = decode_text(files.read(lists[0], LARGEST_TABLE), source=shown(lists[0]))
    words = {str(number): word for number, word in NUMBERINGS["raf-db"].names.items()}
    left_out = LeftOut(Counter(files.left_out.counts))
    find = Finder(files)
    names: list[str] = []
    labels: list[str] = []
    splits: list[str | None] = []
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, fields in lines:
        split = split_in(fields[0].split("_")[0])
        if len(fields) != 2 or words.get(fields[1]) is None or split is None:
            raise DataError(
                f"{files.name}: {shown(lists[0])}, line {number} is {' '.join(fields)[:60]!r}: expected a file and a "
                "number from 1 to 7, such as train_00001.jpg 5"
            )
        path = PurePosixPath(fields[0])
        name = find(f"{path.stem}_aligned{path.suffix}", "", split) or find(fields[0], "", split)
        if name is None:
            left_out.counts["rows whose picture is not there"] += 1
            continue
        names.append(name)
        labels.append(words[fields[1]] or "")
        splits.append(split)
    if not names:
        raise DataError(
            f"{files.name}: RAF-DB's list names {len(lines):,} pictures, and none of them is there: expected "
            "Image/aligned or Image/original beside EmoLabel"
        )
    left_out.counts.update(_rest(files, names, lists, unlabelled="that are not listed, or whose aligned copy is read"))
    aligned = sum("_aligned" in name for name in names)
    note = f"RAF-DB's list file was read, with its own numbers: {aligned:,} of {len(names):,} pictures are aligned ones"
    return files.listing(names, labels, splits, notes=[note], left_out=left_out)


def _affectnet(files: FileSet) -> Listing | None:
    marks = [name for name in files.names if name.endswith("_exp.npy")]
    if not marks:
        return None
    pictures: dict[tuple[str, str], str] = {}
    for name in files.pictures:
        path = PurePosixPath(name)
        if path.parent.name == "images":
            pictures[str(path.parent.parent), path.stem] = name
    numbering = NUMBERINGS["affectnet"].names
    left_out = LeftOut(Counter(files.left_out.counts))
    found: list[tuple[str, str]] = []
    for mark in marks:
        path = PurePosixPath(mark)
        number = _npy_number(files, mark)
        if number is None or number not in numbering:
            raise DataError(f"{files.name}: {shown(mark)} holds {number}: expected an expression from 0 to 10")
        picture = pictures.get((str(path.parent.parent), path.name.removesuffix("_exp.npy")))
        word = numbering[number]
        if word is None or picture is None:
            left_out.counts["rows whose picture is not there" if word else "without an expression (8, 9 and 10)"] += 1
        else:
            found.append((picture, word))
    if not found:
        raise DataError(f"{files.name}: AffectNet's annotations have no pictures: expected images beside annotations")
    names = [name for name, _ in found]
    left_out.counts.update(_rest(files, names, [name for name in files.names if name.endswith(".npy")]))
    note = "AffectNet's annotations were read, with its own numbers (0 neutral, 1 happy, ...)"
    return files.listing(
        names, [word for _, word in found], [split_of_folders(name) for name in names], notes=[note], left_out=left_out
    )


def _npy_number(files: FileSet, name: str) -> int | None:
    try:
        return int(np.load(io.BytesIO(files.read(name, MOST_LABELS)), allow_pickle=False).item())
    except (ValueError, EOFError, AttributeError, TypeError):
        return None


def _ck_plus(files: FileSet) -> Listing | None:
    pattern = re.compile(r"S[0-9]{3}_[0-9]{3}_[0-9]{8}_emotion\.txt")
    marks = [name for name in files.names if pattern.fullmatch(PurePosixPath(name).name)]
    if not marks:
        return None
    numbering = NUMBERINGS["ck+"].names
    find = Finder(files)
    left_out = LeftOut(Counter(files.left_out.counts))
    names: list[str] = []
    labels: list[str] = []
    for name in marks:
        text = decode_text(files.read(name, MOST_LABELS), source=shown(name)).strip()
        word = numbering.get(int(float(text))) if re.fullmatch(r"[0-7](\.0*)?(e\+00)?", text) else None
        if word is None:
            raise DataError(f"{files.name}: {shown(name)} holds {text[:20]!r}: expected an emotion from 0 to 7")
        picture = find(PurePosixPath(name).name.removesuffix("_emotion.txt"), "", None)
        if picture is None:
            left_out.counts["labels whose picture is not there"] += 1
            continue
        names.append(picture)
        labels.append(word)
    if not names:
        raise DataError(
            f"{files.name}: CK+'s emotion files have no pictures: expected cohn-kanade-images beside Emotion"
        )
    left_out.counts.update(_rest(files, names, marks))
    note = "CK+'s emotion files were read, with its own numbers: each labels one picture, the last of its sequence"
    return files.listing(names, labels, [None] * len(names), notes=[note], left_out=left_out)


_CODES: Mapping[str, str] = {
    "AF": "fear", "AN": "angry", "DI": "disgust", "FE": "fear", "HA": "happy", "NE": "neutral", "SA": "sad",
    "SU": "surprise",
}  # fmt: skip
"""The two letters of an expression in the names of KDEF (AF for afraid) and JAFFE (FE for fear)."""

_CODED = {
    "KDEF": re.compile(r"[AB][FM][0-9]{2}(?P<what>AF|AN|DI|HA|NE|SA|SU)(?:S|HL|HR|FL|FR)", re.IGNORECASE),
    "JAFFE": re.compile(r"[A-Z]{2}[.\-](?P<what>AN|DI|FE|HA|NE|SA|SU)[0-9]?[.\-][0-9]+", re.IGNORECASE),
}


def _codes(files: FileSet) -> Listing | None:
    """KDEF and JAFFE by the names of their files, if most pictures have such names."""
    for publisher, pattern in _CODED.items():
        matches = {name: match for name in files.pictures if (match := pattern.fullmatch(PurePosixPath(name).stem))}
        if len(matches) * 2 <= len(files.pictures):
            continue
        names = list(matches)
        left_out = LeftOut(Counter(files.left_out.counts) + _rest(files, names, []))
        return files.listing(
            names,
            [_CODES[match["what"].upper()] for match in matches.values()],
            [split_of_folders(name) for name in names],
            notes=[f"the names of the files are {publisher}'s: they state the expression"],
            left_out=left_out,
        )
    return None


def _rest(
    files: FileSet, names: Sequence[str], tables: Sequence[str], *, unlabelled: str = "without a label"
) -> Counter[str]:
    """The files that a layout does not use, counted by reason."""
    rest = LeftOut()
    used = {*files.pictures, *tables}
    for name in files.names:
        if name not in used:
            rest.add_file(PurePosixPath(name).name)
    if count := len(set(files.pictures) - set(names)):
        rest.counts[f"pictures {unlabelled}"] = count
    return rest.counts
