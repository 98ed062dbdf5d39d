"""Runs to ONNX files: plan, build, prove, move into place, record."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import fer_deploy
from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import (
    MIRROR,
    AdaptiveTemperature,
    Fusion,
    Weights,
    default_weights,
    ensemble_name,
    fit_adaptive_temperature,
    search_weights,
    split_member,
)
from fer_deploy.errors import ExportError, ModelFileError, ParityError, RunError
from fer_deploy.export.build import build_model
from fer_deploy.export.engine import run_whole, session_of
from fer_deploy.export.golden import GOLDEN_TOLERANCES, draw_golden_inputs, fits
from fer_deploy.export.graph import FaceClassifier, Member
from fer_deploy.export.manifest import read_manifest, record_file
from fer_deploy.export.parity import PARITY_CASES, Parity, ParityCase, Progress, Reference, check_parity, pictures_of
from fer_deploy.export.precision import CALIBRATION_FACES, PAIR_LIMIT, race, search_int8, to_fp16
from fer_deploy.export.tune import tune_for_int8
from fer_deploy.faces.dataset import SIZE, Dataset, Faces
from fer_deploy.faces.synthetic import synthetic_faces
from fer_deploy.files import replacing
from fer_deploy.model.contract import INPUT_NAME, check_model_bytes
from fer_deploy.model.names import DYNAMIC, PRECISIONS, ModelName, Shape
from fer_deploy.training.run import Run
from fer_deploy.training.targets import with_ferplus_labels

LICENSE = "Apache-2.0"
"""Of code and weights. The data that the weights were trained on has terms of its own."""
DRAWN_FACES = 256
"""Synthetic faces on which parity is checked where there is no data."""

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")

Warn = Callable[[str], None]
"""Told in a line what a person should know of a file that is written all the same."""


@dataclass(frozen=True, eq=False)
class PlannedMember:
    """A run that goes into a file, and whether it is shown the mirrored face."""

    run: Run
    mirrored: bool = False
    fitted: float | None = None
    """The temperature of a file that was written with another than the run's own; None: the run's own."""

    @property
    def name(self) -> str:
        """`B`, or `B~mirror`."""
        return self.run.name + (MIRROR if self.mirrored else "")

    @property
    def temperature(self) -> float:
        """What the logits are divided by before the softmax."""
        return self.run.temperature if self.fitted is None else self.fitted


@dataclass(frozen=True, eq=False)
class Plan:
    """What goes into one file."""

    members: tuple[PlannedMember, ...]
    weights: Weights
    fusion: Fusion = "wap"
    called: str | None = None
    """The file's stem where it is not what its members are called."""
    calibration: AdaptiveTemperature | None = None
    """What the fused answer goes through last."""

    @property
    def name(self) -> str:
        """`B`, `B+E`, `B+E.rrf`: the file's stem."""
        return self.called or ensemble_name([member.name for member in self.members], fusion=self.fusion)

    def renamed(self, name: str) -> Plan:
        """The same plan for a file with another stem. ExportError when a file can't be called that."""
        if not _STEM.fullmatch(name) or name.endswith(tuple(f".{precision}" for precision in PRECISIONS)):
            raise ExportError(
                f"a file can't be called {name!r}: use letters, digits and . _ + ~ -, no precision at the end"
            )
        return replace(self, called=name)

    @property
    def gflops(self) -> float:
        """Multiply-adds of all members, fvcore's count at 1x1x48x48, in units of 1e9."""
        return float(sum(member.run.record["gflops"] for member in self.members))

    def classifier(self) -> FaceClassifier:
        """The torch module, its networks as they were trained. A run that appears twice is loaded once."""
        networks: dict[str, Any] = {}
        members = []
        for member in self.members:
            run = member.run
            if run.name not in networks:
                networks[run.name] = run.network()
            members.append(
                Member(
                    member.name,
                    networks[run.name],
                    input_size=run.input_size,
                    temperature=member.temperature,
                    mirrored=member.mirrored,
                )
            )
        return FaceClassifier(members, weights=self.weights, fusion=self.fusion, calibration=self.calibration)


@dataclass(frozen=True, eq=False)
class ExportedFile:
    """A file that was written, and what is known of it."""

    path: Path
    name: str
    precision: str
    sha256: str
    bytes: int
    nodes: int
    members: tuple[str, ...]
    weights: Weights
    fusion: Fusion
    gflops: float
    parity: Parity
    accuracy: float | None
    """Of the file itself on the test split; None where there was no data."""
    accuracy_split: str | None
    note: str = ""
    """What else a person should see of it: how an int8 file was made, and how much faster it is."""


def plan_run(name: str, *, workspace: Path) -> Plan:
    """The plan for the file of one run of the workspace, `B`, or of its view of mirrored faces, `B~mirror`.

    RunError when there is no such complete run.
    """
    return Plan((planned_member(name, workspace=workspace),), Weights((1.0,), "alone"))


def plan_ensemble(
    names: Sequence[str],
    *,
    workspace: Path,
    weights: Sequence[float] | None = None,
    fusion: Fusion = "wap",
    data: Dataset | None = None,
    search: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """The plan for the fused file of several runs.

    Args:
        names: runs of the workspace, in order; `B~mirror` is run B shown the mirrored face.
        workspace: holds `training/`.
        weights: one a member, in any proportion. By default the study's for the study's own ensembles, else equal.
        fusion: `wap` or `rrf`.
        data: on whose validation split `search` searches.
        search: search the weights, in steps of .05 (.1 from five members on).
        progress: told how far the members have answered, where they are asked.

    Raises:
        ExportError: fewer than two members, one twice, or weights that don't fit.
        RunError: a member is no complete run of the workspace.
    """
    if len(names) < 2:
        raise ExportError(f"an ensemble needs two members or more, got {', '.join(names) or 'none'}")
    if len(set(names)) < len(names):
        raise ExportError(f"an ensemble names each member once, got {', '.join(names)}")
    members = tuple(planned_member(name, workspace=workspace) for name in names)
    chosen = default_weights(names, fusion=fusion)
    if weights is not None:
        if len(weights) != len(names):
            raise ExportError(f"{len(names)} members need as many weights, got {len(weights)}")
        try:
            chosen = Weights.of(weights, source="given")
        except ValueError as error:
            raise ExportError(str(error)) from None
    plan = Plan(members, chosen, fusion)
    if data is None or not search:
        return plan
    faces = data.validation
    if _learned_ferplus(plan):
        faces = with_ferplus_labels(faces) or faces
    probabilities = Reference(plan.classifier(), faces, progress=progress).members(PARITY_CASES[0])
    source = f"searched on {data.split_names['validation']}"
    step = 0.05 if len(names) < 5 else 0.1
    return replace(plan, weights=search_weights(probabilities, faces.labels, step=step, fusion=fusion, source=source))


def planned_member(name: str, *, workspace: Path) -> PlannedMember:
    """The member called `name`, `B` or `B~mirror`. RunError when the workspace has no such complete run."""
    folder = workspace / "training"
    run, mirrored = split_member(name)
    if mirrored and not (folder / name).is_dir():
        return PlannedMember(Run.open(_run_folder(folder, run)), mirrored=True)
    return PlannedMember(Run.open(_run_folder(folder, name)))


def _run_folder(folder: Path, name: str) -> Path:
    if not name or Path(name).name != name or name.startswith("."):
        raise RunError(f"{name!r} is not the name of a run: name a folder of {folder}")
    return folder / name


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
    """Write the plan's file in each precision, each only once it has passed its gate, and record it in the manifest.

    Args:
        plan: what goes into the file.
        folder: the exports' folder.
        precisions: of PRECISIONS.
        data: real faces: parity runs on the validation split, the test split is scored for the record, int8 is
            calibrated on the training split. Where it is FER2013, an average's adaptive temperature is fitted on the
            validation split, unless the plan has one. (On drawn faces hardly an answer is wrong, and the temperature
            would magnify rounding beyond parity's bound.) Without data parity runs on drawn faces, and nothing is
            scored.
        shape: axes to fix.
        tune_epochs: of fine-tuning for int8 on the training split, see `fer_deploy.export.tune`; 0 is none.
        progress: told how far the work is.
        warn: told what a person should know; may raise to stop.
        on_refusal: told of a file that did not pass its gate, and the other precisions go on. None raises.

    Raises:
        ParityError: a file does not say what PyTorch says. No file is written, and an older one stays as it was.
        ExportError: a file can't be written as asked.
        ModelFileError: the folder's manifest is damaged.
    """
    warn = warn or (lambda _: None)
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown:
        raise ExportError(f"there is no precision {unknown[0]!r}: choose from {', '.join(PRECISIONS)}")
    if "int8" in precisions:
        _check_int8(data, shape)
    read_manifest(folder)  # a damaged one is found before minutes of work
    if data is None:
        faces, faces_from = synthetic_faces(DRAWN_FACES, seed=2), "drawn faces"
        missed = "accuracy is not measured" + (", and no temperature is fitted" if plan.fusion == "wap" else "")
        warn(f"{plan.name}: without --data, parity is checked on drawn faces, {missed}")
    else:
        faces, faces_from = data.validation, data.split_names["validation"]
    for member, weight in zip(plan.members, plan.weights.values, strict=True):
        if weight == 0:
            warn(f"{plan.name}: {member.name} has weight 0, so it costs time and changes nothing: export without it")
    classifier = plan.classifier()
    reference = Reference(classifier, faces, progress=progress)
    if data is not None and data.official and plan.fusion == "wap" and plan.calibration is None:
        plan = replace(plan, calibration=_fit_calibration(plan, reference, faces))
        classifier.calibration = plan.calibration
    if progress:
        progress(f"exporting {plan.name}", 0, 1)
    built = build_model(classifier, shape=shape)
    files = []
    for precision in precisions:
        try:
            tuned = None
            if precision == "int8" and tune_epochs:
                assert data is not None  # _check_int8
                better = tune_for_int8(classifier, data.clean_training, epochs=tune_epochs, progress=progress)
                tuned = build_model(better, shape=shape, fold=False)
            model, how = _in_precision(built, precision, data=data, shape=shape, tuned=tuned, progress=progress)
            if tuned is not None:
                how["int8"]["tuned_epochs"] = tune_epochs
            files.append(
                _write_file(
                    plan,
                    model,
                    how,
                    folder=folder,
                    precision=precision,
                    data=data,
                    faces=faces,
                    faces_from=faces_from,
                    shape=shape,
                    classifier=classifier,
                    reference=reference,
                    progress=progress,
                )
            )
        except ParityError as error:
            refusal = ParityError(f"{ModelName(plan.name, shape, precision).file_name} is not written: {error}")
            if on_refusal is None:
                raise refusal from error
            on_refusal(refusal)
    return files


def _check_int8(data: Dataset | None, shape: Shape) -> None:
    """ExportError when int8 can't be written whatever the network."""
    if data is None:
        raise ExportError("int8 is calibrated on faces: give --data, or set $FERDEPLOY_DATA")
    if shape[1:] not in ((None, None), (SIZE, SIZE)):
        raise ExportError("int8 is calibrated on 48x48 faces: leave height and width free, or fix them to 48x48")


def _in_precision(
    model: onnx.ModelProto,
    precision: str,
    *,
    data: Dataset | None,
    shape: Shape,
    tuned: onnx.ModelProto | None,
    progress: Progress | None,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model in a precision, and what the manifest keeps of how that was done."""
    if precision == "fp16":
        return to_fp16(model), {}
    if precision == "fp32":
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy, {}
    assert data is not None  # _check_int8
    found = search_int8(
        model, calibration=data.clean_training, validation=data.validation, tuned=tuned, progress=progress
    )
    names = {
        "fp32": model.SerializeToString(deterministic=True),
        "int8": found.model.SerializeToString(deterministic=True),
    }
    batch = shape[0] or 1
    taken = race(names, batch=batch)
    if taken["int8"] >= taken["fp32"]:
        raise ParityError(
            f"int8 takes {taken['int8']:.3f} ms and fp32 {taken['fp32']:.3f} ms on this machine: it would gain nothing"
        )
    return found.model, {
        "int8": {
            "per_channel": found.chosen.settings.per_channel,
            "float_layers": list(found.chosen.settings.float_layers),
            "weights": f"signed 8-bit, any two of an output together at most {PAIR_LIMIT}",
            "calibrated_on": f"{CALIBRATION_FACES} faces of {data.split_names['training']}",
            f"batch_{batch}_ms": {name: round(value, 4) for name, value in taken.items()},
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
    }


def _int8_note(how: Mapping[str, Any], *, batch: int) -> str:
    """How an int8 file was made and what it gains, in a line."""
    taken = how[f"batch_{batch}_ms"]
    layers = len(how["float_layers"])
    return (
        f"scales per {'channel' if how['per_channel'] else 'tensor'}, "
        f"{f'{layers} sensitive layers in float, ' if layers else ''}"
        f"{taken['fp32'] / taken['int8']:.2f} x as fast as fp32 ({taken['int8']:.2f} ms, {taken['fp32']:.2f} ms; "
        f"batch {batch}, 1 thread, {how['processor']})"
    )


def _write_file(
    plan: Plan,
    model: onnx.ModelProto,
    how: Mapping[str, Any],
    *,
    folder: Path,
    precision: str,
    data: Dataset | None,
    faces: Faces,
    faces_from: str,
    shape: Shape,
    classifier: FaceClassifier,
    reference: Reference,
    progress: Progress | None,
) -> ExportedFile:
    name = ModelName(plan.name, shape, precision).file_name
    metadata = _metadata(plan, precision)
    accuracy = split = None
    if data is not None:
        session = session_of(model.SerializeToString(deterministic=True))
        split = data.split_names["test"] if data.official else f"test split of {data.name}"
        scored: Faces | None = data.test
        if _learned_ferplus(plan):
            scored, split = with_ferplus_labels(data.test), f"{split}, FER+ labels"
        if scored is not None:
            accuracy = _accuracy(session, scored, batch=shape[0], size=shape[1:], progress=progress)
            metadata |= {"accuracy": f"{accuracy:.6f}", "accuracy_split": split}
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    path = folder / name
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        written = temporary.read_bytes()
        try:
            contract = check_model_bytes(written, source=name)
        except ModelFileError as error:
            raise ExportError(f"what was exported breaks the contract: {error}") from error
        parity = check_parity(
            written,
            classifier,
            faces,
            faces_from=faces_from,
            precision=precision,
            shape=shape,
            progress=progress,
            reference=reference,
        )
        golden = _golden_outputs(written, shape)
    exported = ExportedFile(
        path=path,
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
        accuracy=accuracy,
        accuracy_split=split,
        note=_int8_note(how["int8"], batch=shape[0] or 1) if "int8" in how else "",
    )
    record_file(folder, name, {**_entry(exported, plan, golden), **how})
    return exported


def _metadata(plan: Plan, precision: str) -> dict[str, str]:
    """The file's `metadata_props`, by key."""
    runs = [member.run for member in plan.members]
    trained_on = dict.fromkeys(
        str(run.record.get("data", {}).get("name", "unknown"))
        + (" with FER+ labels" if run.recipe.labels == "ferplus" else "")
        for run in runs
    )
    return {
        "labels": json.dumps(list(EMOTIONS)),
        "name": plan.name,
        "members": json.dumps([member.name for member in plan.members]),
        "weights": json.dumps(list(plan.weights.values)),
        "weights_source": plan.weights.source,
        "fusion": plan.fusion,
        "temperatures": json.dumps([member.temperature for member in plan.members]),
        **({"adaptive_temperature": json.dumps([how.base, how.slope])} if (how := plan.calibration) else {}),
        "precision": precision,
        "gflops": f"{plan.gflops:.6f}",
        "trained_on": ", ".join(trained_on),
        "weights_sha256": json.dumps([run.weights_sha256 for run in runs]),
        "license": LICENSE,
        "ferdeploy_version": fer_deploy.__version__,
        # ONNX's own keys for pictures: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
    }


def _fit_calibration(plan: Plan, reference: Reference, faces: Faces) -> AdaptiveTemperature | None:
    """The adaptive temperature of these validation faces; None for a FER+ variant whose faces have no votes."""
    fused = reference.fused(PARITY_CASES[0])
    if not _learned_ferplus(plan):
        return fit_adaptive_temperature(fused, faces.labels)
    voted = with_ferplus_labels(faces)
    if voted is None:
        return None
    return fit_adaptive_temperature(fused[np.isin(faces.rows, voted.rows)], voted.labels)


def _learned_ferplus(plan: Plan) -> bool:
    """Whether any member learned FER+ votes: such a file is scored on FER+ labels and never as FER2013."""
    return any(member.run.recipe.labels == "ferplus" for member in plan.members)


def _accuracy(
    session: Any,
    faces: Faces,
    *,
    batch: int | None = None,
    size: tuple[int | None, int | None] = (None, None),
    progress: Progress | None = None,
) -> float:
    """Share of `faces` that the file in `session` gets right."""
    case = ParityCase(batch=batch or 256, height=size[0] or 48, width=size[1] or 48, faces=None)
    right = 0
    done = 0
    for pictures in pictures_of(faces, case):
        answers = run_whole(session, pictures, batch=batch)[0]
        right += int((answers.argmax(axis=1) == faces.labels[done : done + len(answers)]).sum())
        done += len(answers)
        if progress:
            progress("scoring the file", done, len(faces))
    return right / len(faces)


def _golden_outputs(content: bytes, shape: Shape) -> Mapping[str, NDArray[np.float32]]:
    """What the file says of each golden input that it can take."""
    session = session_of(content)
    return {
        golden.file: session.run(None, {INPUT_NAME: golden.pictures})[0]
        for golden in draw_golden_inputs()
        if fits(golden.pictures, shape)
    }


def _entry(exported: ExportedFile, plan: Plan, golden: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """The file's entry in the manifest."""
    return {
        "name": exported.name,
        "precision": exported.precision,
        "sha256": exported.sha256,
        "bytes": exported.bytes,
        "nodes": exported.nodes,
        "members": list(exported.members),
        "weights": list(exported.weights.values),
        "weights_source": exported.weights.source,
        "fusion": exported.fusion,
        "gflops": round(exported.gflops, 6),
        "weights_sha256": [member.run.weights_sha256 for member in plan.members],
        "accuracy": exported.accuracy,
        "accuracy_split": exported.accuracy_split,
        "parity": exported.parity.as_dict(),
        "golden": {
            "tolerance": GOLDEN_TOLERANCES[exported.precision],
            "outputs": {
                file: [[float(f"{value:.9g}") for value in row] for row in rows] for file, rows in golden.items()
            },
        },
    }
