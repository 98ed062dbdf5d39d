"""Training as a whole: it learns, records, stops and goes on to the same bits, and refuses what cannot be meant."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from fer_deploy.ensemble import member_runs
from fer_deploy.errors import DataError, FerDeployError, RunError, TrainingError, UnavailableError
from fer_deploy.faces import Dataset, Faces
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.faces.unlabelled import read_unlabelled
from fer_deploy.recipes import (
    Augmentation,
    Distillation,
    Loss,
    Mixing,
    Network,
    Optimiser,
    Recipe,
    Schedule,
    Stage,
    apply_settings,
    parse_recipe,
)
from fer_deploy.training import fit, optim, step, teachers
from fer_deploy.training.checkpoint import read_checkpoint, save_tensors
from fer_deploy.training.curves import _best, draw_curves
from fer_deploy.training.data import FaceSet
from fer_deploy.training.devices import Processes, choose_device, describe_failure
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.lesson import Lesson
from fer_deploy.training.losses import distillation_loss, loss_on_targets
from fer_deploy.training.run import Run, list_runs
from fer_deploy.training.step import Batch
from fer_deploy.training.teachers import Teachers
from fer_deploy.training.watcher import BatchReport, EpochRow, Silent

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = Settings(device="cpu")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe, few_faces: Dataset) -> Path:
    """A workspace in which the small recipe was trained without a break."""
    workspace = tmp_path_factory.mktemp("finished")
    assert train(small_recipe, few_faces, workspace=workspace, settings=CPU).status == "complete"
    return workspace


def test_the_run_folder_says_what_was_done(finished: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    folder = finished / "training" / "small"
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["epochs_run"] == 7
    assert record["weights_sha256"] == sha256(folder / "weights.safetensors")
    assert record["data"]["sha256"] == few_faces.sha256
    assert record["images_seen"] == 4 * (280 // 32) * 32 + 3 * (280 // 16) * 16
    assert record["gflops"] > 0
    assert not (folder / "checkpoint.safetensors").exists()
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 8)]
    assert [row["stage"] for row in rows] == ["1"] * 4 + ["2"] * 3
    assert set(rows[0]) == {entry.name for entry in dataclasses.fields(EpochRow)}
    run = Run.open(folder)
    assert run.recipe == small_recipe
    assert [each.name for each in list_runs(finished)] == ["small"]
    assert record["best"]["epoch"] in range(1, 8)


def test_the_rounded_weights_score_what_the_record_says(finished: Path, few_faces: Dataset) -> None:
    run = Run.open(finished / "training" / "small")
    network = run.network()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            assert torch.equal(tensor, tensor.half().float())
    faces = torch.from_numpy(few_faces.validation.images).float().unsqueeze(1).sub(127.5).div(127.5)
    with torch.no_grad():
        right = network(faces).argmax(1).numpy() == few_faces.validation.labels
    assert run.validation_accuracy == pytest.approx(right.mean())
    assert 0.05 < run.temperature < 20


def test_training_learns(tmp_path: Path) -> None:
    stage = Stage(epochs=6, batch_size=16, optimiser=Optimiser(lr=2e-2), schedule=Schedule(name="one-cycle"))
    options = {"widths": (8, 16, 32, 32), "depths": (1, 1, 1, 1), "stem_stride": 2, "dropout": 0.0}
    recipe = Recipe("learner", "a small network", Network("plain", options=options), (stage,))
    outcome = train(recipe, synthetic_dataset(1400), workspace=tmp_path, settings=CPU)
    assert outcome.run().validation_accuracy > 0.8  # one in seven by chance


def stops_at(*calls: int) -> Callable[[], bool]:
    """A `should_stop` that is True at these calls, counted from 1 over all calls of `train`."""
    count = itertools.count(1)
    return lambda: next(count) in calls


@pytest.mark.parametrize("stops", [(1,), (9, 10, 23), (8, 16, 24, 32, 40, 60)])
def test_a_stopped_run_ends_with_the_same_weights(
    stops: tuple[int, ...], tmp_path: Path, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    """Stops within epochs, at their ends, and between stages."""
    should_stop = stops_at(*stops)
    statuses = []
    while not statuses or statuses[-1] == "stopped":
        statuses.append(
            train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=should_stop).status
        )
    assert statuses == ["stopped"] * len(stops) + ["complete"]
    name = "training/small/weights.safetensors"
    assert sha256(tmp_path / name) == sha256(finished / name)


EVERYTHING = """
name = "student"
title = "moving average, one-cycle, patience, a goal, precise batch norm, teachers"
network = { name = "plain", options = { widths = [4, 8], depths = [1, 2], stem_stride = 2, dropout = 0.2 } }
augmentation = { flip = 0.5, rotation = 10.0 }
distillation = { teachers = ["small", "small~mirror"], views = 2, mixup_alpha = 1.0, unlabelled = "faces" }
precise_bn = 0.5
[[stage]]
epochs = 6
ran = 3
batch_size = 70
ema = 0.9
optimiser = { lr = 4e-3 }
schedule = { name = "one-cycle" }
[[stage]]
epochs = 40
patience = 2
goal = 0.9
batch_size = 50
optimiser = { name = "sgd", lr = 1e-9 }
"""


@pytest.mark.parametrize(
    ("place", "stops"),
    [
        ("while the teachers label the first view", (1,)),
        ("while they label the unlabelled faces", (6,)),
        ("in mid epoch and while they label the second view", (9, 14, 15)),
        ("between the stages", (29, 30, 31, 32)),
        ("in the last stage", (40, 47)),
    ],
)
def test_a_stopped_student_ends_with_the_same_weights_and_history(
    place: str, stops: tuple[int, ...], tmp_path: Path, finished: Path, unlabelled: Path, few_faces: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Wherever it stops, `place` among them; its teachers then resume or repeat their work."""
    monkeypatch.setattr(teachers, "TEACHER_BATCH", 64)
    recipe = parse_recipe(EVERYTHING, source=place)
    shutil.copytree(finished / "training", tmp_path / "training", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "training/.soft_targets", ignore_errors=True)
    whole = train(recipe, few_faces, workspace=tmp_path, name="whole", settings=CPU)
    shutil.rmtree(tmp_path / "training/.soft_targets")
    should_stop, count = stops_at(*stops), 0
    while (
        ended := train(recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=should_stop)
    ).status == "stopped":
        count += 1
    assert count == len(stops)
    for name in ("weights.safetensors", "history.csv"):
        contents = []
        for folder in (whole.folder, ended.folder):
            if name == "history.csv":
                rows = list(csv.DictReader((folder / name).open()))
                contents.append([{**row, "seconds": "", "images_per_second": ""} for row in rows])
            else:
                contents.append(sha256(folder / name))
        assert contents[0] == contents[1]


def test_a_time_limit_ends_cleanly_and_the_next_call_goes_on(
    tmp_path: Path, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    limited = dataclasses.replace(CPU, limit_seconds=0.5)  # at least a second is kept back for saving
    outcome = train(small_recipe, few_faces, workspace=tmp_path, settings=limited)
    assert outcome.status == "stopped"
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "complete"
    name = "training/small/weights.safetensors"
    assert sha256(tmp_path / name) == sha256(finished / name)


def test_a_run_ends_before_its_limit_of_time(tmp_path: Path, small_recipe: Recipe) -> None:
    """Validation and saving are part of the time; a moment more is for a machine with other work."""
    from fer_deploy.faces.synthetic import synthetic_dataset

    recipe = apply_settings(small_recipe, ["stage.0.epochs=5000"])
    faces = synthetic_dataset(1400)
    faces.sha256, faces.copies  # noqa: B018  counted once a data set, before the clock starts
    began = time.monotonic()
    outcome = train(recipe, faces, workspace=tmp_path, settings=dataclasses.replace(CPU, limit_seconds=4.0))
    took = time.monotonic() - began
    assert outcome.status == "stopped"
    assert 1.0 < took < 5.5
    assert (outcome.folder / "checkpoint.safetensors").exists()


KILLED = """
import os, sys, time, random, signal, json
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from small_recipe import SMALL
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import parse_recipe, apply_settings
from fer_deploy.training.fit import train, Settings
workspace = Path(sys.argv[1])
recipe = apply_settings(parse_recipe(SMALL, source="small.toml"), ["stage.0.epochs=12", "stage.1.epochs=8"])
faces = synthetic_dataset(280)
faces.sha256, faces.copies
settings = Settings(device="cpu", checkpoint_seconds=0.0)

def run(where):
    train(recipe, faces, workspace=where, settings=settings)

def start(where):
    child = os.fork()
    if child == 0:
        try:
            run(where)
        finally:
            os._exit(0)
    return child

random.seed(5)
folder = workspace / "killed" / "training" / "small"
begin = time.monotonic()
os.waitpid(start(workspace / "whole"), 0)
usual = (time.monotonic() - begin) / 30  # twenty kills take a third of a run, however fast the machine
kills, grew, before, longest = 0, True, b"", usual
while True:
    child = start(workspace / "killed")
    if kills < 24:
        time.sleep(random.uniform(usual / 5, longest))
    done, _ = os.waitpid(child, os.WNOHANG if kills < 24 else 0)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    history = folder / "history.csv"
    now = history.read_bytes() if history.exists() else b""
    grew = grew and now.startswith(before)
    longest = usual if len(now) > len(before) else longest * 1.2  # more, until a start gets somewhere
    before = now
    record = folder / "run.json"
    if record.exists() and json.loads(record.read_text())["status"] == "complete":
        break
print(json.dumps({"kills": kills, "grew": grew}))
"""


def test_kill_9_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    """A process is killed at random at least 20 times; history.csv only grows, and the weights are the same bits."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(REPOSITORY / "tests")],
        capture_output=True, text=True, timeout=300, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= 20
    assert told["grew"]
    name = "training/small/weights.safetensors"
    assert sha256(tmp_path / "killed" / name) == sha256(tmp_path / "whole" / name)
    assert not [path.name for path in (tmp_path / "killed/training/small").iterdir() if path.suffix == ".partial"]


def test_a_full_disk_leaves_what_was_saved(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    """The kernel refuses a write half-way (a limit on file size stands in for the disk); the old state is whole."""
    seen = 0

    def should_stop() -> bool:
        nonlocal seen
        seen += 1
        return seen == 20

    train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=should_stop)
    folder = tmp_path / "training" / "small"
    before = {path.name: sha256(path) for path in folder.iterdir()}
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"small/checkpoint.safetensors: file too large: the last checkpoint is"):
            train(small_recipe, few_faces, workspace=tmp_path, settings=dataclasses.replace(CPU, checkpoint_seconds=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: sha256(path) for path in folder.iterdir()} == before
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "complete"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": "stage.0.optimiser.lr=1e-3"},
            r"another recipe.stage.0.optimiser.lr \(the folder's: 0.004, yours: 0.001\)",
        ),
        ({"seed": 1}, r"another seed \(the folder's: 0, yours: 1\)"),
        ({"data": 140}, "another data"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    change: dict[str, object], message: str, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    from fer_deploy.faces.synthetic import synthetic_dataset

    recipe = apply_settings(small_recipe, [str(change["recipe"])]) if "recipe" in change else small_recipe
    faces = synthetic_dataset(140) if "data" in change else few_faces
    settings = dataclasses.replace(CPU, seed=int(str(change.get("seed", 0))))
    with pytest.raises(RunError, match=message):
        train(recipe, faces, workspace=finished, settings=settings)


def test_damaged_files_get_one_line(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    calls = iter([False] * 10 + [True] * 1000)
    train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=lambda: next(calls))
    checkpoint = tmp_path / "training/small/checkpoint.safetensors"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"checkpoint is damaged .*--restart"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)
    assert (
        train(small_recipe, few_faces, workspace=tmp_path, settings=dataclasses.replace(CPU, restart=True)).status
        == "complete"
    )
    weights = tmp_path / "training/small/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match="does not match its record"):
        Run.open(tmp_path / "training/small").network()
    with pytest.raises(RunError, match="there is no run here: train it with `ferdeploy train B`"):
        Run.open(tmp_path / "training/B")
    with pytest.raises(RunError, match="there is no run here, and no variant of that name; there is small"):
        Run.open(tmp_path / "training/none")


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("small", "ferdeploy train small"),
        ("mine", "ferdeploy train small --name mine"),
        ("small.seed3", "ferdeploy train small --seeds 1 --seed 3"),
        ("mine.seed3", "ferdeploy train small --name mine --seeds 1 --seed 3"),
    ],
)
def test_how_a_run_is_gone_on_with_is_said_by_its_recipe(folder: str, command: str, tmp_path: Path) -> None:
    """A folder may be called otherwise than the variant in it."""
    path = tmp_path / folder
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"format": 1, "status": "training", "recipe": {"name": "small"}}))
    with pytest.raises(RunError, match=f"go on with `{command}`"):
        Run.open(path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(
    tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (
        Stage(epochs=1, batch_size=64, optimiser=Optimiser(lr=1e-4)),
        Stage(epochs=3, batch_size=64, optimiser=Optimiser(name="sgd", lr=10.0, betas=(0.99, 0.9))),
    )
    recipe = Recipe(
        "wild", "far too fast", Network("plain", options={"widths": (4,), "depths": (2,), "branches": False}), stages
    )

    monkeypatch.setattr(step, "loss_on_targets", _Bad(280 // 64 + 3, float("nan")))
    with pytest.raises(TrainingError) as caught:
        train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    assert "the loss became NaN or infinite (epoch 2, batch 3, learning rate 10)" in str(caught.value)
    assert "the best weights so far (epoch 1) are kept" in str(caught.value)
    run = Run.open(tmp_path / "training/wild", partial=True)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in run.network().state_dict().values())


@pytest.mark.parametrize("stop_at", [8, 9, 17])
def test_a_stop_after_an_epochs_last_batch_is_saved_too(
    stop_at: int, tmp_path: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    """Eight batches an epoch, and a question after each and after the epoch: nothing has to be trained again."""
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls >= stop_at

    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=should_stop).status == "stopped"
    state = read_checkpoint(tmp_path / "training/small/checkpoint.safetensors").state["progress"]
    assert (state["epoch_in_stage"], state["batch"]) == divmod(stop_at, 9)


class _Bad:
    """Stands for `loss_on_targets` and spoils one of its answers, by a factor or with an error."""

    def __init__(self, at: int, spoil: float | Exception) -> None:
        self.at, self.spoil, self.calls = at, spoil, 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
        self.calls += 1
        value = loss_on_targets(logits, targets, loss)
        if self.calls != self.at:
            return value
        if isinstance(self.spoil, Exception):
            raise self.spoil
        return value * self.spoil


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("CUDA error: unspecified launch failure\nCompile with ..."),
            r"the device was lost \(CUDA error: un",
        ),
        (torch.AcceleratorError("CUDA error: device-side assert"), r"the device was lost \(CUDA error: device-side"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "out of memory .a smaller --batch-size",
        ),
        (torch.distributed.DistNetworkError("peer is gone"), r"another process was lost \(peer is gone\)"),
    ],
)
def test_a_lost_device_loses_nothing_that_was_saved(
    error: Exception, message: str, tmp_path: Path, finished: Path, small_recipe: Recipe, few_faces: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The error that PyTorch raises when a GPU falls off, in the middle of an epoch; then the run goes on."""
    monkeypatch.setattr(step, "loss_on_targets", _Bad(21, error))
    with pytest.raises(TrainingError, match=f"^small: .*{message}.*: the last checkpoint is intact") as caught:
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    before = (tmp_path / "training/small/history.csv").read_bytes()
    assert before.count(b"\n") == 3
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "complete"
    assert (tmp_path / "training/small/history.csv").read_bytes().startswith(before)
    name = "training/small/weights.safetensors"
    assert sha256(tmp_path / name) == sha256(finished / name)


def test_an_error_of_ours_is_not_dressed_up(
    tmp_path: Path, small_recipe: Recipe, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "loss_on_targets", _Bad(2, RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)


def test_the_scaler_skips_a_bad_step_and_training_goes_on(
    tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's gradient scaler, on the CPU, in the real loop: a step whose gradients overflow changes no weight."""
    scalers, weights = [], []

    def scaler(stage: Stage, device: torch.device) -> torch.amp.GradScaler:
        scalers.append(torch.amp.GradScaler(device.type, init_scale=1024.0))
        return scalers[-1]

    class Weights(Silent):
        def batch(self, report: BatchReport) -> None:
            weights.append((scalers[-1].get_scale(), [tensor.clone() for tensor in network[0].parameters()]))

    network: list[torch.nn.Module] = []
    built = fit.accelerate_network

    def keep(made: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        network[:] = [built(made, device)]
        return network[0]

    monkeypatch.setattr(optim, "make_scaler", scaler)
    monkeypatch.setattr(fit, "accelerate_network", keep)
    monkeypatch.setattr(step, "loss_on_targets", _Bad(3, float("inf")))
    stage = Stage(epochs=2, batch_size=64, clip=1.0, optimiser=Optimiser(lr=1e-2))
    recipe = Recipe("scaled", "skips", Network("plain", options={"widths": (4,), "depths": (1,)}), (stage,))
    outcome = train(recipe, few_faces, workspace=tmp_path, settings=CPU, watcher=Weights())
    assert outcome.status == "complete"
    assert [scale for scale, _ in weights] == [1024.0] * 2 + [512.0] * 6

    def moved(step: int) -> bool:
        return any(not torch.equal(old, new) for old, new in zip(weights[step - 1][1], weights[step][1], strict=True))

    assert [moved(step) for step in range(1, 8)] == [True, False, True, True, True, True, True]
    rows = list(csv.DictReader((outcome.folder / "history.csv").open()))
    assert all(0 < float(row["training_loss"]) < 5 for row in rows)
    monkeypatch.setattr(step, "loss_on_targets", lambda logits, targets, loss: logits.sum() * float("inf"))
    hopeless = apply_settings(dataclasses.replace(recipe, name="hopeless"), ["stage.0.epochs=9"])
    with pytest.raises(TrainingError, match=r"became NaN or infinite \(epoch 6, batch 1, .*\(epoch 1\) are kept"):
        train(hopeless, few_faces, workspace=tmp_path, settings=CPU)


def test_a_checkpoint_without_a_scaler_goes_on_where_there_is_one(
    tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A float16 recipe begun on a CPU, which has no scaler, goes on on a device that has; and the other way round."""
    stage = Stage(epochs=4, batch_size=64, precision="float16", optimiser=Optimiser(lr=1e-3))
    recipe = Recipe("moved", "two devices", Network("plain", options={"widths": (4,), "depths": (1,)}), (stage,))

    def enabled(stage: Stage, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device.type, init_scale=8.0)

    for with_scaler in (False, True, False):
        with monkeypatch.context() as patch:
            if with_scaler:
                patch.setattr(optim, "make_scaler", enabled)
            calls = iter([False] * 4 + [True])
            train(recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=lambda calls=calls: next(calls))
        state = read_checkpoint(tmp_path / "training/moved/checkpoint.safetensors").state
        assert bool(state["scaler"]) == with_scaler
    assert train(recipe, few_faces, workspace=tmp_path, settings=CPU).status == "complete"


def test_patience_ends_a_stage(tmp_path: Path, few_faces: Dataset) -> None:
    stage = Stage(epochs=50, patience=2, batch_size=64, optimiser=Optimiser(name="sgd", lr=1e-9))
    recipe = Recipe("still", "does not move", Network("plain", options={"widths": (4,), "depths": (1,)}), (stage,))
    outcome = train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    rows = list(csv.DictReader((outcome.folder / "history.csv").open()))
    best = max(range(len(rows)), key=lambda i: float(rows[i]["validation_accuracy"]))
    assert len(rows) == best + 1 + 2 < 50
    asked = iter(range(1, 1000))  # after each of four batches, and after the epoch: here after the last one
    again = dataclasses.replace(recipe, name="again")
    stopped = train(
        again, few_faces, workspace=tmp_path, settings=CPU, should_stop=lambda: next(asked) == 5 * len(rows)
    )
    assert (stopped.status, stopped.epochs_run) == ("stopped", len(rows))
    gone_on = train(again, few_faces, workspace=tmp_path, settings=CPU)
    assert (gone_on.status, gone_on.epochs_run) == ("complete", len(rows))


def test_one_command_at_a_time_trains_a_run(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    during: list[str] = []

    def ask() -> bool:
        if not during:
            with pytest.raises(RunError, match=r"training/small: another command is training this run") as refused:
                train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)
            during.append(str(refused.value))
        return False

    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=ask).status == "complete"
    assert during
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "already complete"


def test_a_restart_that_can_not_begin_leaves_the_old_run(
    tmp_path: Path, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")
    before = {path.name: sha256(path) for path in (tmp_path / "training/small").iterdir()}
    settings = dataclasses.replace(CPU, restart=True)
    for wrong in ({"initialisation": "typo.safetensors"}, {"labels": "ferplus"}):
        with pytest.raises(FerDeployError):
            train(dataclasses.replace(small_recipe, **wrong), few_faces, workspace=tmp_path, settings=settings)
        assert {path.name: sha256(path) for path in (tmp_path / "training/small").iterdir()} == before


def test_steps_of_another_size_are_not_gone_on_with(
    tmp_path: Path, small_recipe: Recipe, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([False] * 10 + [True] * 1000)
    train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=lambda: next(asked))
    monkeypatch.setattr(fit, "join_processes", lambda device: Processes(0, 3))
    with pytest.raises(RunError, match="was trained with 32 faces a step, and 3 processes would take 30: resume with"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)
    monkeypatch.setattr(fit, "join_processes", lambda device: Processes(0, 33))
    with pytest.raises(RunError, match="33 processes can't share a batch of 32"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)


def test_a_copied_run_has_its_folders_name(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished / "training/small", tmp_path / "training/older")
    assert Run.open(tmp_path / "training/older").name == "older"
    assert [run.name for run in list_runs(tmp_path)] == ["older"]
    (tmp_path / "training/older/run.json").write_text("<<<<<<< HEAD")
    with pytest.raises(RunError, match=r"older/run.json: cannot be read"):
        list_runs(tmp_path)


def test_where_no_face_is_left_the_data_is_to_blame(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    same = dataclasses.replace(few_faces, training=few_faces.validation)
    with pytest.raises(DataError, match=r"none of \d+ faces is left to learn from"):
        train(small_recipe, same, workspace=tmp_path, settings=CPU)
    assert not (tmp_path / "training/small").exists()


def test_what_teachers_said_before_a_limit_of_time_is_kept(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a pupil whose teachers take longer than the limit would never begin."""
    shutil.copytree(finished / "training", tmp_path / "training")
    monkeypatch.setattr(teachers, "TEACHER_BATCH", 64)  # five batches of 280 faces
    answered: list[int] = []
    real = Teachers.answer

    def answer(self: Teachers, show: Callable[[int], torch.Tensor]) -> torch.Tensor:
        answered.append(1)
        return real(self, show)

    monkeypatch.setattr(Teachers, "answer", answer)
    distillation = Distillation(teachers=("small",), view="cached", views=1, weight=0.7)
    stage = Stage(epochs=1, batch_size=32, optimiser=Optimiser(lr=4e-3))
    pupil = dataclasses.replace(small_recipe, name="pupil", distillation=distillation, stages=(stage,))

    def until(count: int) -> str:
        before = len(answered)
        stop = lambda: len(answered) - before >= count  # noqa: E731
        return train(pupil, few_faces, workspace=tmp_path, settings=CPU, should_stop=stop).status

    assert [until(2), until(2), until(99)] == ["stopped", "stopped", "complete"]
    assert len(answered) == 5
    (kept,) = (tmp_path / "training/.soft_targets").iterdir()
    whole = load_file(kept)["probabilities"]
    kept.unlink()
    train(dataclasses.replace(pupil, name="again"), few_faces, workspace=tmp_path, settings=CPU)
    assert len(answered) == 10
    assert torch.equal(load_file(kept)["probabilities"], whole)


def test_tensors_that_cannot_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.safetensors"
    save_tensors(path, {"a": torch.ones(2)})

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("fer_deploy.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors(path, {"a": torch.zeros(2)})
    assert caught.value.errno == 28
    assert [file.name for file in tmp_path.iterdir()] == ["some.safetensors"]
    assert torch.equal(load_file(path)["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MPS backend out of memory (MPS allocated: 9 GB)", "the device is out of memory"),
        ("CUDA error: an illegal memory access was encountered", "the device was lost"),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1", "another process was lost"),
        ("[gloo/transport/tcp/pair.cc] Read error [127.0.0.1]: Connection reset by peer", "another process was lost"),
        ("[gloo/transport/tcp/pair.cc] writev [127.0.0.1]: Broken pipe", "another process was lost"),
    ],
)
def test_what_happened_to_the_device_is_said(text: str, said: str) -> None:
    assert str(describe_failure(RuntimeError(text))).startswith(said)
    assert describe_failure(RuntimeError("size mismatch")) is None


def test_teachers_are_asked_once(tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")

    class Ears(Silent):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def message(self, text: str) -> None:
            self.heard.append(text)

    def student(name: str, view: str) -> Recipe:
        distillation = Distillation(teachers=("small",), view=view, views=2, weight=0.7)  # type: ignore[arg-type]
        stage = Stage(epochs=4, batch_size=32, optimiser=Optimiser(lr=4e-3))
        return dataclasses.replace(small_recipe, name=name, distillation=distillation, stages=(stage,))

    first = Ears()
    train(student("one", "cached"), few_faces, workspace=tmp_path, settings=CPU, watcher=first)
    assert sum("1 teachers are labelling view" in line for line in first.heard) == 2  # two views, four epochs
    second = Ears()
    train(student("two", "cached"), few_faces, workspace=tmp_path, settings=CPU, watcher=second)
    assert not second.heard
    name = "weights.safetensors"
    assert sha256(tmp_path / "training/one" / name) == sha256(tmp_path / "training/two" / name)
    kept = next((tmp_path / "training/.soft_targets").iterdir())
    kept.write_bytes(b"broken")
    third = Ears()
    train(student("three", "cached"), few_faces, workspace=tmp_path, settings=CPU, watcher=third)
    assert any("damaged" in line for line in third.heard)
    assert sha256(tmp_path / "training/three" / name) == sha256(tmp_path / "training/one" / name)
    for view in ("same", "plain"):
        assert train(student(view, view), few_faces, workspace=tmp_path, settings=CPU).status == "complete"
    missing = dataclasses.replace(student("four", "same"), distillation=Distillation(teachers=("nobody",)))
    with pytest.raises(RunError, match="there is no run here"):
        train(missing, few_faces, workspace=tmp_path, settings=CPU)


def test_teachers_see_training_faces_alone_and_their_answers_are_learned_from(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every face once a view, none that equals a validation or test face; weight and temperature as the recipe says."""
    images = few_faces.training.images.copy()
    images[:5] = few_faces.test.images[:5]  # these five are no training faces then
    dataset = dataclasses.replace(few_faces, training=dataclasses.replace(few_faces.training, images=images))
    shutil.copytree(finished / "training", tmp_path / "training")
    shown: list[bytes] = []
    used: list[tuple[float, float, float]] = []
    real_show, real_loss, real_distilled = Lesson.show, loss_on_targets, distillation_loss

    def show(self: Lesson, faces: torch.Tensor, chosen: torch.Tensor, how: Augmentation, *, size: int) -> torch.Tensor:
        if sys._getframe(1).f_code.co_filename == teachers.__file__:  # for a teacher
            shown.extend(face.numpy().tobytes() for face in faces[chosen])
        return real_show(self, faces, chosen, how, size=size)

    def plain(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
        used.append((float((value := real_loss(logits, targets, loss)).detach()), 0.0, 0.0))
        return value

    def distilled(logits: torch.Tensor, teacher: torch.Tensor, how: Distillation) -> torch.Tensor:
        assert torch.allclose(teacher.sum(1), torch.ones(len(teacher)), atol=2e-3)
        value = real_distilled(logits, teacher, how)
        used[-1] = (used[-1][0], float(value.detach()), how.temperature)
        return value

    class Losses(Silent):
        rows: ClassVar[list[float]] = []

        def epoch(self, row: EpochRow, *, best: bool) -> None:
            self.rows.append(row.training_loss)

    monkeypatch.setattr(Lesson, "show", show)
    monkeypatch.setattr(step, "loss_on_targets", plain)
    monkeypatch.setattr(step, "distillation_loss", distilled)
    recipe = dataclasses.replace(
        small_recipe,
        name="pupil",
        distillation=Distillation(teachers=("small", "small"), views=3, weight=0.7, temperature=4.0),
        stages=(Stage(epochs=5, batch_size=55),),
    )
    train(recipe, dataset, workspace=tmp_path, settings=CPU, watcher=Losses())
    clean = [face.tobytes() for face in images[5:]]
    assert sorted(shown) == sorted(clean * 3 * 2)  # three views, two teachers
    assert {temperature for _, _, temperature in used} == {4.0}
    means = [
        sum(0.3 * own + 0.7 * taught for own, taught, _ in used[start : start + 5]) / 5 for start in range(0, 25, 5)
    ]
    assert pytest.approx(means, rel=1e-5) == Losses.rows
    kept = list((tmp_path / "training/.soft_targets").glob("*.safetensors"))
    assert len(kept) == 3
    assert {tuple(load_file(path)["probabilities"].shape) for path in kept} == {(275, 7)}


def test_cached_views_come_round_again_mirrored(finished: Path, few_faces: Dataset) -> None:
    """The pupil sees each kept view and its mirror image in turn, with the same answer; never mirrored where the
    recipe never mirrors."""
    taught = Distillation(teachers=("small",), views=2)
    teachers = Teachers(taught, workspace=finished, device=torch.device("cpu"))
    images = torch.from_numpy(few_faces.training.images[:64])

    def shown(epoch: int, augmentation: Augmentation) -> tuple[torch.Tensor, torch.Tensor]:
        lesson, answers = teachers.for_epoch(
            [FaceSet(images, few_faces.sha256)], augmentation, epoch=epoch, message=lambda line: None
        )
        assert lesson is not None
        assert answers is not None
        return lesson.show(images, torch.arange(len(images)), augmentation, size=48), answers

    turning = Augmentation(flip=0.5, rotation=10, shift=0.1)
    first, second, third, fifth = (shown(epoch, turning) for epoch in (0, 1, 2, 4))
    assert not torch.allclose(first[0], second[0], atol=0.1)
    assert torch.allclose(third[0], first[0].flip(3), atol=1e-3)
    assert torch.equal(third[1], first[1])
    assert torch.equal(fifth[0], first[0])
    onward = dataclasses.replace(turning, flip=0.0)
    assert torch.equal(shown(0, onward)[0], shown(2, onward)[0])


def test_the_same_faces_in_another_order_are_asked_about_anew(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training", ignore=shutil.ignore_patterns(".*"))
    recipe = dataclasses.replace(
        small_recipe, name="pupil", distillation=Distillation(teachers=("small",), view="plain"),
        stages=small_recipe.stages[:1],
    )  # fmt: skip
    turned = few_faces.training.take(np.arange(len(few_faces.training))[::-1])
    for name, faces in (("pupil", few_faces), ("other", dataclasses.replace(few_faces, training=turned))):
        train(recipe, faces, workspace=tmp_path, name=name, settings=CPU)
    first, second = (load_file(path)["probabilities"] for path in (tmp_path / "training/.soft_targets").iterdir())
    assert torch.allclose(first, second.flip(0), atol=1e-2)
    assert not torch.allclose(first, second, atol=1e-2)


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A workspace with 70 pictures in `faces/`."""
    (tmp_path / "faces").mkdir()
    for row, image in enumerate(synthetic_dataset(70).training.images):
        Image.fromarray(image).save(tmp_path / f"faces/{row:02}.png")
    return tmp_path


@pytest.mark.parametrize(("view", "alpha"), [("cached", 0.0), ("cached", 1.0), ("plain", 0.0)])
def test_faces_without_labels_are_learned_as_the_teachers_name_them(
    view: str,
    alpha: float,
    unlabelled: Path,
    finished: Path,
    few_faces: Dataset,
    small_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their targets are the kept answers; the labelled faces keep their own labels and the answers they had."""
    shutil.copytree(finished / "training", unlabelled / "training", ignore=shutil.ignore_patterns(".*"))
    own, teacher = [], []

    def keep(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
        own.append(targets)
        return loss_on_targets(logits, targets, loss)

    def distilled(logits: torch.Tensor, answers: torch.Tensor, taught: Distillation) -> torch.Tensor:
        teacher.append(answers)
        return distillation_loss(logits, answers, taught)

    monkeypatch.setattr(step, "loss_on_targets", keep)
    monkeypatch.setattr(step, "distillation_loss", distilled)
    taught = Distillation(("small",), view=view, views=2, mixup_alpha=alpha, unlabelled="faces")  # type: ignore[arg-type]
    stage = Stage(epochs=1, batch_size=350)
    pupil = dataclasses.replace(small_recipe, name="pupil", distillation=taught, stages=(stage,))
    outcome = train(pupil, few_faces, workspace=unlabelled, settings=CPU)
    data = outcome.run().record["data"]
    further = read_unlabelled(unlabelled / "faces", few_faces)
    assert data["unlabelled_faces"] == len(further) == 70
    assert data["training_rows"] == 280
    assert outcome.run().record["images_seen"] == 350
    assert data["unlabelled_sha256"] == hashlib.sha256(further.tobytes()).hexdigest()
    alike = (own[0] == teacher[0]).all(1)
    assert int(alike.sum()) == 70
    if not alpha:
        labels = torch.bincount(own[0][~alike].argmax(1), minlength=7)
        assert labels.tolist() == list(few_faces.training.counts)
    kept = {len(load_file(path)["probabilities"]) for path in (unlabelled / "training/.soft_targets").iterdir()}
    assert kept == {280, 70}


def test_a_run_with_unlabelled_faces_goes_on_to_the_same_weights_and_with_the_same_faces(
    unlabelled: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe
) -> None:
    shutil.copytree(finished / "training", unlabelled / "training")
    taught = Distillation(("small",), views=2, mixup_alpha=1.0, unlabelled="faces")
    stage = Stage(epochs=2, batch_size=70, optimiser=Optimiser(lr=4e-3))
    pupil = dataclasses.replace(small_recipe, distillation=taught, stages=(stage,), precise_bn=0.5)
    whole = train(pupil, few_faces, workspace=unlabelled, name="whole", settings=CPU)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 7

    def go_on() -> str:
        return train(pupil, few_faces, workspace=unlabelled, name="parts", settings=CPU, should_stop=stop).status

    assert go_on() == "stopped"
    moved = (unlabelled / "faces/07.png").rename(unlabelled / "07.png")
    with pytest.raises(RunError, match=r"parts: began with other unlabelled faces: .* --restart"):
        go_on()
    moved.rename(unlabelled / "faces/07.png")
    assert go_on() == "complete"
    assert sha256(unlabelled / "training/parts/weights.safetensors") == sha256(whole.folder / "weights.safetensors")
    shutil.rmtree(unlabelled / "faces")
    assert go_on() == "already complete"


def test_a_missing_folder_of_unlabelled_faces_is_said_before_anything_is_written(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")
    pupil = dataclasses.replace(small_recipe, distillation=Distillation(("small",), unlabelled="data/faces"))
    with pytest.raises(DataError, match=r"data/faces: no such folder"):
        train(pupil, few_faces, workspace=tmp_path, name="pupil", settings=CPU)
    assert not (tmp_path / "training/pupil").exists()


def test_other_teachers_show_other_views_and_the_same_ones_the_same(finished: Path, few_faces: Dataset) -> None:
    images = torch.from_numpy(few_faces.training.images[:64])

    def views(*names: str) -> torch.Tensor:
        teachers = Teachers(Distillation(teachers=names, views=2), workspace=finished, device=torch.device("cpu"))
        lesson, _ = teachers.for_epoch(
            [FaceSet(images, few_faces.sha256)], Augmentation(shift=0.1), epoch=0, message=lambda line: None
        )
        assert lesson is not None
        return lesson.views

    assert torch.equal(views("small"), views("small"))
    assert not torch.allclose(views("small"), views("small", "small"), atol=1e-3)
    assert not torch.allclose(views("small"), views("small~mirror"), atol=1e-3)


def test_a_teacher_can_be_asked_about_the_mirrored_face(finished: Path) -> None:
    taught = Distillation(teachers=("small", "small~mirror"))
    assert member_runs(taught.teachers) == ("small",)
    teachers = Teachers(taught, workspace=finished, device=torch.device("cpu"))
    network = Run.open(finished / "training/small").network().eval()
    faces = torch.rand(9, 1, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        straight, turned = (torch.softmax(network(seen), 1) for seen in (faces, faces.flip(3)))
    assert not torch.allclose(straight, turned, atol=1e-3)
    assert torch.allclose(teachers.answer(lambda size: faces), (straight + turned) / 2, atol=1e-5)


def test_precise_batch_norm_is_measured_on_faces_as_they_are(tmp_path: Path, few_faces: Dataset) -> None:
    """The first batch norm's figures become those of the stem's answers to plain training faces; nothing else moves."""
    stage = Stage(epochs=2, batch_size=40, optimiser=Optimiser(lr=4e-3))
    turning = Augmentation(rotation=40, cutout=1.0, fill="edge")
    recipe = Recipe("bn", "batch norm", Network("plain", options={"widths": (4,), "depths": (1,)}), (stage,))
    recipe = dataclasses.replace(recipe, augmentation=turning)

    def trained(share: float) -> dict[str, torch.Tensor]:
        asked = dataclasses.replace(recipe, name=f"bn{share}", precise_bn=share)
        run = train(asked, few_faces, workspace=tmp_path, settings=CPU).run()
        return {name: tensor.float() for name, tensor in load_file(run.folder / "weights.safetensors").items()}

    never, half, wholly = trained(0.0), trained(0.5), trained(1.0)
    figures = [name for name in never if name.endswith(("running_mean", "running_var"))]
    for name, before in never.items():
        if name in figures:
            assert torch.allclose(half[name], (before + wholly[name]) / 2, rtol=4e-3, atol=1e-4)
        else:
            assert torch.equal(before, wholly[name])
    assert any(not torch.allclose(never[name], wholly[name], rtol=0.02) for name in figures)
    network = Run.open(tmp_path / "training/bn1.0").network().eval()
    stem = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network((torch.from_numpy(few_faces.training.images).float().unsqueeze(1) - 127.5) / 127.5)
    assert stem.running_mean is not None
    assert stem.running_var is not None
    assert torch.allclose(stem.running_mean, seen[0].mean((0, 2, 3)), rtol=4e-3, atol=1e-3)
    assert torch.allclose(stem.running_var, seen[0].var((0, 2, 3)), rtol=4e-3, atol=1e-3)


@pytest.mark.parametrize("view", ["cached", "same"])
def test_teachers_are_asked_about_the_mixtures_that_the_pupil_sees(
    view: str,
    tmp_path: Path,
    finished: Path,
    few_faces: Dataset,
    small_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each batch's soft targets are what the teacher says of the batch's own pictures, and the labels are mixed too."""
    shutil.copytree(finished / "training", tmp_path / "training")
    kept = tmp_path / "training/.soft_targets"
    kept.mkdir(exist_ok=True)
    before = set(kept.iterdir())
    teacher = Run.open(tmp_path / "training/small").network().eval()
    real_step = fit.take_step
    largest_shares: list[float] = []

    def check_batch(trained: torch.nn.Module, batch: Batch, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.soft_targets is not None
        with torch.no_grad():
            answers = torch.softmax(teacher(batch.faces), 1)
        assert torch.allclose(batch.soft_targets, answers, atol=2e-3)
        assert torch.allclose(batch.targets.sum(1), torch.ones(len(batch)), atol=1e-5)
        largest_shares.extend(batch.targets.amax(1).tolist())
        return real_step(trained, batch, *others)

    monkeypatch.setattr(fit, "take_step", check_batch)
    cached = view == "cached"
    mixing = Mixing() if cached else Mixing(mixup_alpha=1.0)
    recipe = dataclasses.replace(
        small_recipe,
        name="pupil",
        distillation=Distillation(("small",), view=view, views=2, mixup_alpha=float(cached)),  # type: ignore[arg-type]
        stages=(Stage(epochs=2, batch_size=40, mixing=mixing),),
    )
    assert train(recipe, few_faces, workspace=tmp_path, settings=CPU).status == "complete"
    assert len(largest_shares) == 2 * 280
    assert sum(share < 0.99 for share in largest_shares) / len(largest_shares) > 0.4
    assert len(set(kept.iterdir()) - before) == 2 * cached


def test_mixtures_and_faces_as_they_are_are_kept_apart(finished: Path, few_faces: Dataset) -> None:
    images = torch.from_numpy(few_faces.training.images[:64])

    def answers(alpha: float) -> torch.Tensor:
        taught = Distillation(teachers=("small",), views=2, mixup_alpha=alpha)
        teachers = Teachers(taught, workspace=finished, device=torch.device("cpu"))
        _, said = teachers.for_epoch(
            [FaceSet(images, few_faces.sha256)], Augmentation(shift=0.1), epoch=0, message=lambda line: None
        )
        assert said is not None
        return said

    first, mixed, other = answers(0.0), answers(1.0), answers(0.3)
    assert torch.equal(first, answers(0.0))
    assert torch.equal(mixed, answers(1.0))
    assert not torch.allclose(first, mixed, atol=1e-2)
    assert not torch.allclose(other, mixed, atol=1e-2)


def test_a_run_older_than_a_key_of_the_schema_is_gone_on_with(
    finished: Path, tmp_path: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")
    path = tmp_path / "training/small/run.json"
    record = json.loads(path.read_text())
    for stage in record["fingerprint"]["recipe"]["stage"]:
        del stage["patience"]
    record["fingerprint"]["recipe"]["study"] = {"accuracy": 0.5, "gflops": 0.1}  # earlier versions kept it there
    path.write_text(json.dumps(record))
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "already complete"
    record["fingerprint"]["recipe"]["stage"][0]["epochs"] = 99
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"another recipe.stage.0.epochs \(the folder's: 99, yours: 4\)"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)


def test_ferplus_trains_on_votes_and_needs_them(tmp_path: Path, few_faces: Dataset, small_recipe: Recipe) -> None:
    recipe = dataclasses.replace(small_recipe, name="plus", labels="ferplus", stages=small_recipe.stages[1:])
    with pytest.raises(DataError, match=r"fer2013new.csv"):
        train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    order = [4, 5, 6, 1, 3, 2, 0]  # where anger, disgust, fear, happiness, sadness, surprise, neutral stand in FER+

    def vote(faces: Faces) -> Faces:
        votes = np.zeros((len(faces), 10), np.uint8)
        votes[np.arange(len(faces)), [order[label] for label in faces.labels]] = 8
        votes[:, 7] = 1
        votes[0], votes[1, 8] = 0, 9  # one without votes, one mostly unknown
        return dataclasses.replace(faces, votes=votes)

    voted = dataclasses.replace(few_faces, training=vote(few_faces.training), validation=vote(few_faces.validation))
    record = train(recipe, voted, workspace=tmp_path, settings=CPU).run().record
    assert record["data"]["training_rows"] == len(few_faces.training) - 2
    assert record["recipe"]["labels"] == "ferplus"


def test_copies_of_later_faces_are_left_out(tmp_path: Path, few_faces: Dataset, small_recipe: Recipe) -> None:
    images = few_faces.training.images.copy()
    images[:5] = few_faces.test.images[:5]
    copied = dataclasses.replace(few_faces, training=dataclasses.replace(few_faces.training, images=images))
    recipe = dataclasses.replace(small_recipe, stages=small_recipe.stages[1:])
    record = train(recipe, copied, workspace=tmp_path, settings=CPU).run().record
    assert record["data"]["copies_left_out"] == 5
    assert record["data"]["training_rows"] == len(images) - 5


def test_a_device_that_is_not_there_is_refused() -> None:
    absent = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(UnavailableError, match="use --device cpu"):
        choose_device(absent)


def test_curves_are_drawn(finished: Path) -> None:
    assert draw_curves(finished / "training/small").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="no history"):
        draw_curves(finished)


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ('{"format": 1, "status": "complete", "best": {"epoch": 3}}', 2),
        ('{"format": 1, "status": "training", "best": null}', 1),  # nothing is kept yet: the most accurate
        ("damaged", 1),
    ],
)
def test_curves_mark_the_epoch_whose_weights_were_kept(tmp_path: Path, record: str, place: int) -> None:
    (tmp_path / "run.json").write_text(record)
    assert _best(tmp_path, [1, 2, 3], [0.5, 0.7, 0.6]) == place


def test_the_best_epoch_is_chosen_by_what_the_recipe_says(
    tmp_path: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    """On the same course, the epoch of the highest accuracy or of the least loss: here they are not the same."""
    chosen = {}
    for best_by in ("accuracy", "loss"):
        recipe = apply_settings(small_recipe, [f"best_by={best_by}"])
        run = train(recipe, few_faces, workspace=tmp_path, settings=CPU, name=best_by).run()
        with (run.folder / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        accuracies = [float(row["validation_accuracy"]) for row in rows]
        losses = [-float(row["validation_loss"]) for row in rows]
        by = accuracies if best_by == "accuracy" else losses
        chosen[best_by] = run.record["best"]["epoch"]
        assert chosen[best_by] == 1 + by.index(max(by))
    assert chosen["accuracy"] != chosen["loss"]
