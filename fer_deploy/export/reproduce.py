"""From a file back to the runs it was exported from, to hold the one against the other again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fer_deploy.ensemble import FUSIONS, Weights
from fer_deploy.errors import ExportError
from fer_deploy.export.export import DRAWN_FACES, Plan, planned_member
from fer_deploy.export.parity import Parity, Progress, check_parity
from fer_deploy.faces.synthetic import synthetic_faces
from fer_deploy.model.contract import ModelContract

if TYPE_CHECKING:
    from fer_deploy.faces.dataset import Dataset


def plan_of_file(contract: ModelContract, *, workspace: Path) -> Plan:
    """The plan that a file's metadata describes, with the runs of `workspace`.

    Raises:
        ExportError: the metadata describes none, or a run has other weights now than when the file was exported.
        RunError: a run is missing or damaged.
    """
    fusion = next((known for known in FUSIONS if known == contract.metadata.get("fusion", "wap")), None)
    if fusion is None:
        raise ExportError(f"the file's fusion {contract.metadata['fusion']!r} is none of {', '.join(FUSIONS)}")
    members = [planned_member(name, workspace=workspace) for name in contract.members]
    try:
        weights = Weights.of(contract.weights, source=contract.metadata.get("weights_source", "the file"))
        recorded = json.loads(contract.metadata.get("weights_sha256", "[]"))
    except ValueError as error:
        raise ExportError(f"the file's metadata is damaged: {error}") from None
    if contract.temperatures:
        members = [
            replace(member, fitted=temperature)
            for member, temperature in zip(members, contract.temperatures, strict=True)
        ]
    for member, sha256 in zip(members, recorded, strict=False):
        if member.run.weights_sha256 != sha256:
            raise ExportError(
                f"{member.run.folder} has other weights now than when the file was exported: export it again"
            )
    return Plan(tuple(members), weights, fusion, calibration=contract.calibration)


def parity_of_file(
    content: bytes,
    contract: ModelContract,
    *,
    workspace: Path,
    data: Dataset | None = None,
    progress: Progress | None = None,
) -> Parity:
    """The gate of `export` for a file that is there: ParityError when it doesn't pass, and as `plan_of_file`."""
    plan = plan_of_file(contract, workspace=workspace)
    if data is None:
        faces, faces_from = synthetic_faces(DRAWN_FACES, seed=2), "drawn faces"
    else:
        faces, faces_from = data.validation, data.split_names["validation"]
    return check_parity(
        content,
        plan.classifier(),
        faces,
        faces_from=faces_from,
        precision=contract.precision,
        shape=contract.shape,
        progress=progress,
        gate_accuracy=data is not None,
    )
