"""Verify an exported file: its contract, its answers, its bytes, its golden vectors, and its parity with the runs.

Everything but parity needs numpy and ONNX Runtime alone; torch is imported only if the runs are present.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fer_deploy.ensemble import member_runs
from fer_deploy.errors import FerDeployError, ModelFileError, install
from fer_deploy.export import Progress
from fer_deploy.export.golden import GOLDEN_TOLERANCES, draw_golden_inputs, fits, read_golden_input
from fer_deploy.export.manifest import MANIFEST, FileRecord, Manifest, read_manifest
from fer_deploy.faces.synthetic import colour_faces
from fer_deploy.model.contract import ModelContract, read_model_file
from fer_deploy.model.names import Shape
from fer_deploy.model.session import Model
from fer_deploy.training.record import has_record

if TYPE_CHECKING:
    from fer_deploy.export.parity import Parity
    from fer_deploy.faces.dataset import Dataset

Status = Literal["ok", "failed", "skipped"]
Verdict = Literal["failed", "proven", "sound but unproven"]

TRIAL_SHAPE = (3, 61, 45)
"""Faces, height and width of the trial pictures, on axes that the file does not fix."""
TRIAL_BATCH = 7
"""Faces of the largest trial batch, for a file that takes any number. Of a larger batch so many also run alone."""
MAXIMUM_TRIAL_PIXELS = 50_000_000
"""A file that fixes its input to more pixels is not run, and fails: the engine would need gigabytes."""


@dataclass(frozen=True)
class Check:
    """One check of a file and its outcome."""

    name: str
    status: Status
    detail: str
    """Figures, or the reason for a failure or for skipping."""


@dataclass(frozen=True, eq=False)
class Verification:
    """The outcome of all checks of a file."""

    path: Path
    contract: ModelContract | None
    """None if the file was refused."""
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    @property
    def skipped(self) -> tuple[Check, ...]:
        """The checks that could not be made."""
        return tuple(check for check in self.checks if check.status == "skipped")

    @property
    def verdict(self) -> Verdict:
        """`proven` if every check was made and passed; `sound but unproven` if none failed but some were skipped."""
        if self.failed:
            return "failed"
        return "sound but unproven" if self.skipped else "proven"


def verify_file(
    path: Path,
    *,
    workspace: Path | None = None,
    data: Dataset | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Make every check that is possible. A check that fails does not raise.

    Args:
        path: the ONNX file; `manifest.json` and `golden/` are expected in the same folder.
        workspace: holds `training/` with the runs. Default: the parent of the file's folder.
        data: faces for the parity with the runs. Default: drawn faces.
        progress: called during the parity check.
    """
    try:
        content, contract = read_model_file(path)
    except ModelFileError as error:
        return Verification(path, None, (Check("contract", "failed", str(error)),))
    shape = " x ".join("any" if axis is None else str(axis) for axis in contract.shape)
    detail = (
        f"{contract.name}, {contract.precision}, {len(contract.labels)} labels, opset {contract.opset}, "
        f"IR {contract.ir_version}, {sum(contract.operators.values())} nodes, batch x height x width: {shape}"
    )
    checks = [Check("contract", "ok", detail)]
    try:
        model = Model(content, contract)
        checks.append(Check("answers", "ok", _try_out(model)))
    except FerDeployError as error:
        # Whatever the manifest and the runs say, a file that does not answer is of no use to anyone.
        return Verification(path, contract, (*checks, Check("answers", "failed", str(error))))
    checks += _check_against_manifest(model, path)
    checks.append(_check_parity(content, contract, workspace or path.resolve().parent.parent, data, progress))
    return Verification(path, contract, tuple(checks))


def _try_out(model: Model) -> str:
    """Run a file on drawn pictures of several sizes and batches. ModelFileError unless it answers as a classifier does.

    `Model` checks the shape, the range and the sum of the probabilities. Here each face must also get the answer that
    it gets alone, and different pictures must not all get the same answer.
    """
    tolerance = GOLDEN_TOLERANCES[model.contract.precision]
    answers: list[NDArray[np.float32]] = []
    sizes: set[tuple[int, int]] = set()
    batches: set[int] = set()
    for pictures in _trial_pictures(model.contract.shape):
        together = model(pictures)
        # A file with a fixed batch is filled up with copies of the face.
        alone = np.concatenate([model(pictures[face : face + 1]) for face in range(min(len(pictures), TRIAL_BATCH))])
        difference = float(np.abs(together[: len(alone)] - alone).max())
        if difference > tolerance:
            raise ModelFileError(
                f"a face in a batch of {len(pictures)} at {pictures.shape[1]}x{pictures.shape[2]} gets probabilities "
                f"that are {difference:.2e} from those it gets alone; {tolerance:g} is allowed"
            )
        answers.append(alone)
        sizes.add(pictures.shape[1:3])
        batches.add(len(pictures))
    joined = np.concatenate(answers)
    if not np.ptp(joined, axis=0).any():
        raise ModelFileError(f"all {len(joined)} pictures get the same probabilities: the file does not look at them")
    counts = sorted(batches | {1})
    return f"{len(joined)} pictures, {len(sizes)} picture sizes, batches of {', '.join(map(str, counts))}"


def _trial_pictures(shape: Shape) -> Iterator[NDArray[np.uint8]]:
    """Pictures that a file with these fixed axes takes: the golden inputs, and batches of its own shape."""
    batch, height, width = (fixed or free for fixed, free in zip(shape, TRIAL_SHAPE, strict=True))
    if math.prod((batch, height, width)) > MAXIMUM_TRIAL_PIXELS:
        raise ModelFileError(
            f"it fixes its input to {batch}x{height}x{width}, more than the {MAXIMUM_TRIAL_PIXELS:,} pixels "
            "on which a file is run here"
        )
    for golden in draw_golden_inputs():
        if fits(golden.pictures.shape, shape):
            yield golden.pictures
    # Two draws, so that even a file of one fixed shape, a batch of 1, is given different pictures.
    for seed in (101, 102):
        yield colour_faces([(seed + face) % 7 for face in range(batch)], height=height, width=width, seed=seed)
    # Black and white pictures: a division by their contrast, or its logarithm, is not finite.
    for level in (0, 255):
        yield np.full((batch, height, width, 3), level, np.uint8)
    if shape[0] is None:
        yield colour_faces([face % 7 for face in range(TRIAL_BATCH)], height=height, width=width, seed=103)


def _check_against_manifest(model: Model, path: Path) -> list[Check]:
    """The checks of the file's bytes and golden vectors. A damaged manifest is a failure, a missing one is not."""
    names = ("sha256", "golden vectors")
    try:
        manifest = read_manifest(path.parent)
        record = manifest.entry(path.name) if manifest else None
    except ModelFileError as error:
        return [Check("manifest", "failed", str(error)), *(Check(name, "skipped", "no manifest") for name in names)]
    if manifest is None or record is None:
        problem = f"{path.parent / MANIFEST} {'has no entry of it' if manifest else 'does not exist'}"
        return [Check(name, "skipped", problem) for name in names]
    return [_check_bytes(model.contract, record), _check_golden(model, manifest, record, path.parent)]


def _check_bytes(contract: ModelContract, record: FileRecord) -> Check:
    if record.labels != contract.labels:
        return Check("sha256", "failed", "the manifest records other labels than the file's: export it again")
    if record.sha256 == contract.sha256:
        return Check("sha256", "ok", f"{contract.sha256[:16]}…, {contract.bytes:,} bytes")
    return Check(
        "sha256",
        "failed",
        f"the manifest records {record.sha256[:16]}…, the file has {contract.sha256[:16]}…: it was changed "
        "after its export, or belongs to another manifest",
    )


def _check_golden(model: Model, manifest: Manifest, record: FileRecord, folder: Path) -> Check:
    name = "golden vectors"
    try:
        figures = _replay(model, manifest, record, folder)
    except FerDeployError as error:
        return Check(name, "failed", str(error))
    if figures is None:
        return Check(name, "skipped", "none has the file's fixed shape")
    return Check(name, "ok", figures)


def _replay(model: Model, manifest: Manifest, record: FileRecord, folder: Path) -> str | None:
    """The figures, or None if no vector has the file's shape. ModelFileError if an answer differs."""
    worst, replayed = 0.0, 0
    for described in manifest.golden:
        if not fits(described.shape, model.contract.shape):
            continue
        golden = read_golden_input(folder, described)
        if golden.file not in record.outputs:
            raise ModelFileError(f"the manifest has no recorded output for {golden.file}")
        expected, answers = record.outputs[golden.file], model(golden.pictures)
        if answers.shape != expected.shape:
            raise ModelFileError(f"{golden.file}: expected {expected.shape} probabilities, got {answers.shape}")
        difference = float(np.abs(answers - expected).max())
        if not difference <= record.tolerance:
            raise ModelFileError(
                f"{golden.file}: a probability is {difference:.2e} from the recorded one; "
                f"{record.tolerance:g} is allowed"
            )
        worst, replayed = max(worst, difference), replayed + 1
    if not replayed:
        return None
    return f"{replayed} inputs, largest difference {worst:.1e} ({record.tolerance:g} allowed)"


def parity_of_file(
    content: bytes,
    contract: ModelContract,
    *,
    workspace: Path,
    data: Dataset | None = None,
    progress: Progress | None = None,
) -> Parity:
    """Repeat the parity check of `export` on a finished file.

    Raises:
        ParityError: the file differs from its runs by more than the tolerance.
        ExportError: the metadata describes no plan, or a run's weights have changed since the export.
        RunError: a run is missing or damaged.
    """
    from fer_deploy.export.parity import check_parity
    from fer_deploy.export.plan import plan_of_file
    from fer_deploy.export.write import parity_faces

    classifier = plan_of_file(contract, workspace=workspace).classifier()
    faces, faces_from = parity_faces(data, size=classifier.input_size)
    return check_parity(
        content,
        classifier,
        faces,
        faces_from=faces_from,
        precision=contract.precision,
        shape=contract.shape,
        progress=progress,
        check_accuracy=data is not None and data.labels == contract.labels,
    )


def _check_parity(
    content: bytes,
    contract: ModelContract,
    workspace: Path,
    data: Dataset | None,
    progress: Progress | None,
) -> Check:
    name = "parity with the runs"
    runs = member_runs(contract.members)
    training = workspace / "training"
    missing = [run for run in runs if not has_record(training / run)]
    if not runs:
        return Check(name, "skipped", "the file does not name its members")
    if missing:
        where = os.path.relpath(training)
        return Check(name, "skipped", f"{where} has no run {', '.join(missing)}: --workspace names another folder")
    absent = next((package for package in ("torch", "timm", "onnx") if find_spec(package) is None), None)
    if absent:
        return Check(name, "skipped", f"{absent} is not installed: {install('train')}")
    try:
        from fer_deploy.export.parity import INT8_LOSS, INT8_MEAN

        parity = parity_of_file(content, contract, workspace=workspace, data=data, progress=progress)
    except FerDeployError as error:
        return Check(name, "failed", str(error))
    allowed = f"{parity.tolerance:g}" if parity.tolerance is not None else f"{INT8_MEAN:g} on average"
    if parity.tolerance is None and data is not None:
        allowed += f" and {100 * INT8_LOSS:g} points of accuracy"
    return Check(
        name,
        "ok",
        f"{parity.whole.faces:,} faces ({parity.faces_from}), {len(parity.cases)} batch and picture sizes: largest "
        f"difference {parity.max_difference:.1e} ({allowed} allowed), {len(parity.whole.flips)} flips",
    )
