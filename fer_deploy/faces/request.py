"""A request for a data set: the source, the labels, and how missing splits are drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from fer_deploy.labels import LabelMap

_GRAMMAR = "write 80/10/10 (training, validation, test), by=COLUMN or by=REGEX, seed=N, or several of them"


@dataclass(frozen=True)
class SplitRequest:
    """How the splits that a data set lacks are drawn.

    Attributes:
        shares: of training, validation and test, in any unit; None: 80/10/10, or one in eight if only one is missing.
        by: a column of the table, or a regular expression for file names. Pictures with the same value, or the same
            first group, stay in one split. None: by person where columns or file names tell, else by picture.
        seed: other seeds draw other splits.
    """

    shares: tuple[float, float, float] | None = None
    by: str | None = None
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""Read the grammar of `--split`: parts separated by spaces or commas, in any order.

        >>> SplitRequest.parse("70/15/15 by=subject seed=3")
        SplitRequest(shares=(70.0, 15.0, 15.0), by='subject', seed=3)

        Raises:
            ValueError: one line: what is wrong and what to write.
        """
        values: dict[str, Any] = {}
        for part in re.split(r"\s+|,\s*(?=by=|seed=|[\d.]+/)", text.strip()):
            key, _, value = part.partition("=") if part.startswith(("by=", "seed=")) else ("shares", "", part)
            if key in values:
                raise ValueError(f"split {text!r}: {key} is given twice: {_GRAMMAR}")
            values[key] = _parsed(key, value, text)
        return cls(**values)

    def __str__(self) -> str:
        """The request in the grammar of `--split`."""
        parts = [] if self.shares is None else ["/".join(f"{share:g}" for share in self.shares)]
        parts += [f"by={self.by}"] if self.by is not None else []
        return " ".join([*parts, *([f"seed={self.seed}"] if self.seed or not parts else [])])


def _parsed(key: str, value: str, text: str) -> Any:
    """The value of one part of a split."""
    if key == "seed":
        if not re.fullmatch(r"\d{1,9}", value):
            raise ValueError(f"split {text!r}: the seed {value!r} is not a whole number of at most 9 digits")
        return int(value)
    if key == "by":
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"split {text!r}: {value!r} is not a regular expression: {error}") from error
        if not value:
            raise ValueError(f"split {text!r}: by= names nothing: {_GRAMMAR}")
        return value
    try:
        shares = tuple(float(share) for share in value.split("/"))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(0 < share < 1e9 for share in shares):
        raise ValueError(f"split {text!r}: {value!r} is not three shares above zero: {_GRAMMAR}")
    return shares


@dataclass(frozen=True)
class DataRequest:
    """A data set as a user names it on the command line, in a recipe or in Python.

    Attributes:
        source: a file or folder; 'synthetic' or 'synthetic:N'; None for the default data set.
        labels: which raw label is which class; None: see `labels.understand`.
        split: how missing splits are drawn; None: `SplitRequest()`.
        votes: FER+'s fer2013new.csv; None: the one beside the table, if there is one.
    """

    source: str | Path | None = None
    labels: LabelMap | None = None
    split: SplitRequest | None = None
    votes: str | Path | None = None

    def arguments(self) -> list[str]:
        """The options of a command that make this request again, for a second process."""
        options: Mapping[str, object] = {"--data": self.source, "--labels": self.labels, "--split": self.split}
        return [text for name, value in options.items() if value is not None for text in (name, str(value))]
