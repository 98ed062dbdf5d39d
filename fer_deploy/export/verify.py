"""Prove an exported file again: its contract, its bytes, its golden vectors, and its parity with the runs.

All but the last need numpy and ONNX Runtime alone; torch is imported only where the runs are there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fer_deploy.ensemble import member_runs
from fer_deploy.errors import FerDeployError, ModelFileError, install
from fer_deploy.export import Progress
from fer_deploy.export.golden import fits, read_golden_input
from fer_deploy.export.manifest import MANIFEST, read_manifest
from fer_deploy.model.contract import ModelContract, read_model_file
from fer_deploy.model.session import Model

if TYPE_CHECKING:
    from fer_deploy.export.parity import Parity
    from fer_deploy.faces.dataset import Dataset

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what came of it."""

    name: str
    status: Status
    detail: str
    """Figures, or why it failed or was skipped."""


@dataclass(frozen=True, eq=False)
class Verification:
    """What is known of a file after all checks."""

    path: Path
    contract: ModelContract | None
    """None when the file was refused."""
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    @property
    def skipped(self) -> tuple[Check, ...]:
        """The checks that could not be made."""
        return tuple(check for check in self.checks if check.status == "skipped")


def verify_file(
    path: Path,
    *,
    workspace: Path | None = None,
    data: Dataset | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check a file, and say of each check what came of it. A check that fails does not raise.

    Args:
        path: the ONNX file; `manifest.json` and `golden/` are looked for beside it.
        workspace: holds `training/` with the runs; by default the folder above the file's.
        data: faces for the parity with the runs; drawn ones by default.
        progress: told how far the parity is.
    """
    checks: list[Check] = []
    try:
        content, contract = read_model_file(path)
    except ModelFileError as error:
        return Verification(path, None, (Check("contract", "failed", str(error)),))
    shape = "x".join("any" if axis is None else str(axis) for axis in contract.shape)
    checks.append(
        Check(
            "contract",
            "ok",
            f"{contract.name}, {contract.precision}, opset {contract.opset}, IR {contract.ir_version}, "
            f"{sum(contract.operators.values())} nodes, batch x height x width: {shape}",
        )
    )
    try:
        manifest = read_manifest(path.parent)
        entry = (manifest or {}).get("files", {}).get(path.name)
        problem = "" if entry else f"{path.parent / MANIFEST} {'has no entry of it' if manifest else 'is not there'}"
    except ModelFileError as error:
        manifest, entry, problem = None, None, str(error)
    if manifest is None or entry is None:
        checks += [Check(name, "skipped", problem) for name in ("sha256", "golden vectors")]
    else:
        checks.append(_check_bytes(contract, entry))
        checks.append(_check_golden(content, contract, manifest, entry, path.parent))
    checks.append(_check_parity(content, contract, workspace or path.resolve().parent.parent, data, progress))
    return Verification(path, contract, tuple(checks))


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

    faces, faces_from = parity_faces(data)
    return check_parity(
        content,
        plan_of_file(contract, workspace=workspace).classifier(),
        faces,
        faces_from=faces_from,
        precision=contract.precision,
        shape=contract.shape,
        progress=progress,
        check_accuracy=data is not None,
    )


def _check_bytes(contract: ModelContract, entry: dict[str, Any]) -> Check:
    if entry.get("sha256") == contract.sha256:
        return Check("sha256", "ok", f"{contract.sha256[:16]}…, {contract.bytes:,} bytes")
    return Check(
        "sha256",
        "failed",
        f"the manifest records {str(entry.get('sha256'))[:16]}…, the file has {contract.sha256[:16]}…: it was changed "
        "after its export, or belongs to another manifest",
    )


def _check_golden(
    content: bytes, contract: ModelContract, manifest: dict[str, Any], entry: dict[str, Any], folder: Path
) -> Check:
    name = "golden vectors"
    try:
        figures = _replay(content, contract, manifest, entry, folder)
    except FerDeployError as error:
        return Check(name, "failed", str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Check(name, "failed", f"{folder / MANIFEST} is damaged ({error!r}): export again")
    if figures is None:
        return Check(name, "skipped", "none has the file's fixed shape")
    return Check(name, "ok", figures)


def _replay(
    content: bytes, contract: ModelContract, manifest: dict[str, Any], entry: dict[str, Any], folder: Path
) -> str | None:
    """The figures, or None where no vector has the file's shape; raises where the file says something else."""
    model = Model(content, contract)
    outputs, tolerance = entry["golden"]["outputs"], float(entry["golden"]["tolerance"])
    worst, replayed = 0.0, 0
    for described in manifest["golden"]:
        if not fits(np.empty([*described["shape"], 0], np.uint8), contract.shape):
            continue
        golden = read_golden_input(folder, described)
        if golden.file not in outputs:
            raise ModelFileError(f"the manifest has no recorded output for {golden.file}")
        expected = np.asarray(outputs[golden.file], np.float32)
        found = model(golden.pictures)
        if found.shape != expected.shape:
            raise ModelFileError(f"{golden.file}: expected {expected.shape} probabilities, got {found.shape}")
        difference = float(np.abs(found - expected).max())
        if not difference <= tolerance:
            raise ModelFileError(
                f"{golden.file}: a probability is {difference:.2e} from the recorded one; {tolerance:g} is allowed"
            )
        worst, replayed = max(worst, difference), replayed + 1
    if not replayed:
        return None
    return f"{replayed} inputs, largest difference {worst:.1e} ({tolerance:g} allowed)"


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
    missing = [run for run in runs if not (training / run / "run.json").is_file()]
    if not runs:
        return Check(name, "skipped", "the file does not name its members")
    if missing:
        shown = os.path.relpath(training)
        return Check(name, "skipped", f"{shown} has no run {', '.join(missing)}: --workspace names another folder")
    absent = next((package for package in ("torch", "timm", "onnx") if find_spec(package) is None), None)
    if absent:
        return Check(name, "skipped", f"{absent} is not installed: {install('train')}")
    try:
        from fer_deploy.export.parity import INT8_MEAN

        parity = parity_of_file(content, contract, workspace=workspace, data=data, progress=progress)
    except FerDeployError as error:
        return Check(name, "failed", str(error))
    held = f"{INT8_MEAN:g} on average" + (" and no loss of accuracy" if data is not None else "")
    allowed = f"{held} allowed" if parity.tolerance is None else f"{parity.tolerance:g} allowed"
    return Check(
        name,
        "ok",
        f"{parity.whole.faces:,} faces ({parity.faces_from}), {len(parity.cases)} batch and picture sizes: largest "
        f"difference {parity.max_difference:.1e} ({allowed}), {len(parity.whole.flips)} flips",
    )
