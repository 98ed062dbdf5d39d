"""What is measured: exported files, runs that have no file yet, and other people's ONNX files with an adapter."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from fer_deploy.bench.adapters import Adapter, find_adapter
from fer_deploy.ensemble import split_member
from fer_deploy.errors import FerDeployError, MeasurementError, ModelFileError
from fer_deploy.model.contract import ModelContract, check_model_file
from fer_deploy.model.names import PRECISIONS, ModelName, in_precision

Kind = Literal["file", "run", "foreign", "peer"]
"""file: an exported ONNX file of ours. run: a run folder without one. foreign: another's ONNX file. peer: a package."""


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        name: the file's stem without its precision (`B+E`), a run's name, or another's adapter's; files of one name
            have their folders before it (`old/B+E`).
        kind: see `Kind`.
        precision: fp32, fp16 or int8 for our files; fp32 for runs; "as given" for others.
        path: the ONNX file; None for a run.
        contract: what a file of ours says of itself.
        runs: the run folders of the members, in order; empty where they are not in the workspace.
        adapter: how to feed a foreign file.
        refusal: why the file cannot be measured; None when it can.
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
        """What tells this subject from the others of a run: `B+E.int8`."""
        return in_precision(self.name, self.precision)

    @property
    def learned_ferplus(self) -> bool:
        """Whether it learned FER+ labels, with which FER2013's are not to be compared."""
        if self.contract is not None:
            return "FER+ labels" in self.contract.metadata.get("trained_on", "")
        return any(_labels_of(folder) == "ferplus" for folder in self.runs)


def _labels_of(run: Path) -> str | None:
    """Whose labels a run learned; None where its record cannot be read, which opening it will say."""
    try:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return str(record["recipe"]["labels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_subjects(names: Sequence[str], *, workspace: Path = Path(), adapters: Sequence[Adapter] = ()) -> list[Subject]:
    """Turn what the user named into subjects, each once, in the order named.

    Args:
        names: names of exports (every precision of them), of runs, or ONNX files; none takes all of `exports/`, and
            where that is empty all runs.
        workspace: the folder that holds `exports/` and `training/`.
        adapters: the user's own adapters for foreign files, tried before the shipped ones.

    Raises:
        MeasurementError: there is nothing to measure, no export, run or file of a name, or two files of one folder that
            no name tells apart.
    """
    found: dict[tuple[str, str], Subject] = {}
    if names:
        for name in names:
            for subject in _named(name, workspace, adapters):
                found.setdefault((str(subject.path and subject.path.resolve()), subject.key), subject)
        return _told_apart(list(found.values()))
    files = sorted((workspace / "exports").glob("*.onnx"), key=_file_order)
    subjects = [_from_file(path, workspace, adapters) for path in files] or _all_runs(workspace)
    if not subjects:
        raise MeasurementError(
            f"nothing to measure: {workspace / 'exports'} has no ONNX file and {workspace / 'training'} no run: "
            "run `ferdeploy train`, then `ferdeploy export`"
        )
    return _told_apart(subjects)


def _told_apart(subjects: list[Subject]) -> list[Subject]:
    """The subjects, files of one name called after as many of their folders as tell them apart: `old/m`, `new/m`."""
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
    """A file called by the last `depth` parts of its path; a run as it is."""
    if subject.path is None:
        return subject
    name = subject.path.stem if subject.adapter else ModelName.parse(subject.path).stem
    folders = subject.path.parent.resolve().parts[1:]
    return replace(subject, name="/".join([*folders[max(0, len(folders) - depth + 1) :], name]))


def _named(name: str, workspace: Path, adapters: Sequence[Adapter]) -> list[Subject]:
    if name.endswith(".onnx"):
        path = Path(name)
        if not path.is_file():
            raise MeasurementError(f"{name} does not exist: give a file, or the name of an export or run")
        return [_from_file(path, workspace, adapters)]
    exports = workspace / "exports"
    files = [path for path in sorted(exports.glob("*.onnx"), key=_file_order) if ModelName.parse(path).stem == name]
    if files:
        return [_from_file(path, workspace, adapters) for path in files]
    run = workspace / "training" / name
    if (run / "run.json").is_file():
        return [Subject(name=name, kind="run", precision="fp32", runs=(run,))]
    known = sorted(
        {ModelName.parse(path).stem for path in exports.glob("*.onnx")} | {run.name for run in _run_folders(workspace)}
    )
    raise MeasurementError(
        f"no export and no run named {name!r} in {workspace}; there {'are ' + ', '.join(known) if known else 'is none'}"
    )


def _from_file(path: Path, workspace: Path, adapters: Sequence[Adapter]) -> Subject:
    model = ModelName.parse(path)
    adapter = find_adapter(path, adapters)
    if adapter is not None:
        return Subject(name=adapter.name, kind="foreign", precision="as given", path=path, adapter=adapter)
    try:
        contract = check_model_file(path)
    except ModelFileError as error:
        return Subject(name=model.stem, kind="file", precision=model.precision, path=path, refusal=str(error))
    return Subject(
        name=model.stem,
        kind="file",
        precision=contract.precision,
        path=path,
        contract=contract,
        runs=_member_runs(contract, workspace),
    )


def _member_runs(contract: ModelContract, workspace: Path) -> tuple[Path, ...]:
    folders = [workspace / "training" / split_member(member)[0] for member in contract.members]
    return tuple(folders) if folders and all((folder / "run.json").is_file() for folder in folders) else ()


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


def explain(error: BaseException) -> str:
    """An error as one line for a row's status."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FerDeployError) else f"{type(error).__name__}: {text}"[:300]
