"""Runs that stop resume to the same bits, whatever stopped them: time, kill -9, a full disk, a lost device."""

from __future__ import annotations

import csv
import dataclasses
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from training_helpers import BadLoss, sha256, stops_at

from fer_deploy.errors import RunError, TrainingError
from fer_deploy.faces import Dataset
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import (
    Network,
    Optimiser,
    Recipe,
    Stage,
    apply_settings,
    parse_recipe,
)
from fer_deploy.training import fit, optim, step, teachers
from fer_deploy.training.checkpoint import read_checkpoint, save_tensors
from fer_deploy.training.devices import Processes, describe_failure
from fer_deploy.training.fit import Settings, train

CPU = Settings(device="cpu")
REPOSITORY = Path(__file__).resolve().parents[2]


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


def test_a_time_limit_ends_cleanly_and_the_next_call_resumes(
    tmp_path: Path, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    limited = dataclasses.replace(CPU, limit_seconds=0.5)  # at least a second is kept back for saving
    outcome = train(small_recipe, few_faces, workspace=tmp_path, settings=limited)
    assert outcome.status == "stopped"
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "complete"
    name = "training/small/weights.safetensors"
    assert sha256(tmp_path / name) == sha256(finished / name)


def test_a_run_ends_before_its_time_limit(tmp_path: Path, small_recipe: Recipe) -> None:
    """Validation and saving are part of the time; a moment more is for a machine with other work."""

    recipe = apply_settings(small_recipe, ["stage.0.epochs=5000"])
    faces = synthetic_dataset(1400)
    faces.sha256, faces.copies  # noqa: B018  counted once a data set, before the clock starts
    began = time.monotonic()
    outcome = train(recipe, faces, workspace=tmp_path, settings=dataclasses.replace(CPU, limit_seconds=4.0))
    took = time.monotonic() - began
    assert outcome.status == "stopped"
    assert took < 40  # a run of 5,000 epochs takes minutes; the margin is for a busy machine
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
from fer_deploy.training.checkpoint import read_checkpoint
from fer_deploy.training.fit import train, Settings
from fer_deploy.training.record import read_record
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
    record, checkpoint = folder / "run.json", folder / "checkpoint.safetensors"
    if checkpoint.exists():
        read_checkpoint(checkpoint)  # whole, or it raises
    if record.exists() and read_record(record)["status"] == "complete":
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
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] >= 20
    assert result["grew"]
    name = "training/small/weights.safetensors"
    assert sha256(tmp_path / "killed" / name) == sha256(tmp_path / "whole" / name)
    assert not [path.name for path in (tmp_path / "killed/training/small").iterdir() if path.suffix == ".partial"]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
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
    """The error that PyTorch raises when a GPU falls off, in the middle of an epoch; then the run resumes."""
    monkeypatch.setattr(step, "loss_on_targets", BadLoss(21, error))
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


def test_a_programming_error_is_not_called_a_lost_device(
    tmp_path: Path, small_recipe: Recipe, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "loss_on_targets", BadLoss(2, RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)


def test_a_checkpoint_without_a_scaler_resumes_with_one(
    tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A float16 recipe begun on a CPU, which has no scaler, resumes where there is one, and the other way round."""
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


def test_a_run_does_not_resume_with_another_batch_size(
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


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("MPS backend out of memory (MPS allocated: 9 GB)", "the device is out of memory"),
        ("CUDA error: an illegal memory access was encountered", "the device was lost"),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1", "another process was lost"),
        ("[gloo/transport/tcp/pair.cc] Read error [127.0.0.1]: Connection reset by peer", "another process was lost"),
        ("[gloo/transport/tcp/pair.cc] writev [127.0.0.1]: Broken pipe", "another process was lost"),
    ],
)
def test_failures_of_the_device_are_described(text: str, description: str) -> None:
    assert str(describe_failure(RuntimeError(text))).startswith(description)
    assert describe_failure(RuntimeError("size mismatch")) is None
