"""The pipeline as functions: load data, train, export, verify and benchmark from a script or a notebook.

    from fer_deploy.api import bench, export, load_data, load_recipe, train, verify

    data = load_data("faces/")
    run = train(load_recipe("plain", changes=["stage.0.epochs=20"]), data, workspace="work")
    (file,) = export(run, data=data)
    print(verify(file.path, data=data).verdict)
    report = bench(file.path, data=data, quick=True)

Each function runs the code of the command of its name, and writes the same files. Errors are `FerDeployError`; an
argument of a wrong type or grammar is a TypeError or ValueError. Progress is shown in terminals and notebooks only;
`progress=False` turns it off. What a function needs is imported when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fer_deploy.errors import ExportError, UnavailableError, install

if TYPE_CHECKING:
    from collections.abc import Callable

    from fer_deploy.bench.report import Report
    from fer_deploy.ensemble import Fusion
    from fer_deploy.export.metadata import ExportedFile
    from fer_deploy.export.verify import Verification
    from fer_deploy.faces.dataset import Dataset
    from fer_deploy.faces.request import SplitRequest
    from fer_deploy.labels import LabelMap
    from fer_deploy.recipes import Recipe
    from fer_deploy.training.run import Run
    from fer_deploy.training.watcher import Watcher

__all__ = ["bench", "export", "load_data", "load_recipe", "train", "verify"]


def load_data(
    source: str | Path | None = None,
    *,
    labels: str | LabelMap | None = None,
    split: str | SplitRequest | None = None,
    workspace: str | Path = ".",
    progress: bool = True,
) -> Dataset:
    """Read a data set, whatever its layout; `Dataset.summary()` describes it.

    Args:
        source: a file, a folder or 'synthetic'; None takes $FERDEPLOY_DATA, then data/ in the workspace.
        labels: what the labels mean, as for `--labels`: `raf-db`, `1=surprise,2=fear`, `sad,happy`.
        split: how missing splits are drawn, as for `--split`: `80/10/10 by=subject seed=1`.
        workspace: the folder that may hold data/.
        progress: show a bar while pictures are read.

    Returns:
        Three splits of grey faces, uint8, each with its class; `labels` names the classes. `Faces.at(input_size)` gives
        them as one array (n, side, side).

    Raises:
        DataError: there is no data, or it cannot be used. One line that names the file or row.
        ValueError: `labels` or `split` is not in its grammar.
        TypeError: one of them is of another type, such as a list.
    """
    from fer_deploy.faces.load import load_dataset
    from fer_deploy.faces.request import DataRequest, SplitRequest
    from fer_deploy.labels import LabelMap

    if not isinstance(labels, str | LabelMap | None):
        raise TypeError(f"labels must be text such as 'sad,happy' or a LabelMap, not {type(labels).__name__}")
    if not isinstance(split, str | SplitRequest | None):
        raise TypeError(f"split must be text such as '80/10/10' or a SplitRequest, not {type(split).__name__}")
    request = DataRequest(
        source,
        labels=LabelMap.parse(labels) if isinstance(labels, str) else labels,
        split=SplitRequest.parse(split) if isinstance(split, str) else split,
    )
    with _step_progress(progress) as report:
        return load_dataset(request, workspace=Path(workspace), progress=report)


def load_recipe(name: str | Path, *, changes: Sequence[str] = (), workspace: str | Path = ".") -> Recipe:
    """Read a recipe, and change values of it.

    Args:
        name: one of the package's (`ferdeploy variants`), one of the workspace's training/recipes/, or a TOML file.
        changes: as for `--set`: `stage.0.optimiser.lr=1e-3`.
        workspace: the folder that may hold training/recipes/.

    Raises:
        RecipeError: no such recipe, or a key or value in it or in a change is wrong.
    """
    from fer_deploy.recipes import apply_settings
    from fer_deploy.recipes import load_recipe as load

    recipe = load(name, workspace=Path(workspace))
    return apply_settings(recipe, changes) if changes else recipe


def train(
    recipe: str | Path | Recipe,
    data: Dataset,
    *,
    name: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    device: str = "auto",
    restart: bool = False,
    workspace: str | Path = ".",
    watchers: Sequence[Watcher] = (),
    progress: bool = True,
) -> Run:
    """Train a recipe, or resume its run; a complete run is returned at once.

    Args:
        recipe: the recipe, or what `load_recipe` takes.
        data: what `load_data` returns; its labels become the run's.
        name: the run's folder below training/; the recipe's name by default.
        seed: of every random draw.
        epochs: budget over all stages; the recipe's by default.
        device: auto, cpu, cuda or mps.
        restart: discard an earlier run of that name.
        workspace: the run is written to training/ in it.
        watchers: also receive the progress, see `training.watcher`.
        progress: show a bar and a line for each epoch.

    Returns:
        The complete run, with its weights, record and validation accuracy.

    Raises:
        RunError: the folder holds another run: give another name, or `restart`.
        TrainingError: training cannot continue.
        UnavailableError: the device, the initial weights or PyTorch is absent.
    """
    _require_pipeline()
    from fer_deploy.faces.dataset import Dataset
    from fer_deploy.recipes import Recipe
    from fer_deploy.training.fit import Settings
    from fer_deploy.training.fit import train as fit
    from fer_deploy.training.watcher import Watchers

    if not isinstance(data, Dataset):
        raise TypeError(f"data must be what load_data returns, not {type(data).__name__}")
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, workspace=workspace)
    settings = Settings(seed=seed, epochs=epochs, device=device, restart=restart)
    with _training_display(name or chosen.name, Path(workspace), progress) as display:
        watcher = Watchers(*display, *watchers)
        outcome = fit(chosen, data, workspace=Path(workspace), name=name, settings=settings, watcher=watcher)
    return outcome.run()


def export(
    *runs: str | Run,
    data: Dataset | None = None,
    precisions: Sequence[str] = ("fp32",),
    fusion: Fusion = "wap",
    weights: Sequence[float] | None = None,
    search: bool = False,
    name: str | None = None,
    workspace: str | Path | None = None,
    progress: bool = True,
) -> list[ExportedFile]:
    """Write one run, or several fused, as one ONNX file in each precision; each is checked against PyTorch first.

    Args:
        *runs: a run or its name; several are fused into one file. `"B~mirror"` is run B on the mirrored face.
        data: for parity on real faces and for the accuracy; int8 needs it.
        precisions: of fp32, fp16 and int8.
        fusion: wap (weighted average of probabilities) or rrf (reciprocal rank fusion).
        weights: of the runs; by default equal ones.
        search: search the weights on the validation split.
        name: the file's stem; the runs' names by default.
        workspace: holds training/ and exports/; by default the one of the first run, else the current folder.
        progress: show a bar.

    Returns:
        The files that were written to exports/.

    Raises:
        ParityError: a file differs from PyTorch; it is not written.
        ExportError: the request makes no sense.
        RunError: there is no such complete run.
    """
    _require_pipeline()
    from fer_deploy.export.plan import plan_ensemble, plan_run
    from fer_deploy.export.write import export_plan

    if not runs:
        raise ExportError("name a run to export")
    if len(runs) == 1 and (weights or search or fusion != "wap"):
        raise ExportError("weights, search and fusion are for several runs in one file")
    home = _workspace_of(runs[0], workspace)
    names = [run if isinstance(run, str) else run.name for run in runs]
    with _step_progress(progress) as report:
        if len(names) == 1:
            plan = plan_run(names[0], workspace=home)
        else:
            plan = plan_ensemble(
                names, workspace=home, weights=weights, fusion=fusion, data=data, search=search, progress=report
            )
        plan = plan if name is None else plan.renamed(name)
        return export_plan(plan, folder=home / "exports", precisions=tuple(precisions), data=data, progress=report)


def verify(
    path: str | Path, *, data: Dataset | None = None, workspace: str | Path | None = None, progress: bool = True
) -> Verification:
    """Check an exported file again. A check that fails does not raise: see `Verification.verdict` and `checks`.

    Args:
        path: the ONNX file.
        data: faces for the parity with the runs; drawn faces by default.
        workspace: holds training/ with the runs; by default the parent of the file's folder.
        progress: show a bar.

    Returns:
        Every check with its outcome, and the verdict: "proven", "sound but unproven" or "failed".
    """
    from fer_deploy.export.verify import verify_file

    with _step_progress(progress) as report:
        home = None if workspace is None else Path(workspace)
        return verify_file(Path(path), workspace=home, data=data, progress=report)


def bench(
    *models: str | Path,
    data: Dataset | None = None,
    engines: Sequence[str] = ("ort-cpu",),
    threads: int = 1,
    quick: bool = False,
    output: str | Path | None = None,
    workspace: str | Path = ".",
    progress: bool = True,
) -> Report:
    """Measure accuracy, cost and latency of files and runs.

    Args:
        *models: files, or names of runs and exports of the workspace; without any, all of exports/.
        data: scored on its test split; without it only cost and latency are measured.
        engines: such as ort-cpu, torch-cpu, ort-cuda, openvino-cpu.
        threads: of each engine.
        quick: seconds instead of minutes: at most 500 faces, 40 samples.
        output: write report.json, report.md and report.html to this folder; None writes nothing.
        workspace: holds exports/ and training/.
        progress: show a bar.

    Returns:
        The report: `rows` has the figures of each model on each engine.

    Raises:
        MeasurementError: there is nothing to measure, or a name is unknown.
        UnavailableError: an engine is unknown.
    """
    from fer_deploy.bench.latency import QUICK, LatencyPlan
    from fer_deploy.bench.run import QUICK_ROWS, BenchPlan, run_bench
    from fer_deploy.bench.save import check_folder, save_pages

    if output is not None:
        check_folder(Path(output))
    plan = BenchPlan(
        names=tuple(str(model) for model in models),
        engines=tuple(engines),
        threads=threads,
        latency=QUICK if quick else LatencyPlan(),
        dataset=data,
        max_rows=QUICK_ROWS if quick else None,
        probe=not quick,
        workspace=Path(workspace),
    )
    with _step_progress(progress, redraw_alone=False) as report:
        result = run_bench(plan, progress=report)
    if output is not None:
        save_pages(result.report, Path(output))
    return result.report


def _workspace_of(run: str | Run, workspace: str | Path | None) -> Path:
    if workspace is not None:
        return Path(workspace)
    return Path() if isinstance(run, str) else run.folder.parent.parent


def _require_pipeline() -> None:
    """Raise UnavailableError if the extra `train` is not installed."""
    missing = next((package for package in ("torch", "timm", "onnx") if find_spec(package) is None), None)
    if missing and missing not in sys.modules:
        raise UnavailableError(f"{missing} is not installed: {install('train')}")


@contextmanager
def _step_progress(visible: bool, *, redraw_alone: bool = True) -> Iterator[Callable[[str, int, int], None] | None]:
    """What moves a bar; None without one."""
    if not visible:
        yield None
        return
    from fer_deploy.cli.console import step_progress

    with step_progress(redraw_alone=redraw_alone) as report:
        yield report


@contextmanager
def _training_display(name: str, workspace: Path, visible: bool) -> Iterator[list[Watcher]]:
    """The display of `ferdeploy train`, if it is wanted."""
    if not visible:
        yield []
        return
    from fer_deploy.cli.console import ProgressBar
    from fer_deploy.cli.train_display import TrainingDisplay

    with ProgressBar(stderr=False) as bar:
        yield [TrainingDisplay(name, workspace / "training" / name, bar)]
