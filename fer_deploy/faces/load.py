"""Find a data set and read it, whatever its layout: the one entry point to all readers.

`faces.find` detects the layout, and the readers list what is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.cache import cached
from fer_deploy.faces.dataset import SPLITS, Dataset
from fer_deploy.faces.ferplus import add_votes, votes_beside
from fer_deploy.faces.find import HELP, find
from fer_deploy.faces.listing import Found, Listing
from fer_deploy.faces.official import is_called_fer2013, is_merged_copy, is_official, refuse_damaged
from fer_deploy.faces.request import DataRequest, SplitRequest
from fer_deploy.faces.source import SourceFaces, source_errors
from fer_deploy.faces.splits import hold_out
from fer_deploy.faces.synthetic import DEFAULT_TRAINING, synthetic_dataset
from fer_deploy.files import sha256_of, shown

if TYPE_CHECKING:
    from fer_deploy.labels import LabelMap  # type: ignore[import-not-found, unused-ignore]

VARIABLE = "FERDEPLOY_DATA"
"""The environment variable that names the default data set."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much it is in all."""


def load_dataset(
    source: str | Path | DataRequest | None,
    *,
    workspace: Path = Path(),
    votes: str | Path | None = None,
    labels: LabelMap | None = None,
    split: SplitRequest | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read a data set.

    Args:
        source: a file or folder; or the text 'synthetic' or 'synthetic:N' for drawn faces, N of them for training (a
            folder of that name is ./synthetic). None takes $FERDEPLOY_DATA, then data/ in the workspace. A request
            holds the source, `votes`, `labels` and `split`.
        workspace: the folder that may hold data/.
        votes: FER+'s fer2013new.csv; None takes the one beside the table, if there is one.
        labels: which raw label is which class; None: see `labels.understand`.
        split: how splits that the source lacks are drawn; None: 80/10/10, seed 0.
        progress: called while pictures are read, decoded and resized.

    Returns:
        The data set. It is called FER2013 only if it is the official one. Without a validation split, one training face
        in eight of each class is held out for it, and a note says so.

    Raises:
        DataError: there is no data, or it is damaged or incomplete. One line that names file and row.
        UnavailableError: the source is Parquet and polars is not installed.
    """
    request = source if isinstance(source, DataRequest) else DataRequest(source, labels, split, votes)
    return _load(request, workspace, progress or (lambda _what, _done, _total: None))


def find_data(source: str | Path | None, *, workspace: Path = Path()) -> Found | None:
    """Find a data set without reading it; None for drawn faces.

    Args:
        source: as for `load_dataset`.
        workspace: the folder that may hold data/.

    Raises:
        DataError: there is no data set.
    """
    source = _named_or_default(source, workspace)
    if _is_synthetic(source):
        return None
    if not str(source).strip():
        raise DataError(f"the name of the data set is empty: {HELP}")
    path = _at_home(source)
    with source_errors(shown(path)):
        return find(path)


def _named_or_default(source: str | Path | None, workspace: Path) -> str | Path:
    if source is not None:
        return source
    default = os.environ.get(VARIABLE) or workspace / "data"
    if not _is_synthetic(default) and not Path(default).exists():
        named = f"${VARIABLE} names {shown(default)}, which does not exist"
        where = named if os.environ.get(VARIABLE) else f"no --data, ${VARIABLE} or data/"
        raise DataError(f"no data set: {where}: {HELP}")
    return default


def _load(request: DataRequest, workspace: Path, _progress: Progress) -> Dataset:
    source = _named_or_default(request.source, workspace)
    found = find_data(source)
    if found is None:
        return synthetic_dataset(_synthetic_count(str(source)))
    with source_errors(found.name):
        content = _read_cached(found, None if request.votes is None else _at_home(request.votes))
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


def _read_cached(found: Found, named_votes: Path | None) -> SourceFaces:
    """The faces of a source with their FER+ votes, from the cache or from the source."""
    votes = named_votes
    if found.table is None and votes is not None:
        raise DataError(f"{shown(votes)}: FER+ votes belong to the rows of FER2013's table, not to {found.name}")
    if found.table is not None and votes is None:
        votes = votes_beside(found.table)
    key = found.key() if found.key is not None else ""

    def read() -> SourceFaces:
        content = found.read()
        if isinstance(content, Listing):
            raise NotImplementedError("listings land next")
        if found.key is not None and found.key() != key:  # the cache must match the source
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


def _judged(found: Found, content: SourceFaces) -> Dataset:
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
