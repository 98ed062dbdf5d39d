"""Tables inside archives: .gz, .zip, .tar.gz, and Kaggle's .tar.gz inside a .zip, unpacked while they are read.

A file's kind is detected from its first bytes, not from its name. Nothing is unpacked to the disk, and an archive that
unpacks to far more than any data set of faces is refused before it fills the memory.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from fer_deploy.errors import DataError, one_line
from fer_deploy.files import marked_encoding, open_regular, shown
from fer_deploy.tars import members_of

LARGEST_UNPACKED = 2 << 30
"""Bytes that an archive may unpack to: 2 GiB, seven times FER2013's table."""

LARGEST_RATIO = 50
"""How many times its packed size an archive may unpack to, beyond the first 64 MiB. Tables of faces reach 3 to 4."""

_RATIO_COUNTS_FROM = 64 << 20

TABLES = ("fer2013.csv", "icml_face_data.csv")
"""Names of FER2013's table, the preferred one first."""

PACKED_TABLES = (
    "fer2013.csv.gz", "fer2013.csv.zip", "fer2013.tar.gz", "fer2013.tgz", "fer2013.zip", "fer2013.tar",
    "icml_face_data.csv.gz", "icml_face_data.csv.zip", "icml_face_data.zip",
)  # fmt: skip
"""Names of archives that hold FER2013's table."""

OTHER_FILES = frozenset({"fer2013new.csv", "example_submission.csv", "rows.csv"})
"""Tables that often lie beside FER2013's but hold no faces: FER+ votes, and the contest's examples."""


def kind_of(head: bytes) -> str:
    """A file's kind by its first 512 bytes: "gzip", "zip", "tar", "parquet", "empty", "table", or a description."""
    if not head:
        return "empty"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if (description := what_it_is(head)) is not None:
        return description
    if head[257:262] == b"ustar":
        return "tar"
    if encoding_of(head) is not None:
        return "table"
    return "binary" if b"\0" in head else "table"


def what_it_is(head: bytes) -> str | None:
    """What a file that holds no faces is, by its first bytes, and what to do; None if it may hold faces.

    >>> what_it_is(b"version https://git-lfs.github.com/spec/v1")
    'a Git LFS pointer, not the file itself: run `git lfs pull` to get it'
    """
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:64].lower()
    return next((kind for begin, kind in _OTHERS.items() if start.startswith(begin) or head.startswith(begin)), None)


_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull` to get it",
    b"<!doctype": "a web page, not the file itself: log in to the site, and download it again",
    b"<html": "a web page, not the file itself: log in to the site, and download it again",
    b"<?xml": "an XML file, often a server's error: download it again",
    b"\x93NUMPY": "a numpy array without labels: save the pictures as files in a folder for each class",
    b"\x89HDF": "an HDF5 file, which is not read: save the pictures as files in a folder for each class",
    b"ARROW1": "an Arrow file, which is not read: save it as Parquet (`Dataset.to_parquet`)",
    b"\xff\xff\xff\xff": "an Arrow stream, which is not read: save it as Parquet (`Dataset.to_parquet`)",
    b"\x80\x02": "a Python pickle, which is not read because it can run code: save it as a table or as pictures",
    b"\x80\x03": "a Python pickle, which is not read because it can run code: save it as a table or as pictures",
    b"\x80\x04": "a Python pickle, which is not read because it can run code: save it as a table or as pictures",
    b"\x80\x05": "a Python pickle, which is not read because it can run code: save it as a table or as pictures",
    b"[": "a JSON file: only JSON Lines are read, one object a line",
    b"%pdf": "a PDF",
}
"""How files begin, in small letters for text, that people name and that hold no faces."""


def encoding_of(head: bytes) -> str | None:
    """The encoding of a text that is not UTF-8, by its first bytes: UTF-16 or UTF-32, as Windows programs save tables.

    Without a byte order mark, UTF-16 is recognised by the zeros in every second byte of a table's first line.
    """
    if (encoding := marked_encoding(head)) is not None:
        return None if encoding == "utf-8-sig" else encoding
    first, second = head[:32:2], head[1:32:2]
    if len(second) == 16 and all(first) and not any(second):
        return "utf-16-le"
    if len(second) == 16 and all(second) and not any(first):
        return "utf-16-be"
    return None


_STARTS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # without members
    b"PAR1": "parquet",
    b"\x89PNG": "a picture: name the folder that holds a folder of pictures for each class",
    b"\xff\xd8\xff": "a picture: name the folder that holds a folder of pictures for each class",
    b"BZh": "packed with bzip2: unpack it, and name what is in it",
    b"\xfd7zXZ": "packed with xz: unpack it, and name what is in it",
    b"(\xb5/\xfd": "packed with zstd: unpack it, and name what is in it",
    b"7z\xbc\xaf": "packed with 7-Zip: unpack it, and name what is in it",
    b"Rar!": "packed with RAR: unpack it, and name what is in it",
    b"SQLite": "a database",
}


def choose_known(names: Iterable[str]) -> str | None:
    """The file or member among `names` that has a name of FER2013's table, the one least deep in folders; or None."""
    usable = [name for name in names if _is_usable(name)]
    for known in (*TABLES, *PACKED_TABLES):
        same = [name for name in usable if PurePosixPath(name).name.lower() == known]
        if same:
            return min(same, key=lambda name: (len(PurePosixPath(name).parts), name))
    return None


def choose_only(names: Iterable[str], endings: tuple[str, ...], where: str) -> str | None:
    """The only file or member that has one of the endings; None if there is none.

    Raises:
        DataError: there are several, so the choice is not clear.
    """
    tables = [name for name in names if _is_usable(name) and name.lower().endswith(endings)]
    tables = [name for name in tables if PurePosixPath(name).name.lower() not in OTHER_FILES]
    if len(tables) > 1:
        raise several_data_sets(where, sorted(tables))
    return tables[0] if tables else None


def several_data_sets(where: str, names: Sequence[str]) -> DataError:
    """The error about a folder or archive with several data sets, of which the first few are named."""
    listed = ", ".join(shown(name) for name in names[:4])
    return DataError(f"{where} holds several data sets ({listed}) and none is called fer2013.csv: name the one to read")


@contextmanager
def open_table(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """Open the comma-separated table that a file is or holds.

    Yields:
        A stream of the table's bytes as UTF-8, and its name for errors: "fer2013.tar.gz: fer2013/fer2013.csv".

    Raises:
        DataError: the file holds no table, or unpacks to too much.
    """
    with open_regular(path, what="data set") as file, _unpacked(file, shown(path.name), nested=0) as (stream, name):
        yield _as_utf8(stream, name), name


@contextmanager
def open_content(content: bytes, name: str) -> Iterator[tuple[IO[bytes], str]]:
    """Open the table that bytes are or pack: as `open_table`, for a file inside a folder or archive."""
    with _unpacked(io.BytesIO(content), name, nested=1) as (stream, label):
        yield _as_utf8(stream, label), label


@contextmanager
def _unpacked(stream: IO[bytes], name: str, *, nested: int) -> Iterator[tuple[IO[bytes], str]]:
    head = stream.read(512)
    stream.seek(0)
    kind = kind_of(head)
    if kind == "table":
        yield stream, name
    elif kind == "gzip":
        with gzip.GzipFile(fileobj=stream) as unpacking:
            bounded = io.BufferedReader(_Bounded(unpacking, name, stream.tell), 1 << 20)
            is_tar = kind_of(bounded.peek(512)[:512]) == "tar"
            if not is_tar:
                yield bounded, name
        if is_tar:
            with _in_tar(stream, name) as opened:
                yield opened
    elif kind == "tar":
        with _in_tar(stream, name) as opened:
            yield opened
    elif kind == "zip":
        if nested:
            raise DataError(f"{name} is an archive inside an archive: unpack it and name the table")
        with zipfile.ZipFile(stream) as archive, _in_zip(archive, name) as opened:
            yield opened
    else:
        remedy = (
            "" if ": " in kind else ": expected a table with a line of column names, such as label,pixels, or Parquet"
        )
        raise DataError(f"{name} is {_in_words(kind)}{remedy}")


@contextmanager
def _in_zip(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], str]]:
    members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
    chosen = choose_known(members) or choose_only(members, (".csv", ".csv.gz"), name)
    if chosen is None:
        raise DataError(f"{name} holds no table of faces: name an archive that does")
    member = members[chosen]
    label = f"{name}: {chosen}"
    refuse_bomb(member.file_size, member.compress_size, label)
    with archive.open(member) as packed:
        inside = io.BufferedReader(_Bounded(packed, label, lambda: member.compress_size), 1 << 20)
        if kind_of(inside.peek(512)[:512]) == "table":
            yield inside, label
        else:  # Kaggle's fer2013.tar.gz inside its zip: a tar has to be seekable, so the member is read into memory
            content = io.BytesIO(inside.read())
            with _unpacked(content, label, nested=1) as opened:
                yield opened


@contextmanager
def _in_tar(stream: IO[bytes], name: str) -> Iterator[tuple[IO[bytes], str]]:
    """The table in a tar: the first member with a known name, otherwise the only .csv, found by a first pass.

    Args:
        stream: the tar, packed or not.
        name: the archive's name, for errors.
    """

    def check(unpacked: int, packed: int) -> None:
        refuse_bomb(unpacked, packed, name)

    names = []
    for member, archive in members_of(stream, check=check):
        if not member.isreg():
            continue
        names.append(member.name)
        if PurePosixPath(member.name).name.lower() in TABLES and _is_usable(member.name):
            opened = archive.extractfile(member)
            if opened is not None:
                yield opened, f"{name}: {shown(member.name)}"
                return
    chosen = choose_only(names, (".csv",), name)
    if chosen is None:
        raise DataError(f"{name} holds no table of faces: name an archive that does")
    for member, archive in members_of(stream, check=check):
        if member.name == chosen and (opened := archive.extractfile(member)) is not None:
            yield opened, f"{name}: {shown(chosen)}"
            return


def refuse_bomb(unpacked: int, packed: int, name: str) -> None:
    """Raise DataError if `packed` bytes that unpack to `unpacked` bytes are more than a data set of faces can be."""
    if unpacked > LARGEST_UNPACKED:
        raise DataError(
            f"{name} unpacks to more than {LARGEST_UNPACKED / 2**30:.0f} GiB: unpack it yourself and name the table"
        )
    if unpacked > _RATIO_COUNTS_FROM and unpacked > packed * LARGEST_RATIO:
        raise DataError(f"{name} unpacks to over {LARGEST_RATIO} times its size: it is refused as a zip bomb")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Bounded(io.RawIOBase):
    """A stream of unpacked bytes that raises when `refuse_bomb` does."""

    def __init__(self, stream: _Readable, name: str, packed: Callable[[], int]) -> None:
        self._stream, self._name, self._packed, self._given = stream, name, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self._stream.read(len(buffer))
        buffer[: len(part)] = part
        self._given += len(part)
        refuse_bomb(self._given, self._packed(), self._name)
        return len(part)


def _as_utf8(stream: IO[bytes], name: str) -> IO[bytes]:
    """The same text as UTF-8, whatever Unicode encoding it has."""
    peekable: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
    encoding = encoding_of(peekable.peek(64)[:64])
    return peekable if encoding is None else io.BufferedReader(_Utf8(peekable, encoding, name), 1 << 16)


class _Utf8(io.RawIOBase):
    """A text's bytes in UTF-8, from a stream in another encoding."""

    def __init__(self, stream: _Readable, encoding: str, name: str) -> None:
        self._stream, self._encoding, self._name = stream, encoding, name
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = b" "
        while content and not self._waiting:
            content = self._stream.read(1 << 16)
            try:
                self._waiting = self._decoder.decode(content, final=not content).encode()
            except UnicodeError as error:
                encoding = self._encoding.upper()
                raise DataError(f"{self._name}: not {encoding} text, or cut short: {one_line(error)}") from error
        part, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _is_usable(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _in_words(kind: str) -> str:
    return {"empty": "empty", "binary": "neither a table nor an archive", "parquet": "a Parquet file"}.get(kind, kind)
