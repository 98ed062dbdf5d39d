"""A plan to its files: build, quantise, compare with PyTorch, move into place, record in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from fer_deploy.ensemble import AdaptiveTemperature, fit_adaptive_temperature
from fer_deploy.errors import ExportError, ModelFileError, ParityError
from fer_deploy.export import Progress
from fer_deploy.export.build import build_model
from fer_deploy.export.golden import draw_golden_inputs, fits
from fer_deploy.export.graph import FaceClassifier
from fer_deploy.export.int8.quantise import PAIR_LIMIT
from fer_deploy.export.int8.race import describe_race, race
from fer_deploy.export.int8.search import CALIBRATION_FACES, Int8Result, search_int8, spread
from fer_deploy.export.int8.tune import tune_for_int8
from fer_deploy.export.manifest import publish, read_manifest
from fer_deploy.export.metadata import ExportedFile, FileQuality, file_metadata, manifest_entry
from fer_deploy.export.parity import (
    Parity,
    Reference,
    answers_of,
    check_parity,
    sized,
)
from fer_deploy.export.passes import run_passes
from fer_deploy.export.passes.half import store_half
from fer_deploy.export.plan import Plan, check_labels_of
from fer_deploy.faces.dataset import Dataset, Faces
from fer_deploy.faces.synthetic import synthetic_faces
from fer_deploy.model.contract import INPUT_NAME, check_model_bytes
from fer_deploy.model.names import DYNAMIC, PRECISIONS, ModelName, Shape
from fer_deploy.model.session import start_session
from fer_deploy.training.targets import with_ferplus_labels

DRAWN_FACES = 256
"""Synthetic faces on which parity is checked where there is no data."""

Warn = Callable[[str], None]
"""Called with a warning of one line about a file that is written nevertheless."""


@dataclass(frozen=True, eq=False)
class Gate:
    """What each precision of a plan must pass: the faces, PyTorch's answers to them, and how the file may be run."""

    plan: Plan
    classifier: FaceClassifier
    """As trained, its batch norms not folded."""
    reference: Reference
    """PyTorch's probabilities, computed once for all precisions."""
    faces: Faces
    faces_from: str
    """The split's name, for the record."""
    data: Dataset | None
    shape: Shape
    progress: Progress | None

    @classmethod
    def of(cls, plan: Plan, *, data: Dataset | None, shape: Shape, progress: Progress | None) -> Self:
        """The gate for a plan's files. Fits the adaptive temperature on official data, unless the plan has one."""
        classifier = plan.classifier()
        faces, faces_from = parity_faces(data, size=classifier.input_size)
        reference = Reference(classifier, faces, progress=progress)
        # On drawn faces almost every answer is right: a temperature fitted to them would magnify rounding errors
        # beyond parity's tolerance.
        if plan.calibration is None and _is_calibrated(plan, data):
            plan = replace(plan, calibration=_fit_calibration(plan, reference, faces))
            classifier.calibration = plan.calibration
        return cls(plan, classifier, reference, faces, faces_from, data, shape, progress)

    def check(self, content: bytes, precision: str) -> Parity:
        """Compare a file with PyTorch. ParityError if they differ too much."""
        return check_parity(
            content,
            self.classifier,
            self.faces,
            faces_from=self.faces_from,
            precision=precision,
            shape=self.shape,
            progress=self.progress,
            reference=self.reference,
        )


def parity_faces(data: Dataset | None, *, size: int) -> tuple[Faces, str]:
    """The faces that parity is checked on, and where they come from: the validation split, or drawn faces.

    `size` is the networks' input size: faces of other sizes than one square are resized to it.
    """
    if data is None:
        return synthetic_faces(DRAWN_FACES, seed=2), "drawn faces"
    return sized(data.validation, size), data.split_names["validation"]


def export_plan(
    plan: Plan,
    *,
    folder: Path,
    precisions: Sequence[str] = ("fp32",),
    data: Dataset | None = None,
    shape: Shape = DYNAMIC,
    tune_epochs: int = 0,
    progress: Progress | None = None,
    warn: Warn | None = None,
    on_refusal: Callable[[ParityError], None] | None = None,
) -> list[ExportedFile]:
    """Write the plan's file in each precision, each only after it passed its checks, and record it in the manifest.

    Args:
        plan: what goes into the file.
        folder: the exports folder.
        precisions: of PRECISIONS.
        data: real faces. Parity is checked on the validation split, the file is scored on the test split, and int8 is
            calibrated on the training split. With FER2013 a weighted average also gets an adaptive temperature, fitted
            on the validation split. Without data, parity is checked on drawn faces and nothing is scored.
        shape: axes to fix.
        tune_epochs: epochs of fine-tuning for int8 on the training split, see `int8.tune`; 0 is none.
        progress: called as the work advances.
        warn: called with each warning; may raise to stop.
        on_refusal: called when a file fails its checks; the other precisions are still written. None: raise.

    Raises:
        ParityError: a file differs from PyTorch. It is not written, and an older file of that name is left unchanged.
        ExportError: a file can't be written as requested, or the data has other labels than the runs.
        ModelFileError: the folder's manifest is damaged.
    """
    _check_request(plan, precisions, data=data)
    read_manifest(folder)  # find a damaged one before minutes of work
    for warning in _warnings(plan, data):
        if warn:
            warn(warning)
    gate = Gate.of(plan, data=data, shape=shape, progress=progress)
    if progress:
        progress(f"exporting {plan.name}", 0, 1)
    built = build_model(gate.classifier, shape=shape)
    files = []
    for precision in precisions:
        try:
            model, details, note = _in_precision(built, precision, gate, tune_epochs=tune_epochs)
            files.append(_write_file(model, gate, folder=folder, precision=precision, details=details, note=note))
        except ParityError as error:
            refusal = ParityError(f"{ModelName(plan.name, shape, precision).file_name} is not written: {error}")
            if on_refusal is None:
                raise refusal from error
            on_refusal(refusal)
    return files


def _check_request(plan: Plan, precisions: Sequence[str], *, data: Dataset | None) -> None:
    """ExportError for what can't be written, whatever the network."""
    if data is not None:
        check_labels_of(data, plan)
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown:
        raise ExportError(f"there is no precision {unknown[0]!r}: choose from {', '.join(PRECISIONS)}")
    if "int8" not in precisions:
        return
    if data is None:
        raise ExportError("int8 is calibrated on faces: give --data, or set $FERDEPLOY_DATA")


def _warnings(plan: Plan, data: Dataset | None) -> list[str]:
    """What a user should know about a plan's file before it is written."""
    warnings = []
    if data is None:
        missing = "accuracy is not measured" + (", and no temperature is fitted" if plan.fusion == "wap" else "")
        warnings.append(f"{plan.name}: without --data, parity is checked on drawn faces, {missing}")
    for member, weight in zip(plan.members, plan.weights.values, strict=True):
        if weight == 0:
            warnings.append(
                f"{plan.name}: {member.name} has weight 0, so it costs time and changes nothing: export without it"
            )
    for member in plan.members:
        if member.fitted is None and not member.run.record.get("temperature") and not _is_calibrated(plan, data):
            warnings.append(f"{plan.name}: {member.name} has no temperature, so its probabilities are not calibrated")
        recorded = member.run.record.get("data") or {}
        if data and recorded.get("name") == data.name and recorded.get("sha256", data.sha256) != data.sha256:
            warnings.append(
                f"{plan.name}: {data.name} has other faces, labels or splits than when {member.run.name} was trained, "
                "so faces that it learned from may be scored: give the same --labels and --split"
            )
    return warnings


def _is_calibrated(plan: Plan, data: Dataset | None) -> bool:
    """Whether the files of a plan end in an adaptive temperature."""
    return plan.calibration is not None or (data is not None and data.official and plan.fusion == "wap")


def _in_precision(
    built: onnx.ModelProto, precision: str, gate: Gate, *, tune_epochs: int
) -> tuple[onnx.ModelProto, dict[str, Any], str]:
    """The model in a precision, details for the manifest, and a note for the user."""
    if precision == "int8":
        return _quantised(built, gate, tune_epochs=tune_epochs)
    model = onnx.ModelProto()
    model.CopyFrom(built)
    return run_passes(model, (store_half,) if precision == "fp16" else ()), {}, ""


def _quantised(built: onnx.ModelProto, gate: Gate, *, tune_epochs: int) -> tuple[onnx.ModelProto, dict[str, Any], str]:
    """The int8 model with its details and note. ParityError where int8 loses too much, or is no faster."""
    data, progress = gate.data, gate.progress
    assert data is not None  # _check_request
    tuned, size = None, gate.classifier.input_size
    training = data.clean_training
    if tune_epochs:
        better = tune_for_int8(gate.classifier, sized(training, size), epochs=tune_epochs, progress=progress)
        tuned = build_model(better, shape=gate.shape, fold=False)
    calibration = sized(training.take(spread(len(training), CALIBRATION_FACES)), size)
    found = search_int8(built, calibration=calibration, validation=gate.faces, tuned=tuned, progress=progress)
    batch, height, width = gate.shape[0] or 1, *(fixed or calibration.images.shape[1] for fixed in gate.shape[1:])
    contents = {
        "fp32": built.SerializeToString(deterministic=True),
        "int8": found.model.SerializeToString(deterministic=True),
    }
    milliseconds = race(contents, batch=batch, size=(height, width))
    if milliseconds["int8"] >= milliseconds["fp32"]:
        raise ParityError(
            f"int8 takes {milliseconds['int8']:.3f} ms and fp32 {milliseconds['fp32']:.3f} ms on this machine: "
            "it would gain nothing"
        )
    details = _int8_details(found, milliseconds, batch=batch, calibrated_on=data.split_names["training"])
    if tune_epochs:
        details["tuned_epochs"] = tune_epochs
    settings = found.chosen.settings
    layers = f"{len(settings.float_layers)} sensitive layers in float, " if settings.float_layers else ""
    scales = f"scales per {'channel' if settings.per_channel else 'tensor'}, "
    speed = describe_race(milliseconds, batch=batch, processor=found.exact.processor)
    return found.model, {"int8": details}, scales + layers + speed


def _int8_details(
    found: Int8Result, milliseconds: dict[str, float], *, batch: int, calibrated_on: str
) -> dict[str, Any]:
    """How an int8 file was made, for the manifest."""
    return {
        "per_channel": found.chosen.settings.per_channel,
        "float_layers": list(found.chosen.settings.float_layers),
        "weights": f"signed 8-bit, any two of an output together at most {PAIR_LIMIT}",
        "calibrated_on": f"{CALIBRATION_FACES} faces of {calibrated_on}",
        f"batch_{batch}_ms": {name: round(value, 4) for name, value in milliseconds.items()},
        "processor": found.exact.processor,
        "exact": found.exact.as_dict(),
        "tried": [
            {
                "per_channel": attempt.settings.per_channel,
                "float_layers": len(attempt.settings.float_layers),
                "accuracy": attempt.accuracy,
                "mean_difference": attempt.difference,
            }
            for attempt in found.tried
        ],
    }


def _write_file(
    model: onnx.ModelProto, gate: Gate, *, folder: Path, precision: str, details: dict[str, Any], note: str
) -> ExportedFile:
    """Score the model, check it, move it into place and record it. Nothing is written before all checks passed."""
    plan = gate.plan
    name = ModelName(plan.name, gate.shape, precision).file_name
    metadata = file_metadata(plan, precision)
    quality, split = _score(model, gate)
    if quality is not None:
        metadata |= {"accuracy": f"{quality.accuracy:.6f}", "accuracy_split": str(split)}
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    try:
        contract = check_model_bytes(content, source=name)
    except ModelFileError as error:
        raise ExportError(f"what was exported breaks the contract: {error}") from error
    parity = gate.check(content, precision)
    golden = _golden_outputs(content, gate.shape)
    exported = ExportedFile(
        path=folder / name,
        name=plan.name,
        precision=precision,
        sha256=contract.sha256,
        bytes=contract.bytes,
        nodes=sum(contract.operators.values()),
        members=tuple(member.name for member in plan.members),
        weights=plan.weights,
        fusion=plan.fusion,
        gflops=plan.gflops,
        parity=parity,
        quality=quality,
        accuracy_split=split,
        note=note,
    )
    publish(folder, name, content, {**manifest_entry(exported, plan, golden), **details})
    return exported


def _score(model: onnx.ModelProto, gate: Gate) -> tuple[FileQuality | None, str | None]:
    """The model's quality on the test split and the split's name. No quality where the faces have no FER+ votes."""
    data = gate.data
    if data is None:
        return None, None
    split = data.split_names["test"] if data.official else f"test split of {data.name}"
    faces: Faces | None = data.test
    if gate.plan.learned_ferplus:
        faces, split = with_ferplus_labels(data.test), f"{split}, FER+ labels"
    if faces is None:
        return None, split
    content = model.SerializeToString(deterministic=True)
    return FileQuality.of(answers_of(content, faces, progress=gate.progress), faces.labels), split


def _fit_calibration(plan: Plan, reference: Reference, faces: Faces) -> AdaptiveTemperature | None:
    """The adaptive temperature for these validation faces; None for a FER+ variant whose faces have no votes."""
    fused = reference.fused(reference.whole)
    if not plan.learned_ferplus:
        return fit_adaptive_temperature(fused, faces.labels)
    voted = with_ferplus_labels(faces)
    if voted is None:
        return None
    return fit_adaptive_temperature(fused[np.isin(faces.rows, voted.rows)], voted.labels)


def _golden_outputs(content: bytes, shape: Shape) -> dict[str, NDArray[np.float32]]:
    """The file's probabilities for each golden input that it takes, by the input's file name."""
    session = start_session(content)
    return {
        golden.file: session.run(None, {INPUT_NAME: golden.pictures})[0]
        for golden in draw_golden_inputs()
        if fits(golden.pictures.shape, shape)
    }
