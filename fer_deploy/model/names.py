"""The names of model files, `NAME[.BxHxW][.PRECISION].onnx`, and the file that is used when none is named."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_deploy.errors import ModelFileError

PRECISIONS: tuple[str, ...] = ("fp32", "fp16", "int8")
"""How a file may store its weights."""

Shape = tuple[int | None, int | None, int | None]
"""Batch, height and width of a file's input; None for an axis of any size."""

DYNAMIC: Shape = (None, None, None)
"""Any number of faces, of any height and width."""

PACKAGED = Path(__file__).parents[1] / "data"
"""Where the model inside this package is, if there is one."""

_PREFERRED = ("B+E", "B")
"""The study's pair of networks, then its best single one."""

_AXES = re.compile(r"([1-9][0-9]{0,8}|n)x([1-9][0-9]{0,8}|n)x([1-9][0-9]{0,8}|n)")


def parse_shape(text: str) -> Shape:
    """Batch, height and width as file names and options write them, `n` for an axis of any size; else ValueError.

    >>> parse_shape("nx48x48")
    (None, 48, 48)
    """
    axes = _AXES.fullmatch(text)
    if axes is None:
        raise ValueError(f"{text!r} is not batch, height and width: write 1x48x48 or nx48x48")
    batch, height, width = (None if axis == "n" else int(axis) for axis in axes.groups())
    return batch, height, width


@dataclass(frozen=True)
class ModelName:
    """What the name of a model file states.

    Attributes:
        name: the network's or ensemble's name, which may have dots in it: `B+E.rrf`.
        shape: batch, height and width; in a file's name an axis of any size is `n`, and a shape without a fixed axis
            is left out.
        precision: one of PRECISIONS; fp32 is left out of a file's name.

    >>> ModelName("B+E", (1, 48, 48), "int8").file_name
    'B+E.1x48x48.int8.onnx'
    >>> ModelName.parse("exports/B+E.rrf.nx48x48.onnx")
    ModelName(name='B+E.rrf', shape=(None, 48, 48), precision='fp32')
    """

    name: str
    shape: Shape = DYNAMIC
    precision: str = "fp32"

    @classmethod
    def parse(cls, file: str | os.PathLike[Any]) -> ModelName:
        """Read the name of a model file, given with or without its folder."""
        stem = Path(os.fsdecode(file)).name.removesuffix(".onnx")
        precision = "fp32"
        before, dot, last = stem.rpartition(".")
        if dot and last in PRECISIONS:
            stem, precision = before, last
        before, dot, last = stem.rpartition(".")
        if dot and _AXES.fullmatch(last):
            return cls(before, parse_shape(last), precision)
        return cls(stem, DYNAMIC, precision)

    @property
    def stem(self) -> str:
        """Name and shape: what the files of one model in several precisions have in common."""
        if self.shape == DYNAMIC:
            return self.name
        return f"{self.name}.{'x'.join('n' if axis is None else str(axis) for axis in self.shape)}"

    @property
    def file_name(self) -> str:
        """The name of the file."""
        return f"{in_precision(self.stem, self.precision)}.onnx"


def in_precision(stem: str, precision: str) -> str:
    """A model's name with its precision, as file names and reports write it. Only fp16 and int8 are written.

    >>> in_precision("B", "int8"), in_precision("B", "fp32")
    ('B.int8', 'B')
    """
    return f"{stem}.{precision}" if precision in PRECISIONS[1:] else stem


def default_model(workspace: Path = Path()) -> Path:
    """The model that is used when none is named: the one inside this package, else one of the workspace's `exports/`.

    Of `exports/`, files that take faces of any size come first, then fp32 ones, and of them the study's pair `B+E`,
    then `B`, then the first by name.

    Raises:
        ModelFileError: there is neither.
    """
    if packaged := sorted(PACKAGED.glob("*.onnx")):
        return packaged[0]
    files = sorted((workspace / "exports").glob("*.onnx"))
    if not files:
        raise ModelFileError(
            "no model: name one with --model FILE.onnx, or make one with `ferdeploy train` and `ferdeploy export`"
        )
    return min(files, key=_preference)


def _preference(path: Path) -> tuple[bool, bool, int, str]:
    model = ModelName.parse(path)
    rank = _PREFERRED.index(model.name) if model.name in _PREFERRED else len(_PREFERRED)
    return model.shape != DYNAMIC, model.precision != "fp32", rank, path.name
