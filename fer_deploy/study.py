"""The study whose variants this package rebuilds: its published figures, its ensembles and the order of its table.

`study.toml` beside this file holds them. They are recorded and never shown as measured.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Literal

STUDY_REFERENCE = (
    "From the published notebook of the study (github.com/nmhaaa3218/CV-Facial-Expression): PrivateTest accuracy, "
    "fvcore's GFLOPs at 1x1x48x48, accuracy / GFLOPs. Recorded, not measured here."
)
"""Where the figures come from, for readers of a table."""


@dataclass(frozen=True)
class StudyRow:
    """One row of the study's table.

    Attributes:
        name: the variant's, or the ensemble's as its file is named.
        accuracy: on PrivateTest, 0 to 1; the study averaged over batches.
        gflops: fvcore's count, 1x1x48x48, seven classes.
        note: what the study's text leaves out.
        members: variants that an ensemble fuses, in order; empty for a single network.
        weights: one per member; they sum to 1.
        fusion: how the members are fused.
    """

    name: str
    accuracy: float
    gflops: float
    note: str = ""
    members: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    fusion: Literal["wap", "rrf"] = "wap"

    @property
    def efficiency(self) -> float:
        """accuracy / gflops."""
        return self.accuracy / self.gflops

    @property
    def remark(self) -> str:
        """What a reader must know before comparing with this row."""
        return "weights searched on PrivateTest itself" if self.members else ""


def _read() -> tuple[StudyRow, ...]:
    table = tomllib.loads(resources.files("fer_deploy").joinpath("study.toml").read_text("utf-8"))
    ensembles = [
        {**entry, "members": tuple(entry["members"]), "weights": tuple(entry["weights"])} for entry in table["ensemble"]
    ]
    return tuple(StudyRow(**entry) for entry in (*table["variant"], *ensembles))


STUDY_ROWS: tuple[StudyRow, ...] = _read()
"""All rows in the study's order: variants, then ensembles."""

STUDY_VARIANTS: Mapping[str, StudyRow] = MappingProxyType({row.name: row for row in STUDY_ROWS if not row.members})
"""The study's eleven single networks by name, in its order."""

STUDY_ENSEMBLES: Mapping[str, StudyRow] = MappingProxyType({row.name: row for row in STUDY_ROWS if row.members})
"""The study's three ensembles by the name of their file."""
