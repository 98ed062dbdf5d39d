"""The accuracy check: a file's probabilities are compared with PyTorch's before the file is moved into place.

The file runs in plain ONNX Runtime, as in an app. The reference is the torch module with its batch norms as trained, so
that the comparison covers folding, exporting, quantising and the engine's own optimisations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from fer_deploy.errors import ExportError, ParityError, one_line
from fer_deploy.export import Progress
from fer_deploy.export.graph import HALF_RANGE, FaceClassifier
from fer_deploy.export.passes.members import show_members
from fer_deploy.faces.dataset import SIZE, Faces
from fer_deploy.faces.decode import resize
from fer_deploy.model.contract import INPUT_NAME
from fer_deploy.model.names import DYNAMIC, Shape
from fer_deploy.model.session import pad_batch, start_session


@dataclass(frozen=True)
class ParityCase:
    """One way to run a file: a batch size and a picture size."""

    batch: int
    height: int = SIZE
    width: int = SIZE
    faces: int | None = 256
    """How many faces of the split are used, from the first on; None: all."""
    colour: bool = False
    """Whether three of four faces are tinted, so that their channels differ."""

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
"""The cases in which `export`, `verify` and the tests run every file: those of FER2013's size with faces of any size,
see `cases_for`. The first has each face once."""
MAXIMUM_CASE_PIXELS = 4_000_000
"""Pixels in a batch of faces of their own size, at most: 256 of 125x125."""

TOLERANCES: Mapping[str, float] = MappingProxyType({"fp32": 1e-5, "fp16": 5e-3})
"""Largest difference of a probability that is allowed, by precision. int8 is checked by its accuracy and by INT8_MEAN
instead."""
HALF_FLIPS = 0.001
"""Share of the faces whose most probable class may change in fp16; one face always may."""
INT8_LOSS = 0.005
"""Largest loss of validation accuracy that int8 may cost, as a share of the faces."""
INT8_MEAN = 0.05
"""Largest mean difference of int8's probabilities in any case. It also covers what accuracy can't: other picture sizes,
and faces without labels. Released files reach .013 at most; another network's answers differ by .2."""
RANK_MARGIN = 1e-4
"""Ranks are compared only where no two probabilities of a member are closer than this."""


@dataclass(frozen=True)
class CaseResult:
    """How much a file differed from PyTorch in one case."""

    case: ParityCase
    faces: int
    max_difference: float
    """Of any probability of any face."""
    mean_difference: float
    flips: tuple[int, ...]
    """Rows, in the split's source, of the faces whose most probable class differs."""
    uncompared: int = 0
    """Faces whose ranks were not compared: a member gives two classes nearly the same probability."""

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
    """The figures of a file that passed the check."""

    faces_from: str
    """Where the faces come from: a split's name, or "drawn faces"."""
    tolerance: float | None
    """Largest difference that was allowed; None for int8."""
    cases: tuple[CaseResult, ...]
    accuracy: float
    """The file's accuracy on the faces of the first case, 0 to 1."""
    reference_accuracy: float
    """PyTorch's accuracy on the same faces."""
    engine: str = f"onnxruntime {onnxruntime.__version__}"
    reference: str = f"torch {torch.__version__.split('+')[0]}"

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
    check_accuracy: bool = True,
) -> Parity:
    """Compare an ONNX file with the classifier that it was exported from.

    Args:
        content: the file's bytes.
        classifier: as trained, its batch norms not folded.
        faces: the validation split, or drawn faces: squares of one size, see `sized`.
        faces_from: the split's name, for the record.
        precision: the file's; it decides the tolerance.
        shape: the axes that the file fixes; only cases of that shape are run.
        progress: called before each case.
        reference: the classifier's probabilities, where an earlier check has computed them.
        check_accuracy: also check int8's accuracy. False for faces that the runs were not trained for.

    Raises:
        ParityError: file and PyTorch differ by more than the tolerance, int8 loses too much accuracy, or every face
            gets the same probabilities.
        ModelFileError, ExportError: ONNX Runtime can't load the file, or can't run it, or there are no faces.
    """
    if not len(faces):
        raise ExportError("there is no face to compare the file on")
    progress = progress or (lambda *_: None)
    cases = cases_for(shape, size=faces.images.shape[1])
    reference = reference or Reference(classifier, faces)
    run = _Engine(content, members=classifier.fusion == "rrf" and precision != "int8")
    results: list[CaseResult] = []
    accuracy = expected_accuracy = 0.0
    for number, case in enumerate(cases):
        progress(f"parity, {case}", number, len(cases))
        expected = reference.members(case)
        outputs = run(case, faces, len(expected))
        result = compare_case(case, outputs, expected, classifier, rows=faces.rows, precision=precision)
        results.append(result)
        if number == 0:  # each face once
            _check_variety(outputs[0], faces_from)
            accuracy, expected_accuracy = accuracy_of(outputs[0], faces), accuracy_of(reference.fused(case), faces)
            if precision == "fp16":
                check_flips(result, faces_from)
            elif precision == "int8" and check_accuracy:
                _check_loss(accuracy, expected_accuracy, faces_from)
        _check_mean(result, precision)
    progress("parity", len(cases), len(cases))
    return Parity(
        faces_from=faces_from,
        tolerance=TOLERANCES.get(precision),
        cases=tuple(results),
        accuracy=accuracy,
        reference_accuracy=expected_accuracy,
    )


def _check_mean(result: CaseResult, precision: str) -> None:
    if precision == "int8" and result.mean_difference > INT8_MEAN:
        raise ParityError(
            f"{result.case}: int8's probabilities are {result.mean_difference:.3f} from PyTorch's on average; "
            f"{INT8_MEAN:g} is allowed"
        )


def _check_variety(answers: NDArray[np.float32], faces_from: str) -> None:
    if len(answers) > 1 and not np.ptp(answers, axis=0).any():
        raise ParityError(
            f"all {len(answers):,} faces ({faces_from}) get the same probabilities: the networks have learned nothing, "
            "or a run's record is damaged"
        )


def check_flips(result: CaseResult, faces_from: str) -> None:
    """ParityError if fp16 changes the most probable class of more faces than HALF_FLIPS allows."""
    flips, allowed = len(result.flips), max(1, int(HALF_FLIPS * result.faces))
    if flips > allowed:
        raise ParityError(
            f"fp16 changes the most probable class of {flips} of {result.faces:,} faces ({faces_from}); "
            f"{allowed} are allowed"
        )


def _check_loss(accuracy: float, expected: float, faces_from: str) -> None:
    if expected - accuracy > INT8_LOSS:
        raise ParityError(
            f"int8 loses {100 * (expected - accuracy):.2f} points of accuracy on {faces_from} "
            f"({accuracy:.4f} against {expected:.4f}); at most {100 * INT8_LOSS:g} are allowed"
        )


def accuracy_of(probabilities: NDArray[np.float32], faces: Faces) -> float:
    """Share of `faces` whose label has the largest of its probabilities (n, classes)."""
    return float((probabilities.argmax(axis=1) == faces.labels[: len(probabilities)]).mean())


def answers_of(content: bytes, faces: Faces, *, progress: Progress | None = None) -> NDArray[np.float32]:
    """A file's probabilities of `faces`, float32 (n, classes), each at its own size or the size that the file fixes."""
    session = start_session(content)
    batch, height, width = (axis if isinstance(axis, int) else None for axis in session.get_inputs()[0].shape[:3])
    answers: list[NDArray[np.float32]] = []
    places: list[NDArray[np.int64]] = []
    done = 0
    for indices, images in faces.by_shape():
        size = (height or images.shape[1], width or images.shape[2])
        at_once = batch or max(1, min(256, MAXIMUM_CASE_PIXELS // math.prod(size)))
        places.append(indices)
        for pictures in pictures_of(images, ParityCase(at_once, *size, faces=None)):
            if progress:
                progress("scoring the file", done, len(faces))
            answers.append(run_session(session, pictures)[0])
            done += len(pictures)
    joined = np.concatenate(answers)
    ordered = np.empty_like(joined)
    ordered[np.concatenate(places)] = joined
    return ordered


def sized(faces: Faces, size: int) -> Faces:
    """The faces as a network of the input size `size` sees them in training: squares of one size."""
    return Faces(faces.at(size), faces.labels, faces.rows, faces.votes, classes=faces.classes)


def cases_for(shape: Shape, *, size: int = SIZE) -> tuple[ParityCase, ...]:
    """The cases in which a file with these fixed axes can run, for faces of `size` pixels in height and width."""
    batch, height, width = shape
    if shape == DYNAMIC:
        most = max(1, MAXIMUM_CASE_PIXELS // size**2)
        return tuple(
            replace(case, batch=min(case.batch, most), height=size, width=size)
            if (case.height, case.width) == (SIZE, SIZE)
            else case
            for case in PARITY_CASES
        )
    return (
        ParityCase(batch=batch or 64, height=height or size, width=width or size, faces=None),
        ParityCase(batch=batch or 7, height=height or 224, width=width or 224, colour=True),
    )


def run_session(session: onnxruntime.InferenceSession, pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """All outputs of a session for `pictures`, uint8 (n, h, w, 3). ExportError when the file can't run."""
    axis = session.get_inputs()[0].shape[0]
    batch = axis if isinstance(axis, int) else None
    try:
        outputs = session.run(None, {INPUT_NAME: pad_batch(pictures, batch)})
    except Exception as error:
        raise ExportError(f"ONNX Runtime can't run the file on {pictures.shape}: {one_line(error)}") from error
    return [output[: len(pictures)] for output in outputs]


class Reference:
    """PyTorch's probabilities of each case's faces, computed once for all batch sizes and precisions."""

    def __init__(self, classifier: FaceClassifier, faces: Faces, *, progress: Progress | None = None) -> None:
        self._classifier = classifier
        self._faces = faces
        self._progress = progress
        self._known: dict[tuple[int, int, int | None, bool], list[NDArray[np.float32]]] = {}

    @property
    def whole(self) -> ParityCase:
        """The case that has each face once, at its own size."""
        return cases_for(DYNAMIC, size=self._faces.images.shape[1])[0]

    def members(self, case: ParityCase) -> list[NDArray[np.float32]]:
        """Each member's probabilities of the case's faces, float32 (n, classes)."""
        key = (case.height, case.width, case.faces, case.colour)
        if key not in self._known:
            at_once = max(1, min(256, 4_000_000 // (case.height * case.width)))
            batches: list[list[NDArray[np.float32]]] = []
            total = min(len(self._faces), case.faces or len(self._faces))
            with torch.inference_mode():
                for pictures in pictures_of(self._faces.images, case, batch=at_once):
                    if self._progress:
                        self._progress("computing PyTorch's answers", len(batches) * at_once, total)
                    answers = self._classifier.plane_probabilities(self._planes(pictures, case))
                    batches.append([answer.numpy() for answer in answers])
            self._known[key] = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        return self._known[key]

    def _planes(self, pictures: NDArray[np.uint8], case: ParityCase) -> dict[int, Tensor]:
        """The networks' input. A grey face of their own size bypasses our resize, as in training."""
        planes = self._classifier.planes_of(torch.from_numpy(pictures))
        if not case.colour and case.height == case.width and case.height in planes:
            planes[case.height] = torch.from_numpy(pictures[:, None, :, :, 0].astype(np.float32) / HALF_RANGE - 1)
        return planes

    def fused(self, case: ParityCase) -> NDArray[np.float32]:
        """The classifier's probabilities of the case's faces, float32 (n, classes)."""
        return _fused(self._classifier, self.members(case))


def pictures_of(
    images: NDArray[np.uint8], case: ParityCase, *, batch: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The case's pictures, uint8 (n, height, width, 3), in batches of the case's own size or of `batch`.

    The faces, uint8 (n, h, w), are resized with Pillow and, with `colour`, tinted by their position, so that the
    pictures are the same each time. The last batch may be smaller.
    """
    count = min(len(images), case.faces or len(images))
    step = batch or case.batch
    for start in range(0, count, step):
        grey = resized(images[start : min(start + step, count)], height=case.height, width=case.width)
        pictures = np.repeat(grey[..., None], 3, axis=3)
        if case.colour:
            tints = _TINTS[np.arange(start, start + len(grey)) % len(_TINTS)]
            pictures = np.rint(pictures * tints[:, None, None, :]).astype(np.uint8)
        yield pictures


def resized(images: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
    """Grey faces, uint8 (n, h, w), resized with Pillow to uint8 (n, height, width), or unchanged if they fit."""
    if (height, width) == images.shape[1:]:
        return images
    return np.stack([resize(face, height, width) for face in images])


_TINTS = np.array([[1, 1, 1], [1, 0.8, 0.6], [0.5, 1, 0.7], [0.7, 0.4, 1]], np.float32)


class _Engine:
    """The file in plain ONNX Runtime, at its default optimisation level."""

    def __init__(self, content: bytes, *, members: bool) -> None:
        if members:
            content = show_members(onnx.load_from_string(content)).SerializeToString()
        self._members = members
        self._session = start_session(content)

    def __call__(self, case: ParityCase, faces: Faces, members: int) -> list[NDArray[np.float32]]:
        """The file's probabilities (n, classes) of the case's faces, then each member's where they are outputs."""
        batches = [run_session(self._session, pictures) for pictures in pictures_of(faces.images, case)]
        joined = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        if self._members and len(joined) != 1 + members:
            raise ParityError(f"the file has {len(joined) - 1} members, and the runs are {members}")
        return joined


def compare_case(
    case: ParityCase,
    outputs: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
    classifier: FaceClassifier,
    *,
    rows: NDArray[np.int64],
    precision: str,
) -> CaseResult:
    """Compare a file's outputs in a case with PyTorch's.

    Args:
        case: how the file was run.
        outputs: the file's probabilities (n, classes), then each member's if the fusion is by ranks.
        expected: PyTorch's probabilities of each member.
        classifier: fuses them.
        rows: the faces' rows in the split's source, for errors.
        precision: decides the tolerance.

    Raises:
        ParityError: the file differs too much from PyTorch.
    """
    tolerance = TOLERANCES.get(precision, math.inf)
    fused = _fused(classifier, expected)
    compared = np.ones(len(fused), bool)
    if classifier.fusion == "rrf":
        # ranks jump where two probabilities of a member change places, which rounding may do
        gaps = [np.diff(np.sort(member, axis=1), axis=1).min(axis=1) for member in expected]
        margin = max(RANK_MARGIN, 2 * tolerance) if math.isfinite(tolerance) else RANK_MARGIN
        compared = np.min(gaps, axis=0) > margin
    _check_answers(f"{case}: a probability", outputs[0], fused, compared, rows, tolerance)
    for member, answers, reference in zip(classifier.members, outputs[1:], expected, strict=False):  # of a rank fusion
        all_faces = np.ones(len(reference), bool)
        _check_answers(f"{case}: a probability of member {member.name}", answers, reference, all_faces, rows, tolerance)
    flipped = outputs[0].argmax(axis=1) != fused.argmax(axis=1)
    first, second = np.sort(fused, axis=1)[:, -1], np.sort(fused, axis=1)[:, -2]
    clear_flips = flipped & compared & (first - second > tolerance)
    if clear_flips.any():
        raise ParityError(
            f"{case}: the most probable class differs from PyTorch's (row {rows[: len(clear_flips)][clear_flips][0]}) "
            f"where it leads by more than {tolerance:g}"
        )
    difference = np.abs(outputs[0] - fused)[compared]
    return CaseResult(
        case=case,
        faces=len(fused),
        max_difference=float(difference.max(initial=0)),
        mean_difference=float(difference.mean()) if difference.size else 0.0,
        flips=tuple(int(row) for row in rows[: len(flipped)][flipped]),
        uncompared=int((~compared).sum()),
    )


def _check_answers(
    what: str,
    answers: NDArray[np.float32],
    reference: NDArray[np.float32],
    compared: NDArray[np.bool_],
    rows: NDArray[np.int64],
    tolerance: float,
) -> None:
    """ParityError unless `answers` have the reference's shape, are finite, and are near it in the faces `compared`."""
    if answers.shape != reference.shape or answers.dtype != np.float32:
        raise ParityError(f"{what}: expected float32 {reference.shape}, got {answers.dtype} {answers.shape}")
    rows = rows[: len(answers)]
    finite = np.isfinite(answers).all(axis=1)
    if not finite.all():
        raise ParityError(f"{what} is not a number (row {rows[~finite][0]})")
    difference = np.abs(answers - reference)[compared]
    if difference.size and difference.max() > tolerance:
        row = rows[compared][int(difference.max(axis=1).argmax())]
        raise ParityError(f"{what} is {difference.max():.2e} from PyTorch's (row {row}); {tolerance:g} is allowed")


def _fused(classifier: FaceClassifier, members: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    with torch.inference_mode():
        fused: NDArray[np.float32] = classifier.fuse([torch.from_numpy(member) for member in members]).numpy()
    return fused
