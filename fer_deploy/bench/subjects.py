"""The models to measure: exported files, runs without a file, and other projects' ONNX files with an adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from fer_deploy.bench.adapters import Adapter, find_adapter
from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import split_member
from fer_deploy.errors import FerDeployError, MeasurementError, ModelFileError, RunError, one_line
from fer_deploy.files import open_regular, shown
from fer_deploy.model.contract import ModelContract, check_model_file
from fer_deploy.model.names import PRECISIONS, ModelName, in_precision
from fer_deploy.training.record import has_record, labels_of, read_record

Kind = Literal["file", "run", "foreign", "peer"]
"""file: one of our ONNX files. run: a run folder without one. foreign: another project's ONNX file. peer: a package."""


@dataclass(frozen=True)
class Subject:
    """One model to measure.

    Attributes:
        name: the file's stem without its precision (`B+E`), the run's name, or the adapter's; files of the same name
            are preceded by their folders (`old/B+E`).
        kind: see `Kind`.
        precision: fp32, fp16 or int8 for our files; fp32 for runs; "as given" for others.
        path: the ONNX file; None for a run.
        contract: our file's structure and metadata.
        runs: the members' run folders, in order; empty where one is missing from the workspace.
        adapter: how to feed a foreign file.
        refusal: why the file cannot be measured; None when it can be.
    """

    name: str
    kind: Kind
    precision: str
    path: Path | None = None
    contract: ModelContract | None = None
    runs: tuple[Path, ...] = ()
    adapter: Adapter | None = None
    refusal: str | None = None

    @property
    def key(self) -> str:
        """Name and precision, which identify this model in a run: `B+E.int8`."""
        return in_precision(self.name, self.precision)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its answers. Other projects' models are read as the seven."""
        if self.contract is not None:
            return self.contract.labels
        return _classes_of(self.runs[0]) if self.kind == "run" else EMOTIONS

    @property
    def learned_ferplus(self) -> bool:
        """Whether it was trained on FER+ labels, so that FER2013's labels do not score it."""
        if self.contract is not None:
            return "FER+ labels" in self.contract.metadata.get("trained_on", "")
        return any(_labels_of(folder) == "ferplus" for folder in self.runs)


def _labels_of(run: Path) -> str | None:
    """The labels a run was trained on; None where its record cannot be read: opening the run then reports why."""
    try:
        return str(read_record(run / "run.json")["recipe"]["labels"])
    except (RunError, KeyError):
        return None


def _classes_of(run: Path) -> tuple[str, ...]:
    """The names of a run's classes: the seven where its record states none, or is damaged, as opening it reports."""
    try:
        return labels_of(read_record(run / "run.json"))
    except RunError:
        return EMOTIONS


def find_subjects(names: Sequence[str], *, workspace: Path = Path(), adapters: Sequence[Adapter] = ()) -> list[Subject]:
    """Find the models that the user named, each once, in the order named.

    Args:
        names: names of exports (in every precision), of runs, or ONNX files; with no names all of `exports/`, and
            where that is empty all runs.
        workspace: the folder that holds `exports/` and `training/`.
        adapters: the user's adapters for foreign files, tried before the packaged ones.

    Raises:
        MeasurementError: there is nothing to measure, no model has a given name, or two files of one folder cannot be
            distinguished by name.
    """
    subjects_by_file: dict[tuple[str, str], Subject] = {}
    if names:
        for name in names:
            for subject in _named(name, workspace, adapters):
                subjects_by_file.setdefault((str(subject.path and subject.path.resolve()), subject.key), subject)
        return _distinguished(list(subjects_by_file.values()))
    files = sorted((workspace / "exports").glob("*.onnx"), key=_file_order)
    subjects = [_from_file(path, workspace, adapters) for path in files] or _all_runs(workspace)
    if not subjects:
        raise MeasurementError(
            f"nothing to measure: {workspace / 'exports'} has no ONNX file and {workspace / 'training'} no run: "
            "run `ferdeploy train`, then `ferdeploy export`"
        )
    return _distinguished(subjects)


def _distinguished(subjects: list[Subject]) -> list[Subject]:
    """The models, where files of the same name get as many parent folders as distinguish them: `old/m`, `new/m`."""
    keys = Counter(subject.key for subject in subjects)
    repeated = {subject.name for subject in subjects if keys[subject.key] > 1}
    deepest = max((len(subject.path.parent.resolve().parts) for subject in subjects if subject.path), default=0)
    named, depth = subjects, 0
    while clash := next((pair for pair in combinations(named, 2) if pair[0].key == pair[1].key), None):
        depth += 1
        if depth > deepest:
            one, other = clash
            raise MeasurementError(f"{one.path} and {other.path} would both be called {one.key}: rename one of them")
        named = [_under_folders(subject, depth) if subject.name in repeated else subject for subject in subjects]
    return named


def _under_folders(subject: Subject, depth: int) -> Subject:
    """A file named by the last `depth` parts of its path; a run keeps its name."""
    if subject.path is None:
        return subject
    name = shown(subject.path.stem if subject.adapter else ModelName.parse(subject.path).stem)
    folders = [shown(part) for part in subject.path.parent.resolve().parts[1:]]
    return replace(subject, name="/".join([*folders[max(0, len(folders) - depth + 1) :], name]))


def _named(name: str, workspace: Path, adapters: Sequence[Adapter]) -> list[Subject]:
    if name.endswith(".onnx"):
        path = Path(name)
        open_regular(path, what="model", error=MeasurementError).close()
        return [_from_file(path, workspace, adapters)]
    exports = workspace / "exports"
    files = [path for path in sorted(exports.glob("*.onnx"), key=_file_order) if ModelName.parse(path).stem == name]
    if files:
        return [_from_file(path, workspace, adapters) for path in files]
    run = workspace / "training" / name
    if has_record(run):
        return [Subject(name=name, kind="run", precision="fp32", runs=(run,))]
    known = sorted(
        {ModelName.parse(path).stem for path in exports.glob("*.onnx")} | {run.name for run in _run_folders(workspace)}
    )
    raise MeasurementError(
        f"no export and no run named {one_line(name, limit=80)!r} in {workspace}: "
        + (f"choose from {', '.join(known)}" if known else "train and export one first")
    )


def _from_file(path: Path, workspace: Path, adapters: Sequence[Adapter]) -> Subject:
    model = ModelName.parse(path)
    adapter = find_adapter(path, adapters)
    if adapter is not None:
        return Subject(name=adapter.name, kind="foreign", precision="as given", path=path, adapter=adapter)
    name = shown(model.stem)  # a name that is not UTF-8 could not be written into the report
    try:
        contract = check_model_file(path)
        _ = contract.accuracy, contract.gflops, contract.calibration  # damaged figures refuse the file here, not later
    except ModelFileError as error:
        return Subject(name=name, kind="file", precision=model.precision, path=path, refusal=failure_text(error))
    return Subject(
        name=name,
        kind="file",
        precision=contract.precision,
        path=path,
        contract=contract,
        runs=_member_runs(contract, workspace),
    )


def _member_runs(contract: ModelContract, workspace: Path) -> tuple[Path, ...]:
    folders = [workspace / "training" / split_member(member)[0] for member in contract.members]
    return tuple(folders) if folders and all(map(has_record, folders)) else ()


def _all_runs(workspace: Path) -> list[Subject]:
    return [
        Subject(name=folder.name, kind="run", precision="fp32", runs=(folder,)) for folder in _run_folders(workspace)
    ]


def _run_folders(workspace: Path) -> list[Path]:
    return sorted(path.parent for path in (workspace / "training").glob("*/run.json"))


def _file_order(path: Path) -> tuple[int, str, int]:
    """Single models before ensembles, then by name, then fp32, fp16, int8."""
    model = ModelName.parse(path)
    return model.stem.count("+"), model.stem, PRECISIONS.index(model.precision)


def failure_text(error: BaseException) -> str:
    """An error as one line for a row's status; an unexpected one begins with its class."""
    return one_line(error if isinstance(error, FerDeployError) else f"{type(error).__name__}: {error}", limit=300)
