"""What every reader of a data set returns, and the one place that turns faults of files and archives into errors."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError, one_line, printable
from fer_deploy.faces.dataset import SPLITS, Faces
from fer_deploy.faces.listing import Listing, PictureSource


@dataclass(frozen=True, eq=False)
class SourceFaces:
    """The faces of a source, before they are compared with FER2013.

    Attributes:
        splits: the faces of "training", "validation" and "test". A split that the source lacks is empty.
        notes: what a user should know about how they were read, one sentence each.
    """

    splits: Mapping[str, Faces]
    notes: tuple[str, ...] = ()


def listing_of(content: SourceFaces, name: str) -> Listing:
    """The listing of faces that a reader has split and labelled already."""
    parts = [content.splits[split] for split in SPLITS]
    rows = np.concatenate([faces.rows for faces in parts])
    votes = [faces.votes for faces in parts if faces.votes is not None]
    return Listing(
        name,
        labels=[EMOTIONS[label] for faces in parts for label in faces.labels.tolist()],
        splits=[split for split, faces in zip(SPLITS, parts, strict=True) for _ in range(len(faces))],
        places=[f"row {row}" for row in rows.tolist()],
        rows=rows,
        pictures=PictureSource.decoded(np.concatenate([faces.images for faces in parts])),
        votes=np.concatenate(votes) if votes else None,
        notes=content.notes,
    )


def label_notes(names: Iterable[str]) -> tuple[str, ...]:
    """A note about labels that were read as others, such as calm as neutral; none if every label is one of the seven.

    >>> label_notes(["Happy", "sad", "calm", "anger"])
    ('labels were read as others: anger as angry, calm as neutral',)
    """
    renamed = []
    for name in sorted({name.strip().lower() for name in names}):
        label = emotion_index(name)
        if label is not None and name != EMOTIONS[label]:
            renamed.append(f"{printable(name)} as {EMOTIONS[label]}")
    return (f"labels were read as others: {', '.join(renamed)}",) if renamed else ()


@contextmanager
def source_errors(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while the file or archive `name` is read into a `DataError` of one line."""
    try:
        yield
    except DataError:
        raise
    except EOFError as error:
        raise DataError(f"{name} ends in the middle of its packed data: it is cut short: get it again") from error
    except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{name} is a damaged archive: {one_line(error, limit=120)}: get it again") from error
    except RuntimeError as error:  # zipfile: a member is encrypted, or packed by an unknown method
        why = "is encrypted" if "encrypted" in str(error) else f"cannot be unpacked: {one_line(error, limit=120)}"
        raise DataError(f"{name} {why}: unpack it yourself and name the file") from error
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or one_line(error, limit=120)}") from error
