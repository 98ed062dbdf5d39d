"""The published figures of the study whose variants are rebuilt here: recorded, never shown as measured."""

from __future__ import annotations

from dataclasses import dataclass

STUDY_SOURCE = (
    "From the published notebook of the study (github.com/nmhaaa3218/CV-Facial-Expression): PrivateTest accuracy, "
    "fvcore's GFLOPs at 1x1x48x48, accuracy / GFLOPs. Recorded, not measured here."
)
"""Where the rows are from, in a sentence for readers."""


@dataclass(frozen=True)
class StudyRow:
    """One row of the study.

    Attributes:
        name: as variants are named here.
        accuracy: on PrivateTest, 0 to 1; the study averaged over batches.
        gflops: fvcore's count, 1x1x48x48, seven classes.
        remark: what to know before comparing with it.
    """

    name: str
    accuracy: float
    gflops: float
    remark: str = ""

    @property
    def efficiency(self) -> float:
        """accuracy / gflops."""
        return self.accuracy / self.gflops


_SEARCHED = "weights searched on PrivateTest itself"

STUDY_ROWS: tuple[StudyRow, ...] = (
    StudyRow("baseline", 0.49675, 0.327505),
    StudyRow("resemotenet", 0.61365, 0.240087),
    StudyRow("vgg19", 0.62006, 0.913409),
    StudyRow("efficientnet-b1", 0.56168, 0.035440),
    StudyRow("mobilenetv3-large", 0.53548, 0.014446),
    StudyRow("efficientnetv2-s", 0.62929, 0.156170),
    StudyRow("A", 0.62250, 0.023211),
    StudyRow("B", 0.66658, 0.023211),
    StudyRow("C", 0.64514, 0.023211),
    StudyRow("D", 0.65216, 0.023211),
    StudyRow("E", 0.64685, 0.023211),
    StudyRow("A+B+C+D+E", 0.69880, 0.116053, _SEARCHED),
    StudyRow("B+E", 0.68738, 0.046421, _SEARCHED),
    StudyRow("B+E.rrf", 0.67730, 0.046421, _SEARCHED),
)
"""The study's rows in its own order."""
