"""The pipeline as functions: the same files as the commands, errors of one class, and no side effects."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fer_deploy import api
from fer_deploy.errors import DataError, ExportError, FerDeployError, MeasurementError, RecipeError, RunError
from fer_deploy.faces.dataset import Dataset
from fer_deploy.training.run import Run
from fer_deploy.training.watcher import EpochRow, Silent

RECIPE = """
name = "tiny"
title = "a recipe of the tests"
network = { name = "plain", options = { widths = [4, 8, 16], depths = [1, 1, 1], stem_stride = 2 } }
[[stage]]
epochs = 2
batch_size = 16
optimiser = { lr = 1e-2 }
"""


@pytest.fixture(scope="module", autouse=True)
def _no_kernels() -> Iterator[None]:
    """Compiling the kernels takes longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FERDEPLOY_KERNELS", "0")
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data() -> Dataset:
    return api.load_data("synthetic:84", progress=False)


@pytest.fixture(scope="module")
def run(workspace: Path, data: Dataset) -> Run:
    return api.train(workspace / "tiny.toml", data, workspace=workspace, device="cpu", progress=False)


def test_a_run_is_trained_exported_verified_and_measured(workspace: Path, data: Dataset, run: Run) -> None:
    assert run.folder == workspace / "training" / "tiny"
    assert 0 <= run.validation_accuracy <= 1
    (file,) = api.export(run, data=data, progress=False)
    assert file.path == workspace / "exports" / "tiny.onnx"
    assert api.verify(file.path, data=data, progress=False).verdict == "proven"
    report = api.bench(file.path, data=data, quick=True, output=workspace / "bench", progress=False)
    (row,) = report.rows
    assert row.status == "ok"
    assert row.quality is not None
    assert row.quality.accuracy.value == pytest.approx(file.accuracy)
    assert json.loads((workspace / "bench" / "report.json").read_text())["rows"][0]["name"] == "tiny"


def test_watchers_see_the_epochs_and_a_complete_run_is_returned(workspace: Path, data: Dataset, run: Run) -> None:
    seen: list[int] = []

    class Counter(Silent):
        def epoch(self, row: EpochRow, *, best: bool) -> None:
            seen.append(row.epoch)

    recipe = api.load_recipe(workspace / "tiny.toml", changes=["stage.0.batch_size=64"])
    again = api.train(
        recipe, data, name="second", epochs=1, workspace=workspace, device="cpu", watchers=[Counter()], progress=False
    )
    assert seen == [1]
    assert again.name == "second"
    same = api.train(workspace / "tiny.toml", data, workspace=workspace, device="cpu", progress=False)
    assert same.weights_sha256 == run.weights_sha256


def test_runs_are_fused(workspace: Path, data: Dataset, run: Run) -> None:
    (file,) = api.export(run, "tiny~mirror", weights=[3, 1], name="both", progress=False)
    assert file.path.name == "both.onnx"
    assert file.weights.values == (0.75, 0.25)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda home: api.load_data(home / "nothing"), DataError),
        (lambda home: api.load_recipe("no-such-recipe"), RecipeError),
        (lambda home: api.load_recipe("plain", changes=["stage.0.lr=1"]), RecipeError),
        (lambda home: api.export("absent", workspace=home, progress=False), RunError),
        (lambda home: api.export(workspace=home), ExportError),
        (lambda home: api.export("tiny", workspace=home, weights=[1.0]), ExportError),
        (lambda home: api.bench("absent", workspace=home, progress=False), MeasurementError),
    ],
)
def test_errors_are_of_one_class(call: Callable[[Path], object], error: type[FerDeployError], workspace: Path) -> None:
    with pytest.raises(error) as caught:
        call(workspace)
    assert "\n" not in str(caught.value)


def test_a_wrong_text_of_labels_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="labels"):
        api.load_data("synthetic", labels="=")
    with pytest.raises(ValueError, match="split"):
        api.load_data("synthetic", split="80/20")


def test_nothing_global_changes(workspace: Path, data: Dataset, run: Run) -> None:
    check = (
        "import os, signal, sys\n"
        "def state(): return (os.getcwd(), dict(os.environ), signal.getsignal(signal.SIGINT), "
        "signal.getsignal(signal.SIGTERM), sys.stdout, sys.stderr)\n"
        "import torch; torch.set_num_threads(1)\n"
        "import fer_deploy, onnxruntime\n"
        "before = state()\n"
        "from fer_deploy import api\n"
        f"data = api.load_data('synthetic:84'); home = {str(workspace)!r}\n"
        "api.train(home + '/tiny.toml', data, name='third', epochs=1, workspace=home, device='cpu')\n"
        "api.verify(home + '/exports/tiny.onnx', workspace=home + '/none')\n"
        "assert state() == before and torch.get_num_threads() == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_it_is_light() -> None:
    check = "import fer_deploy.api, sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, env=os.environ)
    for heavy in ("torch", "onnx", "onnxruntime", "PIL", "rich", "click"):
        assert f"'{heavy}'" not in done.stdout


@pytest.mark.parametrize("name", api.__all__)
def test_every_function_and_argument_is_documented(name: str) -> None:
    function = getattr(api, name)
    text = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter}: " in text, f"{name}: {parameter}"
    assert "Raises:" in text or name == "verify"


def test_arguments_of_other_types_are_refused_in_one_line() -> None:
    with pytest.raises(TypeError, match="labels must be text such as 'sad,happy'"):
        api.load_data("synthetic:50", labels=["sad", "happy"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="split must be text such as '80/10/10'"):
        api.load_data("synthetic:50", split=(80, 10, 10))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data must be what load_data returns, not str"):
        api.train("plain", "faces/")  # type: ignore[arg-type]
