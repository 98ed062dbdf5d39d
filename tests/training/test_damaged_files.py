"""Records, weights, checkpoints and caches that are damaged or hostile: one line, at once, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from training_helpers import sha256, stops_at

from fer_deploy.errors import FerDeployError, RecipeError, RunError, UnavailableError
from fer_deploy.faces import Dataset
from fer_deploy.machine import memory_bytes
from fer_deploy.recipes import Distillation, Recipe, Stage, apply_settings
from fer_deploy.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fer_deploy.training.curves import draw_curves
from fer_deploy.training.devices import join_processes
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.plan import plan_runs
from fer_deploy.training.record import read_record
from fer_deploy.training.run import Run, list_runs

CPU = Settings(device="cpu")


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Whatever waits, for example for a named pipe, fails."""

    def give_up(number: int, frame: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path, finished: Path) -> Path:
    """A complete run, to be damaged."""
    shutil.copytree(finished / "training/small", tmp_path / "training/small")
    return tmp_path / "training/small"


def put(record: dict[str, Any], key: str, value: Any) -> None:
    *tables, name = key.split(".")
    for part in tables:
        record = record[part]
    record[name] = value


NOT_NUMBERS = ["0.5", [1.0], {}, True, 1e300, -1, float("inf"), float("nan"), 10**400]


def kinds_of_damage() -> list[tuple[str, Any]]:
    cases: list[tuple[str, Any]] = []
    for key in ("temperature", "best.validation_accuracy", "gflops", "seconds"):
        cases += [(key, value) for value in NOT_NUMBERS]
    cases += [("best.validation_accuracy", 7.5), ("temperature", 0), ("temperature", 21)]
    for key in ("epochs_run", "epochs_planned", "best.epoch", "best.stage", "parameters", "images_seen", "seed"):
        cases += [(key, value) for value in ("1", [], True, -1, 1.5, 10**30)]
    for key in ("weights_sha256", "data.sha256"):
        cases += [(key, value) for value in (5, "ab", "z" * 64, "A" * 64, ["0" * 64])]
    for key in ("name", "initialisation", "data.name", "machine.device"):
        cases += [(key, value) for value in (5, None, "a\u001b[2J", "x" * 3000, ["a"])]
    for key in ("best", "data", "machine", "versions", "recipe", "fingerprint"):
        cases += [(key, value) for value in ("text", [1], 3)]
    cases += [("status", value) for value in ("done", 5, None, ["complete"])]
    cases += [("data.official", value) for value in (1, "yes")]
    return cases


@pytest.mark.parametrize(("key", "value"), kinds_of_damage(), ids=lambda value: repr(value)[:20])
def test_a_value_of_a_record_that_cannot_be_is_refused(key: str, value: Any, folder: Path) -> None:
    """Also infinities, NaN and numbers of 400 digits, which JSON text can hold."""
    record = json.loads((folder / "run.json").read_text())
    put(record, key, value)
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError) as caught:
        Run.open(folder)
    text = str(caught.value)
    assert "run.json: " in text
    assert key in text or "not JSON" in text
    assert text.isprintable()
    assert len(text) < 600
    with pytest.raises(RunError):
        list_runs(folder.parents[1])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"format": 2, "status": "complete"}', b'{"format": 1}', b"[" * 200_000, b"\xff\xfe",
     b'{"format": 1, "status": "complete", "epochs_run": ' + b"9" * 5000 + b"}",
     b'{"format": 1, "status": "complete", "temperature": 1e999}'],
)  # fmt: skip
def test_a_record_that_is_none_is_refused(content: bytes, folder: Path) -> None:
    (folder / "run.json").write_bytes(content)
    for use in (Run.open, lambda path: read_record(path / "run.json")):
        with pytest.raises(RunError, match=r"run\.json: ") as caught:
            use(folder)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", ["recipe", "best", "recipe.network", "recipe.stage", "recipe.name"])
def test_a_record_without_what_is_needed_is_refused(key: str, folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    *tables, name = key.split(".")
    table = record
    for part in tables:
        table = table[part]
    del table[name]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"run\.json: damaged run record: .*missing"):
        _ = Run.open(folder).validation_accuracy


def not_regular(path: Path, kind: str) -> None:
    """Put something in a file's place that is no file."""
    path.unlink(missing_ok=True)
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/zero")


KINDS = ["named pipe", "folder", "link to itself", "device"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "history.csv"])
def test_what_is_no_file_is_refused_at_once(name: str, kind: str, folder: Path) -> None:
    not_regular(folder / name, kind)
    use = draw_curves if name == "history.csv" else lambda path: Run.open(path).network()
    with pytest.raises(RunError, match=name):
        use(folder)


def nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)].view(-1)[0] = float("nan")


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and tensor.numel() > 1)


WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "NaN or infinite": nan,
    "NaN or infinite ": lambda tensors: tensors[first(tensors)].fill_(float("inf")),
    "missing in the file": lambda tensors: tensors.pop(first(tensors)),
    "missing in the file, which": lambda tensors: tensors.clear(),
    "unknown to the network": lambda tensors: tensors.update({"more\x1b[2J": torch.zeros(3)}),
    "has shape": lambda tensors: tensors.update({first(tensors): torch.zeros(3, 3)}),
    r"has shape \(2000,": lambda tensors: tensors.update({first(tensors): torch.zeros(2000, 2000)}),
    "has shape ": lambda tensors: tensors.update({first(tensors): torch.zeros(())}),
    "numbers of type torch.int32": lambda tensors: tensors.update(
        {first(tensors): torch.zeros(tensors[first(tensors)].shape, dtype=torch.int32)}
    ),
    "numbers of type torch.complex64": lambda tensors: tensors.update(
        {first(tensors): torch.zeros(tensors[first(tensors)].shape, dtype=torch.complex64)}
    ),
}


@pytest.mark.parametrize("problem", WEIGHTS)
def test_weights_that_do_not_fit_are_refused_though_the_record_has_their_hash(problem: str, folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    WEIGHTS[problem](tensors)
    content = save(tensors)
    (folder / "weights.safetensors").write_bytes(content)
    record = json.loads((folder / "run.json").read_text())
    record["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=rf"weights\.safetensors: tensor .*{problem.rstrip()}") as caught:
        Run.open(folder).network()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff" * 64, (10**18).to_bytes(8, "little") + b"{}", b"\x02" + b"\0" * 7 + b"{}"]
)
def test_weights_that_are_no_tensors_are_refused(content: bytes, folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(content)
    record = json.loads((folder / "run.json").read_text())
    record["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"weights\.safetensors: "):
        Run.open(folder).network()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe, few_faces: Dataset) -> Path:
    """A workspace with a run that was stopped in its second epoch."""
    workspace = tmp_path_factory.mktemp("stopped")
    train(small_recipe, few_faces, workspace=workspace, settings=CPU, should_stop=stops_at(14))
    return workspace


def change_state(key: str, value: Any) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        put(state, key, value)

    return change


def drop(prefix: str) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


def reshape(prefix: str, shape: tuple[int, ...]) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        name = next(name for name in sorted(tensors) if name.startswith(prefix) and tensors[name].numel() > 1)
        tensors[name] = torch.zeros(shape)

    return change


CHECKPOINTS = {
    "no tensors": drop(""),
    "no network": drop("network."),
    "no average": drop("average."),
    "no best": drop("best."),
    "another shape": reshape("network.", (5, 5)),
    "oversized": reshape("network.", (1000, 1000)),
    "one number for many": reshape("average.", (1,)),
    "a moment of another shape": reshape("optimiser.0.exp_avg", (7, 7)),
    "an unknown parameter": lambda tensors, state: tensors.update({"optimiser.9999.exp_avg": torch.zeros(3)}),
    "an unknown tensor": lambda tensors, state: tensors.update({"network.more": torch.zeros(3)}),
    "a name without a number": lambda tensors, state: tensors.update({"optimiser.x.exp_avg": torch.zeros(3)}),
    "no state": lambda tensors, state: state.clear(),
    "no progress": lambda tensors, state: state.pop("progress"),
    "no scheduler": lambda tensors, state: state.pop("scheduler"),
    "a list": change_state("progress", []),
    "a word for a stage": change_state("progress.stage", "one"),
    "a stage too many": change_state("progress.stage", 9),
    "a negative epoch": change_state("progress.epochs_run", -1),
    "true for an epoch": change_state("progress.epochs_run", True),
    "epochs without rows": change_state("progress.rows", []),
    "rows of another kind": change_state("progress.rows", [{"epoch": 1}]),
    "a row that is none": change_state("progress.rows", [5]),
    "a batch too many": change_state("progress.batch", 10**6),
    "a word for a sum": change_state("progress.loss_sum", "much"),
    "groups of another number": change_state("scheduler.groups", []),
    "a scheduler of another kind": change_state("scheduler", "constant"),
}


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused_and_stays(
    damage: str, tmp_path: Path, stopped: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    shutil.copytree(stopped / "training", tmp_path / "training")
    folder = tmp_path / "training/small"
    whole = read_checkpoint(folder / "checkpoint.safetensors")
    tensors, state = dict(whole.tensors), json.loads(json.dumps(dict(whole.state)))
    CHECKPOINTS[damage](tensors, state)
    write_checkpoint(folder / "checkpoint.safetensors", Checkpoint(tensors, state))
    before = {path.name: sha256(path) for path in folder.iterdir()}
    with pytest.raises(RunError, match=r"checkpoint\.safetensors: the checkpoint is damaged .*--restart"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)
    assert {path.name: sha256(path) for path in folder.iterdir()} == before


def test_a_checkpoint_that_lost_a_tensor_is_refused(
    tmp_path: Path, stopped: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    """A moment of the optimiser: PyTorch would begin it anew without a word."""
    shutil.copytree(stopped / "training", tmp_path / "training")
    path = tmp_path / "training/small/checkpoint.safetensors"
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["optimiser.0.exp_avg"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(RunError, match=r"the checkpoint is damaged .*a tensor is missing or unknown"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "run.json", "history.csv"])
def test_a_run_does_not_resume_from_what_is_no_file(
    name: str, kind: str, tmp_path: Path, stopped: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    shutil.copytree(stopped / "training", tmp_path / "training")
    not_regular(tmp_path / "training/small" / name, kind)
    with pytest.raises(RunError, match=name):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_that_are_no_file_are_refused_at_once(
    kind: str, tmp_path: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    path = tmp_path / "start.safetensors"
    not_regular(path, kind)
    recipe = apply_settings(small_recipe, [f"initialisation={path}"])
    with pytest.raises(FerDeployError, match=r"start\.safetensors"):
        train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    assert not (tmp_path / "training/small").exists()


@pytest.mark.parametrize("damage", ["named pipe", "folder", "NaN", "sums of two", "another shape", "no tensors"])
def test_damaged_answers_of_teachers_are_computed_again(
    damage: str, tmp_path: Path, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    shutil.copytree(finished / "training/small", tmp_path / "training/small")
    recipe = Recipe(
        "student", "t", small_recipe.network, (Stage(epochs=1, batch_size=70),),
        distillation=Distillation(("small",), view="plain"),
    )  # fmt: skip
    first = train(recipe, few_faces, workspace=tmp_path, name="first", settings=CPU)
    (answers,) = (tmp_path / "training/.soft_targets").iterdir()
    probabilities = load_file(answers)["probabilities"]
    if damage in KINDS:
        not_regular(answers, damage)
    elif damage == "NaN":
        probabilities[3, 2] = float("nan")
        save_file({"probabilities": probabilities}, answers)
    elif damage == "sums of two":
        save_file({"probabilities": probabilities * 2}, answers)
    elif damage == "another shape":
        save_file({"probabilities": probabilities[:, :3].contiguous()}, answers)
    else:
        save_file({}, answers)
    if damage in KINDS:  # it is not replaced by a file: one line
        with pytest.raises(RunError, match=r"\.soft_targets/\S+: a (named pipe|folder), which a file would replace"):
            train(recipe, few_faces, workspace=tmp_path, name="second", settings=CPU)
        return
    second = train(recipe, few_faces, workspace=tmp_path, name="second", settings=CPU)
    assert sha256(second.folder / "weights.safetensors") == sha256(first.folder / "weights.safetensors")


def test_a_damaged_record_of_a_dependency_is_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "training/plain"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"format": 1, "status": "training", "weights_sha256": ""}')
    (tmp_path / "student.toml").write_text(
        'name = "student"\ntitle = "t"\nnetwork = { name = "plain" }\ndistillation = { teachers = ["plain"] }\n'
        "[[stage]]\nepochs = 1\n"
    )
    from fer_deploy.training.request import TrainingRequest

    for with_teachers in (True, False):
        with pytest.raises(RunError, match="training/plain"):
            plan_runs(
                (str(tmp_path / "student.toml"),), workspace=tmp_path,
                request=TrainingRequest(with_teachers=with_teachers),
            )  # fmt: skip


def test_a_network_larger_than_the_memory_is_one_error(folder: Path) -> None:
    """155 GB, and no tensor of the weights file is looked at."""
    if (memory_bytes() or 0) > 128 * 10**9:
        pytest.skip("this machine has memory for the network")
    record = json.loads((folder / "run.json").read_text())
    record["recipe"]["network"] = {"name": "plain", "options": {"widths": [65536, 65536], "depths": [1, 1]}}
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RecipeError, match="network 'plain': it does not fit into memory"):
        Run.open(folder).network()


@pytest.mark.parametrize("value", ["two", "-1", "1.5", "9" * 50, "²"])
def test_a_launcher_variable_that_is_no_number_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(UnavailableError, match=r"\$WORLD_SIZE is .*not a whole number"):
        join_processes(torch.device("cpu"))
