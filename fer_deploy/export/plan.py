"""What goes into one file: the runs, their weights in the fusion, and the file's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fer_deploy.ensemble import (
    FUSIONS,
    MIRROR,
    AdaptiveTemperature,
    Fusion,
    Weights,
    default_weights,
    ensemble_name,
    search_weights,
    split_member,
)
from fer_deploy.errors import ExportError, RunError, printable
from fer_deploy.export import Progress
from fer_deploy.export.graph import FaceClassifier, Member
from fer_deploy.export.parity import Reference, sized
from fer_deploy.faces.dataset import Dataset
from fer_deploy.model.contract import ModelContract
from fer_deploy.model.names import PRECISIONS
from fer_deploy.training.record import required
from fer_deploy.training.run import Run
from fer_deploy.training.targets import with_ferplus_labels

TEMPERATURES = (0.05, 20.0)
"""The range of `ensemble.fit_temperature`. Another temperature is a damaged record: an infinite one, for example, would
make every answer uniform."""
SEARCH_STEP = 0.05
"""Step of the search for fusion weights, for up to four members."""
COARSE_SEARCH_STEP = 0.1
"""The step from five members on: in steps of .05 five weights have 10,626 combinations, in steps of .1 1,001."""

FER2013_LICENSE = "Apache-2.0 (code); weights for research use, see the data's terms"
"""The licence of files whose runs learned from FER2013 alone, unless another is stated."""
MAXIMUM_LICENSE = 200
"""Characters of a licence."""

FER2013_NAME = r"FER2013(, \d+% of its training faces)?( with FER\+ labels)?"
"""How a record or a file's `trained_on` names FER2013. Other data whose name begins so is not FER2013."""

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


@dataclass(frozen=True, eq=False)
class PlannedMember:
    """A run that goes into a file, and whether it sees the mirrored face."""

    run: Run
    mirrored: bool = False
    fitted: float | None = None
    """Overrides the run's temperature when a file exported with a different one is verified. None: the run's."""

    @property
    def name(self) -> str:
        """`B`, or `B~mirror`."""
        return self.run.name + (MIRROR if self.mirrored else "")

    @property
    def temperature(self) -> float:
        """Divides the logits before the softmax. ExportError for a file's if not in TEMPERATURES."""
        least, most = TEMPERATURES
        if self.fitted is None:
            return self.run.temperature  # checked when the record was read
        if not least <= self.fitted <= most:
            raise ExportError(f"the file's temperature {self.fitted} of {self.name} is not in {least} to {most}")
        return self.fitted


@dataclass(frozen=True, eq=False)
class Plan:
    """What goes into one file."""

    members: tuple[PlannedMember, ...]
    weights: Weights
    fusion: Fusion = "wap"
    called: str | None = None
    """The file's stem, where it differs from the members' names."""
    calibration: AdaptiveTemperature | None = None
    """Applied to the fused probabilities, as the last step."""
    stated_license: str | None = None
    """The licence of the weights as their owner states it; None where nothing was stated."""

    def __post_init__(self) -> None:
        first, *others = self.members
        for other in others:
            if other.run.labels != first.run.labels:
                raise ExportError(
                    f"{first.name} and {other.name} have different labels, so they can't be fused: "
                    f"{listed(first.run.labels)}; {listed(other.run.labels)}"
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of all members, in the order of the file's output."""
        return self.members[0].run.labels

    @property
    def name(self) -> str:
        """The file's stem: `B`, `B+E`, `B+E.rrf`."""
        return self.called or ensemble_name([member.name for member in self.members], fusion=self.fusion)

    def renamed(self, name: str) -> Plan:
        """The same plan for a file with another stem. ExportError if `name` is not a valid stem."""
        if not _STEM.fullmatch(name) or name.endswith(tuple(f".{precision}" for precision in PRECISIONS)):
            raise ExportError(
                f"a file can't be called {name!r}: use letters, digits and . _ + ~ -, no precision at the end"
            )
        return replace(self, called=name)

    def licensed(self, text: str) -> Plan:
        """The same plan with a licence: an SPDX identifier or any text of one line. ExportError for other text."""
        if not 1 <= len(text.strip()) <= MAXIMUM_LICENSE or not text.isprintable():
            raise ExportError(f"a licence is one line of 1 to {MAXIMUM_LICENSE} printable characters: {text[:40]!r}")
        return replace(self, stated_license=text.strip())

    @property
    def license(self) -> str | None:
        """The stated licence, else that of weights learned from FER2013 alone, else None: nothing is claimed."""
        if self.stated_license is None and all(is_fer2013(data_name(member.run)) for member in self.members):
            return FER2013_LICENSE
        return self.stated_license

    @property
    def gflops(self) -> float:
        """Multiply-adds of all members, fvcore's count at 1x1x48x48, in units of 1e9. RunError if a record lacks it."""
        runs = [member.run for member in self.members]
        return sum(float(required(run.record, "gflops", run.folder / "run.json")) for run in runs)

    @property
    def learned_ferplus(self) -> bool:
        """Whether any member learned FER+ votes. Such a file is scored on FER+ labels, never as FER2013."""
        return any(member.run.recipe.labels == "ferplus" for member in self.members)

    def classifier(self) -> FaceClassifier:
        """The torch module with the networks as trained. A run that appears twice is loaded once."""
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


def plan_run(name: str, *, workspace: Path) -> Plan:
    """The plan for the file of one run of the workspace, `B`, or of its view of mirrored faces, `B~mirror`.

    Raises:
        RunError: the workspace has no such complete run.
    """
    return Plan((_planned_member(name, workspace=workspace),), Weights((1.0,), "alone"))


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
        names: runs of the workspace, in order; `B~mirror` is run B on the mirrored face.
        workspace: holds `training/`.
        weights: one per member, in any proportion. Default: the study's weights for its own ensembles, else equal ones.
        fusion: `wap` or `rrf`.
        data: its validation split is used by `search`.
        search: search the weights, in steps of .05 (.1 from five members on).
        progress: called while the members' probabilities are computed.

    Raises:
        ExportError: fewer than two members, a member named twice, members with different labels, weights that do not
            fit, or a search without data.
        RunError: a member is not a complete run of the workspace.
    """
    if len(names) < 2:
        raise ExportError(f"an ensemble needs two members or more, got {', '.join(names) or 'none'}")
    if len(set(names)) < len(names):
        raise ExportError(f"an ensemble names each member once, got {', '.join(names)}")
    members = tuple(_planned_member(name, workspace=workspace) for name in names)
    chosen = default_weights(names, fusion=fusion)
    if weights is not None:
        if len(weights) != len(names):
            raise ExportError(f"{len(names)} members need as many weights, got {len(weights)}")
        try:
            chosen = Weights.of(weights, source="given")
        except ValueError as error:
            raise ExportError(str(error)) from None
    plan = Plan(members, chosen, fusion)
    if not search:
        return plan
    if data is None:
        raise ExportError("--search needs faces: give --data, or set $FERDEPLOY_DATA")
    check_labels_of(data, plan)
    return replace(plan, weights=_searched_weights(plan, data, progress=progress))


def _searched_weights(plan: Plan, data: Dataset, *, progress: Progress | None) -> Weights:
    """The fusion weights with the best accuracy on the validation split."""
    faces = data.validation
    if plan.learned_ferplus:
        faces = with_ferplus_labels(faces) or faces
    classifier = plan.classifier()
    reference = Reference(classifier, sized(faces, classifier.input_size), progress=progress)
    probabilities = reference.members(reference.whole)
    step = SEARCH_STEP if len(plan.members) < 5 else COARSE_SEARCH_STEP
    source = f"searched on {data.split_names['validation']}"
    return search_weights(probabilities, faces.labels, step=step, fusion=plan.fusion, source=source)


def plan_of_file(contract: ModelContract, *, workspace: Path) -> Plan:
    """The plan that a file's metadata describes, with the runs of `workspace`.

    Raises:
        ExportError: the metadata describes none, or a run's weights have changed since the export.
        RunError: a run is missing or damaged.
    """
    fusion = next((known for known in FUSIONS if known == contract.metadata.get("fusion", "wap")), None)
    if fusion is None:
        raise ExportError(f"the file's fusion {contract.metadata['fusion']!r} is none of {', '.join(FUSIONS)}")
    members = [_planned_member(name, workspace=workspace) for name in contract.members]
    try:
        weights = Weights.of(contract.weights, source=contract.metadata.get("weights_source", "the file"))
    except ValueError as error:
        raise ExportError(f"the file's metadata is damaged: {error}") from None
    if contract.temperatures:
        members = [
            replace(member, fitted=temperature)
            for member, temperature in zip(members, contract.temperatures, strict=True)
        ]
    recorded = contract.weights_sha256
    if "weights_sha256" in contract.metadata and len(recorded) != len(members):
        raise ExportError("the file's metadata is damaged: it needs one `weights_sha256` for each of its `members`")
    for member, sha256 in zip(members, recorded, strict=False):
        if member.run.weights_sha256 != sha256:
            raise ExportError(
                f"{member.run.folder} has other weights now than when the file was exported: export it again"
            )
    plan = Plan(tuple(members), weights, fusion, calibration=contract.calibration)
    if plan.labels != contract.labels:
        raise ExportError(
            f"the file's labels are {listed(contract.labels)}, and those of its runs {listed(plan.labels)}: "
            "export it again"
        )
    return plan


def data_name(run: Run) -> str:
    """The name of the data that a run was trained on."""
    return str((run.record.get("data") or {}).get("name", "unknown"))


def is_fer2013(name: str) -> bool:
    """Whether a data set's name is FER2013's, whole or with a share of its training faces."""
    return re.fullmatch(FER2013_NAME, name) is not None


def check_labels_of(data: Dataset, plan: Plan) -> None:
    """ExportError if the data has other labels than the plan, or the same in another order."""
    if data.labels != plan.labels:
        raise ExportError(
            f"{plan.name} has the labels {listed(plan.labels)}, and {data.name} {listed(data.labels)}: give the data "
            "that it was trained on, with the same --labels"
        )


def _planned_member(name: str, *, workspace: Path) -> PlannedMember:
    """The member `B` or `B~mirror`. A run folder that is itself called `B~mirror` takes precedence."""
    folder = workspace / "training"
    run, mirrored = split_member(name)
    if mirrored and not (folder / name).is_dir():
        return PlannedMember(Run.open(_run_folder(folder, run)), mirrored=True)
    return PlannedMember(Run.open(_run_folder(folder, name)))


def listed(labels: Sequence[str]) -> str:
    """Labels for an error: a few at most."""
    shown = ", ".join(printable(label) for label in labels[:12])
    return f"{shown} and {len(labels) - 12} more" if len(labels) > 12 else shown


def _run_folder(folder: Path, name: str) -> Path:
    if not name or Path(name).name != name or name.startswith(".") or not name.isprintable():
        raise RunError(f"{name!r} is not the name of a run: name a folder of {folder}")
    return folder / name
