"""Every error that ferdeploy raises on purpose, each with a message of one line.

The tree::

    FerDeployError              could not be done: exit code 1, `error: <message>` on stderr
    ├── DataError               a data set, face or picture cannot be used
    │   └── NoDataError         a folder holds nothing that looks like a data set
    ├── RecipeError             a recipe is unknown, or a key or value in it is wrong
    ├── RunError                a run folder, checkpoint or weights file is missing, damaged or of another run
    ├── TrainingError           training cannot continue (loss not finite, device lost)
    ├── ExportError             an ONNX file could not be written
    │   └── ParityError         the file and the PyTorch model give different answers
    ├── ModelFileError          an ONNX file breaks the contract, or is unsafe to load
    ├── MeasurementError        a benchmark's, report's or engine's figures cannot be trusted
    └── UnavailableError        an engine, device or optional package is absent

A message says what is wrong, where (file, row, key), and what to do about it.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

_NOT_PRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's control, format and surrogate characters and its line and paragraph separators: terminals obey them."""


def install(extra: str) -> str:
    """The command that installs what a part of the package needs.

    >>> install("faces")
    "pip install 'fer-deploy[faces]' (in a clone: pip install '.[faces]')"
    """
    return f"pip install 'fer-deploy[{extra}]' (in a clone: pip install '.[{extra}]')"


def printable(text: str) -> str:
    """Escape the characters that move a terminal's cursor, reorder its text or cannot be encoded.

    >>> printable("café \\x1b[2J\\n")
    'café \\\\x1b[2J\\\\x0a'
    """
    if text.isprintable():
        return text
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) in _NOT_PRINTABLE else c for c in text)


def json_line(value: Any) -> str:
    """A value as JSON in one line. Characters that `printable` would escape get JSON's own escapes.

    >>> json_line({"file": "caf\u00e9 \\x1b.jpg"})
    '{"file": "café \\\\u001b.jpg"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in _NOT_PRINTABLE else c for c in text)


def one_line(error: BaseException | str, *, limit: int = 200) -> str:
    """An error's text as one printable line of at most `limit` characters; its class where it has no text.

    >>> one_line(ValueError("bad\\n  value"))
    'bad value'
    """
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def brief(value: object, *, limit: int = 40) -> str:
    """A value as an error quotes it: as Python writes it, at most `limit` characters.

    >>> brief("a" * 100, limit=8)
    "'aaaaaa…"
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_LONGEST = 2000
"""Characters of an error's line: long paths and lists fit."""


class FerDeployError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one line, safe to print to a terminal."""

    def __str__(self) -> str:
        # Names, values and other libraries' texts in it come from outside: they may hold lines and control characters.
        text = printable(" ".join(super().__str__().splitlines()))
        # A damaged file can hold a value of any length. The beginning says what and where, the end what to do.
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 500]} … {text[-450:]}"


class DataError(FerDeployError):
    """A data set, face or picture cannot be used."""


class NoDataError(DataError):
    """A folder holds nothing that looks like a data set."""


class RecipeError(FerDeployError):
    """A recipe is unknown, or a key or value in it is wrong."""


class RunError(FerDeployError):
    """A run folder, checkpoint or weights file is missing, damaged, or belongs to another run."""


class TrainingError(FerDeployError):
    """Training cannot continue."""


class ExportError(FerDeployError):
    """An ONNX file could not be written."""


class ParityError(ExportError):
    """An exported file and the PyTorch model give different answers."""


class ModelFileError(FerDeployError):
    """An ONNX file breaks the contract, or is not safe to load."""


class MeasurementError(FerDeployError):
    """The figures of a benchmark, a report or an engine cannot be trusted."""


class UnavailableError(FerDeployError):
    """An engine, a device or an optional package is absent."""
