"""Two processes train as one: started by torchrun, they follow the single process's losses at the same global batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fer_deploy.training.devices import Processes
from fer_deploy.training.step import shard

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LAUNCHER = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
RECIPE = """
name = "pair"
title = "no batch norm, whose statistics each process would take of its own faces"
network = { name = "baseline" }
augmentation = { flip = 0.5, rotation = 10.0 }
[[stage]]
epochs = 2
batch_size = 32
clip = 1.0
optimiser = { lr = 1e-4 }
mixing = { mixup_alpha = 0.4 }
"""


@pytest.mark.parametrize("sampler", ["shuffled", "balanced"])
def test_two_processes_follow_one(sampler: str, tmp_path: Path) -> None:
    recipe = tmp_path / "pair.toml"
    recipe.write_text(RECIPE + f'sampler = "{sampler}"\n')
    arguments = ["train", str(recipe), "--data", "synthetic:70", "--device", "cpu", "--threads", "1", "--workspace"]
    for name, start in (("one", []), ("two", LAUNCHER)):
        done = subprocess.run(
            [sys.executable, *start, "-m", "fer_deploy", *arguments, str(tmp_path / name)],
            env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (list(csv.DictReader((tmp_path / name / "training/pair/history.csv").open())) for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for alone, together in zip(one, two, strict=True):
        assert abs(float(alone["training_loss"]) - float(together["training_loss"])) < 1e-4
        assert abs(float(alone["validation_loss"]) - float(together["validation_loss"])) < 1e-4
        assert alone["images_seen"] == together["images_seen"]
    assert "Traceback" not in done.stderr
    assert done.stdout.count("complete:") == 1  # one process alone speaks and writes


def test_two_processes_train_one_run_after_another(tmp_path: Path) -> None:
    """Their group stays: made a second time, it would wait for ever."""
    small = RECIPE.replace('"baseline"', '"plain", options = { widths = [4, 8], depths = [1, 1], stem_stride = 2 }')
    recipes = []
    for name in ("first", "second"):
        recipes.append(tmp_path / f"{name}.toml")
        recipes[-1].write_text(small.replace('"pair"', f'"{name}"').replace("epochs = 2", "epochs = 1"))
    done = subprocess.run(
        [sys.executable, *LAUNCHER, "-m", "fer_deploy", "train", *map(str, recipes), "--data", "synthetic:70",
         "--device", "cpu", "--threads", "1", "--workspace", str(tmp_path)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines() if " complete: " in line] == ["first", "second"]


UNLIKE = """
import os
import sys
from pathlib import Path
import torch
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import load_recipe
from fer_deploy.training import fit

torch.set_num_threads(1)
# the second process finds no epoch better than the one before it
calls = []
fit.validate = lambda *_, size: (1.0, 0.1 * (calls.append(1) or len(calls)) * (os.environ["RANK"] == "0"), 0.5)
settings = fit.Settings(device="cpu")
fit.train(load_recipe(sys.argv[1]), synthetic_dataset(70), workspace=Path(sys.argv[2]), settings=settings)
"""


def test_processes_judge_an_epoch_alike(tmp_path: Path) -> None:
    """Batch norms saw other faces in each process: what the first one finds decides for all, or one would leave."""
    recipe, script = tmp_path / "pair.toml", tmp_path / "unlike.py"
    recipe.write_text(RECIPE.replace("epochs = 2", "epochs = 3\npatience = 1"))
    script.write_text(UNLIKE)
    done = subprocess.run(
        [sys.executable, *LAUNCHER, str(script), str(recipe), str(tmp_path)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(csv.DictReader((tmp_path / "training/pair/history.csv").open()))) == 3


@pytest.mark.parametrize(("size", "count"), [(32, 2), (30, 2), (64, 4), (60, 4)])
def test_shards_hold_every_face_once_and_whole_pairs(size: int, count: int) -> None:
    batch = torch.arange(size)
    shards = [shard(batch, Processes(rank, count)) for rank in range(count)]
    assert sorted(torch.cat(shards).tolist()) == list(range(size))
    assert {len(part) for part in shards} == {size // count}
    if (size // count) % 2 == 0:
        for part in shards:  # MixUp pairs a face with its mirror place: in the shard as in the batch
            assert torch.equal(part.flip(0), size - 1 - part)
