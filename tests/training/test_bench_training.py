"""`make bench-training`: four honest rates in one run, and one line of JSON at its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fer_deploy.faces import Dataset
from fer_deploy.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "bench_training.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))
    import bench_training

    yield bench_training
    sys.path.remove(str(SCRIPT.parent))


def test_it_ends_with_one_line_of_json(tmp_path: Path) -> None:
    """From another folder, as a script, for a small network: the figures, the files, and what was measured on what."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--network", "plain", "--batch", "32", "--seconds", "0.2", "--rounds", "2",
         "--threads", "1", "--workers", "1", "--device", "cpu", "--data", "synthetic:280", "--output", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert list(last) == ["eager", "bare", "full", "conventional"]
    assert all(rate > 0 for rate in last.values())
    result = json.loads((tmp_path / "training-speed.json").read_text())
    assert result["images_per_second"] == last
    assert {name: len(rates) for name, rates in result["rounds"].items()} == dict.fromkeys(last, 2)
    assert result["conventional"]["memory_layout"] == "contiguous"
    assert (result["conventional"]["workers"], result["threads"], result["batch"]) == (1, 1, 32)
    assert result["machine"]["processor"]
    page = (tmp_path / "training-speed.md").read_text()
    assert page in done.stdout
    assert "| conventional |" in page
    assert "at least" not in page  # what is promised is promised of EfficientNet-B0


def test_a_wrong_number_is_wrong_usage(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["--rounds", "0"])
    assert caught.value.code == 2
    assert "argument --rounds: invalid positive value: '0'" in capsys.readouterr().err
    assert script.main(["--data", "nowhere.csv"]) == 1
    assert capsys.readouterr().err.startswith("error: no data set at nowhere.csv")


def plan_of(script: ModuleType, **changes: object) -> object:
    given = {
        "network": "plain", "batch": 28, "seconds": 0.3, "rounds": 3, "threads": 1, "workers": 0,
        "device": torch.device("cpu"), "precision": "float32", **changes,
    }  # fmt: skip
    return script.Plan(**given)


def test_a_turn_counts_its_own_steps_and_no_warm_up(script: ModuleType) -> None:
    steps = []

    def step() -> int:
        steps.append(time.perf_counter())
        time.sleep(0.02 if len(steps) > 2 else 0.3)  # the first two are slow, and are warm-up
        return 10

    rate = script.Turns(plan_of(script), step, warm_up=2).measure()
    assert 10 / 0.02 * 0.5 < rate < 10 / 0.02


def test_full_is_training_itself_with_recipe_bs_first_stage(
    script: ModuleType, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fit.train` is called, its batches are counted, and between two of them the others have their turns."""
    recipe = script.stage_one(plan_of(script))
    theirs = load_recipe("B")
    assert recipe.augmentation == theirs.augmentation
    for key in ("optimiser", "schedule", "loss", "mixing", "clip", "ema", "augmentation"):
        assert getattr(recipe.stages[0], key) == getattr(theirs.stages[0], key)
    assert script.stage_one(plan_of(script, network="efficientnet-b0")).network == theirs.network
    events: list[str] = []
    real = script.train

    def train(recipe: object, dataset: object, *, watcher: object, **options: object) -> object:
        class Slow(type(watcher)):  # type: ignore[misc]
            """Twenty milliseconds more a batch."""

            def batch(self, report: object) -> None:
                time.sleep(0.02)
                events.append("batch")
                super().batch(report)

        watcher.__class__ = Slow
        return real(recipe, dataset, watcher=watcher, **options)

    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(
        script.Turns,
        "measure",
        lambda self: events.append("other") or 1.0,  # type: ignore[func-returns-value]
    )
    lines: list[str] = []
    rates = script.measure(plan_of(script, seconds=0.5, batch=14), few_faces, show=lines.append)
    assert [len(rates[name]) for name in script.NAMES] == [3] * 4
    assert len(lines) == 3
    assert events[:3] == ["other"] * 3
    turns = "".join("o" if event == "other" else "b" for event in events).split("ooo")
    assert len(turns) == 4
    assert all(set(turn) == {"b"} for turn in turns[1:])
    assert max(rates["full"]) < 14 / 0.02  # the sleep within a batch counts


def test_validation_is_not_counted_and_the_beginning_of_an_epoch_is(script: ModuleType) -> None:
    rates: list[float] = []
    watcher = script.Between(plan_of(script, seconds=0.5, rounds=1), lambda: None, rates.append)
    for _ in range(script.WARM_UP_STEPS):
        time.sleep(0.3)
        watcher.batch(None)
    for place in range(10):
        time.sleep(0.05)
        watcher.batch(None)
        if place == 4:
            time.sleep(1.0)  # validation, saving
            watcher.epoch(None, best=True)
    assert len(rates) == 1
    assert 28 / 0.05 / 3 < rates[0] <= 28 / 0.05
