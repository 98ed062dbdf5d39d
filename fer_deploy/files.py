"""Reading and writing files safely: one place for the rules that every command follows.

Written files are whole or absent: everything goes to a temporary name, is synced, and is moved into place. Files that a
user names are opened without blocking on pipes and are read up to a limit.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from fer_deploy.errors import DataError, FerDeployError, RecipeError, RunError, one_line, printable

AnyPath = str | bytes | os.PathLike[Any]
"""A path, of text or of bytes: names of files need not be UTF-8."""

MAXIMUM_TEXT_BYTES = 64 * 1024 * 1024
"""Larger JSON and TOML files are refused before they are read."""


def shown(path: AnyPath) -> str:
    """A file's name as one printable line: bytes that are not UTF-8 and control characters become escapes.

    >>> shown("a photo.jpg")
    'a photo.jpg'
    >>> shown(b"caf\\xe9\\n.jpg")
    'caf\\\\xe9\\\\x0a.jpg'
    """
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and move it over `path` when the block ends well.

    When the block raises, the temporary file is removed and `path` is as it was. The file's contents and its
    folder entry are synced, so that a power cut leaves the old file or the new one, never half of either.

    Raises:
        OSError: the file cannot be written, or `path` is a folder, pipe, socket or device, which it would replace.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise FileExistsError(errno.EEXIST, f"{kind_of_file(mode)}, which a file would replace", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a regular file's bytes, as 64 hexadecimal digits. DataError, as `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` for the block, against other processes and threads; it is released if we are killed.

    Args:
        path: the lock file; it is created if absent, and stays.
        wait: wait for another holder. Otherwise the block runs at once, and is given False if another holds the lock.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(path)
    try:
        file_lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        file_lock.release()


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows can neither open nor sync a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: AnyPath, *, what: str = "file", error: type[FerDeployError] = DataError) -> BufferedReader:
    """Open a regular file for reading. Never blocks on a named pipe, and refuses pipes, devices and folders.

    Args:
        path: the file; links are followed.
        what: what the file should be, for the error ("a folder, not a model").
        error: the class of error to raise.

    Raises:
        FerDeployError: of class `error`: no such file, not a regular file, or not readable.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as cause:
        raise error(f"{shown(path)}: {_why_not_opened(cause, path)}") from cause
    # The open file is examined, not the path: what the path names may change in between.
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise error(f"{shown(path)}: {kind_of_file(mode)}, not {_article(what)} {what}")
    return os.fdopen(descriptor, "rb")


def check_regular(path: AnyPath, *, what: str = "file", error: type[FerDeployError] = DataError) -> None:
    """Make sure that a path is a readable regular file that is not empty. Never blocks.

    Raises:
        FerDeployError: of class `error`, as `open_regular`, or the file is empty.
    """
    with open_regular(path, what=what, error=error) as file:
        if not os.fstat(file.fileno()).st_size:
            raise error(f"{shown(path)}: the file is empty (0 bytes)")


def read_file(
    path: AnyPath, *, maximum_bytes: int, what: str = "file", error: type[FerDeployError] = DataError
) -> bytes:
    """The bytes of a regular file.

    Args:
        path: the file.
        maximum_bytes: a larger file is refused. One that grows while it is read is never read further than this.
        what: what the file should be, for the error.
        error: the class of error to raise.

    Raises:
        FerDeployError: of class `error`, as `open_regular`, or the file is empty or larger than `maximum_bytes`.
    """
    excess = f"more than the {_mebibytes(maximum_bytes)} that {_article(what)} {what} may have"
    with open_regular(path, what=what, error=error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > maximum_bytes:
            raise error(f"{shown(path)}: {_mebibytes(size)}, {excess}")
        try:
            content = file.read(size + 1)
            if len(content) > size:  # it grew, or states no size, as files of /proc do
                content += file.read(maximum_bytes + 1 - len(content))
        except OSError as cause:
            raise error(f"{shown(path)}: cannot be read: {cause.strerror or cause}") from cause
    if not content:
        raise error(f"{shown(path)}: the file is empty (0 bytes)")
    if len(content) > maximum_bytes:
        raise error(f"{shown(path)}: {excess}")
    return content


def read_text(
    path: AnyPath,
    *,
    what: str = "text file",
    error: type[FerDeployError] = DataError,
    maximum_bytes: int = MAXIMUM_TEXT_BYTES,
) -> str:
    """A text file's text: UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is dropped.

    Raises:
        FerDeployError: of class `error`, as `read_file`, or the file is not such text.
    """
    content = read_file(path, maximum_bytes=maximum_bytes, what=what, error=error)
    return decode_text(content, source=shown(path), error=error)


def read_json(
    path: AnyPath, *, what: str, error: type[FerDeployError] = RunError, maximum_bytes: int = MAXIMUM_TEXT_BYTES
) -> Any:
    """The value in a JSON file. Its type is for the caller to check: it may be a list or a number.

    Args:
        path: the file.
        what: what the file should be, for the error ("run record").
        error: the class of error to raise.
        maximum_bytes: a larger file is refused.

    Raises:
        FerDeployError: of class `error`, as `read_file`, or the file is not UTF-8, not JSON, nested too deep, or holds
            NaN or an infinity, which are not JSON.
    """
    content = read_file(path, maximum_bytes=maximum_bytes, what=what, error=error)
    return parse_json(content, source=shown(path), what=what, error=error)


def parse_json(content: str | bytes, *, source: str, what: str, error: type[FerDeployError] = RunError) -> Any:
    """As `read_json`, for JSON in memory; `source` names it in errors."""
    text = decode_text(content, source=source, error=error) if isinstance(content, bytes) else content
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise error(f"{source}: damaged {what}: its values are nested too deep") from None
    except ValueError as cause:  # also of int(), for thousands of digits
        raise error(f"{source}: damaged {what}: not JSON: {one_line(cause)}") from cause


def read_toml(
    path: AnyPath, *, what: str, error: type[FerDeployError] = RecipeError, maximum_bytes: int = MAXIMUM_TEXT_BYTES
) -> dict[str, Any]:
    """The table in a TOML file.

    Args:
        path: the file.
        what: what the file should be, for the error ("recipe").
        error: the class of error to raise.
        maximum_bytes: a larger file is refused.

    Raises:
        FerDeployError: of class `error`, as `read_file`, or the file is not UTF-8, not TOML or nested too deep.
    """
    content = read_file(path, maximum_bytes=maximum_bytes, what=what, error=error)
    return parse_toml(content, source=shown(path), what=what, error=error)


def parse_toml(
    content: str | bytes, *, source: str, what: str, error: type[FerDeployError] = RecipeError
) -> dict[str, Any]:
    """As `read_toml`, for TOML in memory; `source` names it in errors."""
    text = decode_text(content, source=source, error=error) if isinstance(content, bytes) else content
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise error(f"{source}: damaged {what}: its values are nested too deep") from None
    except ValueError as cause:  # also of int(), for thousands of digits
        raise error(f"{source}: not a valid {what} in TOML: {one_line(cause)}") from cause


_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def marked_encoding(content: bytes) -> str | None:
    """The encoding that a text's byte order mark states; None without one.

    >>> marked_encoding(b"\\xff\\xfea\\x00"), marked_encoding(b"a")
    ('utf-16', None)
    """
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)


def decode_text(content: bytes, *, source: str, error: type[FerDeployError] = DataError) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark: PowerShell's `>` writes UTF-16.

    Args:
        content: the bytes; a byte order mark is dropped.
        source: names them in errors.
        error: the class of error to raise.

    Raises:
        FerDeployError: of class `error`: the bytes are not such text.
    """
    encoding = marked_encoding(content) or "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as cause:
        name = encoding.removesuffix("-sig").upper()
        raise error(f"{source}: not {name} text: byte {cause.start} is 0x{content[cause.start]:02x}") from cause


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size:,} bytes"


def _why_not_opened(error: OSError | ValueError, path: AnyPath) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ELOOP:
        return "a symbolic link that leads back to itself"
    if number == errno.ENOENT:
        return "a symbolic link to nothing" if os.path.islink(path) else "no such file"  # noqa: PTH114
    if number in (errno.EACCES, errno.EPERM):
        return "cannot be read: permission denied"
    if number == errno.ENXIO:
        return "a socket, not a file"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def identity_of(path: AnyPath) -> tuple[int, int] | None:
    """What makes a file or folder the same under two names, links followed; None where it cannot be examined."""
    try:
        status = os.stat(path)  # noqa: PTH116  a path of text or of bytes
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def kind_of_file(mode: int) -> str:
    """What a file is by its `st_mode`, with its article: "a folder", "a named pipe", "a device"."""
    for test, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return kind
    return "not a regular file"
