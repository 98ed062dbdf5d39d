"""The gate: what a file says is held against what PyTorch says, before the file is allowed to exist.

The file is asked through plain ONNX Runtime, as an app would ask it; the reference is the torch module with its batch
norms as they were trained, so that folding, exporting, quantising and the engine's own optimisations are all inside the
comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fer_deploy.errors import ExportError, ParityError
from fer_deploy.export.engine import run_whole, session_of
from fer_deploy.export.graph import HALF_RANGE, FaceClassifier
from fer_deploy.export.passes.members import show_members
from fer_deploy.faces.dataset import SIZE, Faces
from fer_deploy.model.names import DYNAMIC, Shape

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class ParityCase:
    """One way of asking a file: in batches of some size, with pictures of some size."""

    batch: int
    height: int = SIZE
    width: int = SIZE
    faces: int | None = 256
    """How many faces are asked, the first of the split; None asks all."""
    colour: bool = False
    """Whether three faces of four are tinted, so that the three channels differ."""

    def __str__(self) -> str:
        return f"batch {self.batch} at {self.height}x{self.width}"


PARITY_CASES: tuple[ParityCase, ...] = (
    ParityCase(batch=256, faces=None),
    ParityCase(batch=1),
    ParityCase(batch=7),
    ParityCase(batch=64),
    ParityCase(batch=64, colour=True),
    ParityCase(batch=7, height=1, width=1, colour=True),
    ParityCase(batch=64, height=37, width=53, colour=True),
    ParityCase(batch=64, height=97, width=1, faces=64, colour=True),
    ParityCase(batch=7, height=224, width=224, colour=True),
    ParityCase(batch=2, height=480, width=640, faces=16, colour=True),
    ParityCase(batch=1, height=2000, width=1500, faces=3, colour=True),
)
"""How every file is asked, by `export`, `verify` and the tests alike. The first case is each face once."""

TOLERANCES: Mapping[str, float] = MappingProxyType({"fp32": 1e-5, "fp16": 5e-3})
"""Largest difference of a probability that is let through, by precision. int8 is held to its accuracy and to INT8_MEAN
instead."""
HALF_FLIPS = 0.001
"""Share of the faces whose most probable class storing weights in half precision may change; one face always may."""
INT8_LOSS = 0.005
"""Largest loss of validation accuracy, as a share of the faces, that int8 may cost."""
INT8_MEAN = 0.05
"""Largest mean difference of int8's probabilities in any case, where accuracy would show nothing: at other sizes, and
where no labels are there. Released files have .013 at most; a file of another network's answers has .2."""
RANK_MARGIN = 1e-4
"""Ranks are compared where a member gives no two classes probabilities closer than this."""


@dataclass(frozen=True)
class CaseResult:
    """How far a file was from PyTorch in one case."""

    case: ParityCase
    faces: int
    max_difference: float
    """Of any probability of any face."""
    mean_difference: float
    flips: tuple[int, ...]
    """Rows, in the split's source, of the faces whose most probable class differs."""
    uncompared: int = 0
    """Faces left out of the ranks' comparison: a member gives two classes nearly the same probability."""

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "batch": self.case.batch,
            "height": self.case.height,
            "width": self.case.width,
            "colour": self.case.colour,
            "faces": self.faces,
            "max_difference": self.max_difference,
            "mean_difference": self.mean_difference,
            "flips": list(self.flips),
            **({"uncompared": self.uncompared} if self.uncompared else {}),
        }


@dataclass(frozen=True)
class Parity:
    """What the gate found for a file that passed it."""

    faces_from: str
    """Where the faces come from: a split's name, or that they are drawn."""
    tolerance: float | None
    """Largest difference that was let through; None for int8."""
    cases: tuple[CaseResult, ...]
    accuracy: float
    """Share of the faces of the first case that the file gets right."""
    reference_accuracy: float
    """The same of PyTorch."""
    engine: str
    reference: str

    @property
    def whole(self) -> CaseResult:
        """The case of every face once."""
        return self.cases[0]

    @property
    def max_difference(self) -> float:
        """The largest over all cases."""
        return max(case.max_difference for case in self.cases)

    @property
    def mean_difference(self) -> float:
        """Over every face once."""
        return self.whole.mean_difference

    @property
    def agreement(self) -> float:
        """Share of the faces whose most probable class is PyTorch's."""
        return 1 - len(self.whole.flips) / self.whole.faces

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "faces_from": self.faces_from,
            "tolerance": self.tolerance,
            "max_difference": self.max_difference,
            "mean_difference": self.mean_difference,
            "agreement": self.agreement,
            "accuracy": self.accuracy,
            "reference_accuracy": self.reference_accuracy,
            "engine": self.engine,
            "reference": self.reference,
            "cases": [case.as_dict() for case in self.cases],
        }


def check_parity(
    content: bytes,
    classifier: FaceClassifier,
    faces: Faces,
    *,
    faces_from: str,
    precision: str,
    shape: Shape = DYNAMIC,
    progress: Progress | None = None,
    reference: Reference | None = None,
    gate_accuracy: bool = True,
) -> Parity:
    """Hold an ONNX file against the classifier that it was exported from.

    Args:
        content: the file's bytes.
        classifier: as trained, its batch norms not folded.
        faces: the validation split, or drawn faces.
        faces_from: the split's name, for the record.
        precision: the file's; it decides the tolerance.
        shape: axes of the input that the file fixes; only cases of that shape are asked then.
        progress: told of each case.
        reference: the classifier's answers, where they are kept from another precision's gate.
        gate_accuracy: hold int8 to its accuracy: False for faces that the runs were not trained for.

    Raises:
        ParityError: the file and PyTorch differ by more than the tolerance, or int8 loses too much accuracy.
        ExportError: ONNX Runtime can't load or run the file.
    """
    if not len(faces):
        raise ExportError("there is no face to compare the file on")
    cases = cases_for(shape)
    reference = reference or Reference(classifier, faces)
    ask = _Engine(content, members=classifier.fusion == "rrf" and precision != "int8")
    results: list[CaseResult] = []
    accuracy = 0.0
    for number, case in enumerate(cases):
        if progress:
            progress(f"parity, {case}", number, len(cases))
        expected = reference.members(case)
        found = ask(case, faces, len(expected))
        results.append(_compare(case, found, expected, classifier, rows=faces.rows, precision=precision))
        if number == 0:
            labels = faces.labels[: len(found[0])]
            accuracy = float((found[0].argmax(axis=1) == labels).mean())
            expected_accuracy = float((reference.fused(case).argmax(axis=1) == labels).mean())
            flips, allowed = len(results[0].flips), max(1, int(HALF_FLIPS * len(labels)))
            if precision == "fp16" and flips > allowed:
                raise ParityError(
                    f"fp16 changes the most probable class of {flips} of {len(labels):,} faces ({faces_from}); "
                    f"{allowed} are allowed"
                )
            if precision == "int8" and gate_accuracy and expected_accuracy - accuracy > INT8_LOSS:
                raise ParityError(
                    f"int8 loses {100 * (expected_accuracy - accuracy):.2f} points of accuracy on {faces_from} "
                    f"({accuracy:.4f} against {expected_accuracy:.4f}); at most {100 * INT8_LOSS:g} are allowed"
                )
        if precision == "int8" and results[-1].mean_difference > INT8_MEAN:
            raise ParityError(
                f"{case}: int8's probabilities are {results[-1].mean_difference:.3f} from PyTorch's on average; "
                f"{INT8_MEAN:g} is allowed"
            )
    if progress:
        progress("parity", len(cases), len(cases))
    return Parity(
        faces_from=faces_from,
        tolerance=TOLERANCES.get(precision),
        cases=tuple(results),
        accuracy=accuracy,
        reference_accuracy=expected_accuracy,
        engine=f"onnxruntime {onnxruntime.__version__}",
        reference=f"torch {torch.__version__.split('+')[0]}",
    )


def cases_for(shape: Shape) -> tuple[ParityCase, ...]:
    """The cases that a file with these fixed axes can be asked; its own shape where no listed case has it."""
    batch, height, width = shape
    if shape == DYNAMIC:
        return PARITY_CASES
    return (
        ParityCase(batch=batch or 64, height=height or SIZE, width=width or SIZE, faces=None),
        ParityCase(batch=batch or 7, height=height or 224, width=width or 224, colour=True),
    )


class Reference:
    """What PyTorch says of each case's faces, computed once for all batch sizes and precisions."""

    def __init__(self, classifier: FaceClassifier, faces: Faces, *, progress: Progress | None = None) -> None:
        self._classifier = classifier
        self._faces = faces
        self._progress = progress
        self._known: dict[tuple[int, int, int | None, bool], list[NDArray[np.float32]]] = {}

    def members(self, case: ParityCase) -> list[NDArray[np.float32]]:
        """Each member's probabilities of the case's faces, float32 (n, 7)."""
        key = (case.height, case.width, case.faces, case.colour)
        if key not in self._known:
            at_once = max(1, min(256, 4_000_000 // (case.height * case.width)))
            batches: list[list[NDArray[np.float32]]] = []
            total = min(len(self._faces), case.faces or len(self._faces))
            with torch.inference_mode():
                for pictures in pictures_of(self._faces, case, batch=at_once):
                    if self._progress:
                        self._progress("what PyTorch says of the faces", len(batches) * at_once, total)
                    answers = self._classifier.plane_probabilities(self._planes(pictures, case))
                    batches.append([answer.numpy() for answer in answers])
            self._known[key] = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        return self._known[key]

    def _planes(self, pictures: NDArray[np.uint8], case: ParityCase) -> dict[int, Tensor]:
        """What the networks see. A grey face of their own size goes to them as it did in training, past our resize."""
        planes = self._classifier.planes_of(torch.from_numpy(pictures))
        if not case.colour and case.height == case.width and case.height in planes:
            planes[case.height] = torch.from_numpy(pictures[:, None, :, :, 0].astype(np.float32) / HALF_RANGE - 1)
        return planes

    def fused(self, case: ParityCase) -> NDArray[np.float32]:
        """The classifier's probabilities of the case's faces, float32 (n, 7)."""
        return _fused(self._classifier, self.members(case))


def pictures_of(faces: Faces, case: ParityCase, *, batch: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """The case's pictures, uint8 (n, height, width, 3), in batches of the case's own size or of `batch`.

    The faces are resized with Pillow and, with `colour`, tinted by their position: the same pictures each time. The
    last batch may be smaller.
    """
    count = min(len(faces), case.faces or len(faces))
    step = batch or case.batch
    for start in range(0, count, step):
        grey = faces.images[start : min(start + step, count)]
        if (case.height, case.width) != grey.shape[1:]:
            size = (case.width, case.height)
            grey = np.stack(
                [np.asarray(Image.fromarray(face).resize(size, Image.Resampling.BILINEAR)) for face in grey]
            )
        pictures = np.repeat(grey[..., None], 3, axis=3)
        if case.colour:
            tints = _TINTS[np.arange(start, start + len(grey)) % len(_TINTS)]
            pictures = np.rint(pictures * tints[:, None, None, :]).astype(np.uint8)
        yield pictures


_TINTS = np.array([[1, 1, 1], [1, 0.8, 0.6], [0.5, 1, 0.7], [0.7, 0.4, 1]], np.float32)


class _Engine:
    """The file in plain ONNX Runtime, at its default optimisation level."""

    def __init__(self, content: bytes, *, members: bool) -> None:
        if members:
            content = show_members(onnx.load_from_string(content)).SerializeToString()
        self._members = members
        self._session = session_of(content)
        axis = self._session.get_inputs()[0].shape[0]
        self._fixed_batch = axis if isinstance(axis, int) else None

    def __call__(self, case: ParityCase, faces: Faces, members: int) -> list[NDArray[np.float32]]:
        """The file's probabilities (n, 7) of the case's faces, and after them each member's where they are shown."""
        batches = [run_whole(self._session, pictures, batch=self._fixed_batch) for pictures in pictures_of(faces, case)]
        joined = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        if self._members and len(joined) != 1 + members:
            raise ParityError(f"the file has {len(joined) - 1} members, and the runs are {members}")
        return joined


def _compare(
    case: ParityCase,
    found: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
    classifier: FaceClassifier,
    *,
    rows: NDArray[np.int64],
    precision: str,
) -> CaseResult:
    """The result of a case; ParityError where the file is too far from PyTorch."""
    tolerance = TOLERANCES.get(precision, math.inf)
    wanted = _fused(classifier, expected)
    compared = np.ones(len(wanted), bool)
    pairs = [(found[0], wanted, "")]
    if classifier.fusion == "rrf":
        gaps = [np.diff(np.sort(own, axis=1), axis=1).min(axis=1) for own in expected]
        margin = max(RANK_MARGIN, 2 * tolerance) if math.isfinite(tolerance) else RANK_MARGIN
        compared = np.min(gaps, axis=0) > margin
        members = zip(found[1:], expected, classifier.members, strict=False)
        pairs += [(own, reference, f" of member {member.name}") for own, reference, member in members]
    for own, reference, of in pairs:
        if own.shape != reference.shape or own.dtype != np.float32:
            raise ParityError(f"{case}: expected float32 {reference.shape}{of}, got {own.dtype} {own.shape}")
        if not np.isfinite(own).all():
            row = rows[: len(own)][~np.isfinite(own).all(axis=1)][0]
            raise ParityError(f"{case}: a probability{of} is not a number (row {row})")
        difference = np.abs(own - reference)
        if not of:
            difference = difference[compared]
        if difference.size and difference.max() > tolerance:
            row = rows[: len(own)][compared if not of else slice(None)][int(difference.max(axis=1).argmax())]
            raise ParityError(
                f"{case}: a probability{of} is {difference.max():.2e} from PyTorch's (row {row}); "
                f"{tolerance:g} is allowed"
            )
    flipped = found[0].argmax(axis=1) != wanted.argmax(axis=1)
    first, second = np.sort(wanted, axis=1)[:, -1], np.sort(wanted, axis=1)[:, -2]
    wrong = flipped & compared & (first - second > tolerance)
    if wrong.any():
        raise ParityError(
            f"{case}: the most probable class differs from PyTorch's (row {rows[: len(wrong)][wrong][0]}) "
            f"where it leads by more than {tolerance:g}"
        )
    difference = np.abs(found[0] - wanted)[compared]
    return CaseResult(
        case=case,
        faces=len(wanted),
        max_difference=float(difference.max(initial=0)),
        mean_difference=float(difference.mean()) if difference.size else 0.0,
        flips=tuple(int(row) for row in rows[: len(flipped)][flipped]),
        uncompared=int((~compared).sum()),
    )


def _fused(classifier: FaceClassifier, members: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    with torch.inference_mode():
        fused: NDArray[np.float32] = classifier.fuse([torch.from_numpy(own) for own in members]).numpy()
    return fused
