"""What every reader hands over, and the one place where faults of files and archives become `DataError`."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import Faces


@dataclass(frozen=True, eq=False)
class Reading:
    """Faces as a source has them, before it is known whether they are FER2013.

    Attributes:
        splits: the faces of "training", "validation" and "test"; a split that the source lacks has none.
        notes: what a user should know of how they were read, a sentence each.
    """

    splits: Mapping[str, Faces]
    notes: tuple[str, ...] = ()


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while the file or archive `name` is read into a `DataError` of one line."""
    try:
        yield
    except DataError:
        raise
    except EOFError as error:
        raise DataError(f"{name} ends in the middle of its packed data; it is cut short: get it again") from error
    except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{name} is a damaged archive ({_one_line(error)}); get it again") from error
    except RuntimeError as error:  # zipfile, of a member that wants a password or is packed in a way unknown to it
        why = "is encrypted" if "encrypted" in str(error) else f"cannot be unpacked ({_one_line(error)})"
        raise DataError(f"{name} {why}; unpack it yourself and name the file") from error
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or _one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
