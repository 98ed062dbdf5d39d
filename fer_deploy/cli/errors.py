"""How a command ends when something goes wrong: one line on stderr and the right exit code.

Exit codes: 1 for an error, 2 for wrong usage, 130 after Ctrl-C, 141 when the reader of the output is gone (`| head`).
An unexpected error is one line too. Its traceback goes to a file, or to the terminal with --debug.
"""

from __future__ import annotations

import errno
import io
import os
import platform
import select
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import click

from fer_deploy.errors import FerDeployError, UnavailableError, one_line

INTERRUPTED = 130
"""128 and the number of SIGINT, as shells count."""

READER_GONE = 141
"""128 and the number of SIGPIPE, as shells count."""

KEPT_TRACEBACKS = 20
"""Older files of tracebacks are removed."""

MAXIMUM_TRACEBACK = 1_000_000
"""Characters of a saved traceback: an error's text can be a whole file."""

MEMORY_MARKS = ("can't allocate memory", "annot allocate memory", "bad_alloc", "failed to map segment", "out of memory")
"""What PyTorch, ONNX Runtime and the loader of libraries write into other classes of error."""


@contextmanager
def error_line(*, on_interrupt: str = "") -> Iterator[None]:
    """End the program with one line when the block fails in a known way.

    FerDeployError, OSError and MemoryError become `error: …` and exit code 1. Ctrl-C becomes `stopped.` with the advice
    `on_interrupt`, and exit code 130. When the reader of the output has left, the program ends quietly. `conclude`
    handles all other errors, and every error with --debug.
    """
    context = click.get_current_context(silent=True)
    debug = bool(context and (context.find_root().obj or {}).get("debug"))
    try:
        yield
    except Exception as error:
        if not debug and (code := _known(error, on_interrupt)) is not None:
            sys.exit(code)
        raise
    except KeyboardInterrupt:
        _print(f"stopped. {on_interrupt}".rstrip())
        sys.exit(INTERRUPTED)


def conclude(error: BaseException, *, debug: bool = False) -> int:
    """Report the error that ended the program, and return the exit code. Never raises.

    Args:
        error: what was raised.
        debug: print the traceback instead of saving it to a file.
    """
    try:
        return _conclude(error, debug=debug)
    except BaseException as second:
        with suppress(OSError):
            os.write(2, f"error: {type(error).__name__}, and {type(second).__name__} while reporting it\n".encode())
        return 1


CLOSED: set[str] = set()
"""Those of stdin, stdout and stderr that were closed when the program began."""


def check_stdout() -> None:
    """Refuse to compute results that would be lost: UnavailableError where standard output is closed."""
    if "stdout" in CLOSED:
        raise UnavailableError("standard output is closed, so the results would be lost: name a file with --output")


def open_streams() -> None:
    """Make sure that the three standard streams exist and can print every character.

    Where one is closed it becomes the null device: otherwise the next file that is opened would take its number, and
    what a library prints would land in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            CLOSED.add(name)
            stream = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):  # a character outside its encoding must not end a command
            output.reconfigure(errors="replace" if output.errors == "strict" else output.errors)


def close_streams(code: int) -> int:
    """Flush the standard streams and return the exit code, which an output that cannot be written changes."""
    for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
        try:
            stream.flush()
        except ValueError:  # closed
            continue
        except OSError as error:
            _silence(stream)
            if error.errno == errno.EPIPE:
                code = READER_GONE
            else:  # a full disk
                _print(f"error: {name}: {error.strerror or error}")
                code = code or 1
    return code


def _known(error: BaseException, on_interrupt: str = "") -> int | None:
    """Report an error that is known, and return its exit code; None for any other."""
    if isinstance(error, FerDeployError):
        _print(f"error: {' '.join(str(error).split())}")
    elif isinstance(error, MemoryError) or any(mark in str(error) for mark in MEMORY_MARKS):
        _print("error: out of memory: use a smaller batch or fewer files at a time")
    elif isinstance(error, BrokenPipeError) and (_is_broken(sys.stdout) or _is_broken(sys.stderr)):
        _silence(sys.stdout)
        return READER_GONE
    elif isinstance(error, OSError):
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        _print(f"error: {one_line(error.strerror or error)}{where}")
    elif _was_interrupted(error):
        _print(f"stopped. {on_interrupt}".rstrip())
        return INTERRUPTED
    else:
        return None
    return 1


def _conclude(error: BaseException, *, debug: bool) -> int:
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            _print(error.code)
        elif "PacifyFlushWrapper" in type(sys.stdout).__name__:  # click's mark that the reader is gone
            return READER_GONE
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.ClickException):
        with suppress(OSError):
            error.show()
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        _print("stopped.")
        return INTERRUPTED
    if debug:
        _print("".join(traceback.format_exception(error)).rstrip())
        return 1
    code = _known(error)
    if code is None:
        code = 1
        path = _save_traceback(error)
        saved = f" The traceback is in {path}." if path else ""
        text = one_line(error) if str(error).strip() else "no message"
        _print(
            f"error: unexpected {type(error).__name__}: {text}. This is a fault in ferdeploy or in a library.{saved} "
            "`ferdeploy --debug …` prints it."
        )
    return code


def _was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C led to an error: some libraries catch KeyboardInterrupt while they are imported."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen and len(seen) < 100:
        if isinstance(link, KeyboardInterrupt):
            return True
        seen.append(link)
        link = link.__cause__ or link.__context__
    return False


def _save_traceback(error: BaseException) -> Path | None:
    """Write the traceback to the cache folder, else to a temporary one; None where neither can be written."""
    from fer_deploy import __version__
    from fer_deploy.machine import cache_folder

    text = "".join(traceback.format_exception(error))[-MAXIMUM_TRACEBACK:]
    command = " ".join(sys.argv)
    head = f"ferdeploy {__version__}, Python {platform.python_version()}, {platform.platform()}\n{command}\n\n"
    cache = cache_folder()
    places = [cache / "errors"] if cache is not None else []
    with suppress(OSError):  # no temporary folder
        places.append(Path(tempfile.gettempdir()))
    for folder in places:
        with suppress(OSError, ValueError):
            folder.mkdir(parents=True, exist_ok=True)
            # A new file for each error, which only this user can read.
            descriptor, name = tempfile.mkstemp(prefix="ferdeploy-error-", suffix=".txt", dir=folder)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(head + text)
            if folder.name == "errors":  # our own folder, not the one of temporary files
                _remove_old(folder)
            return Path(name)
    return None


def _remove_old(folder: Path) -> None:
    files = sorted(folder.glob("ferdeploy-error-*.txt"), key=lambda path: path.lstat().st_mtime)
    for path in files[:-KEPT_TRACEBACKS]:
        with suppress(OSError):
            path.unlink()


def _print(line: str) -> None:
    """Print to stderr, as far as that is possible."""
    with suppress(OSError, ValueError):
        click.echo(line, err=True)


def _is_broken(stream: TextIO) -> bool:
    """Whether a stream is a pipe without a reader."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # not a file, or closed
        return False
    except AttributeError:  # Windows has no poll; there the error comes from standard output alone
        return True


def _silence(stream: TextIO) -> None:
    """Send a stream to the null device, so that flushing it at the end of the process cannot fail again."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
