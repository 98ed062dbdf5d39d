"""The one place that turns faults of files and archives into errors."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from fer_deploy.errors import DataError, one_line


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
