"""`ferdeploy train` as people type it: limits of time, Ctrl-C, failures, seeds, folders that cannot be written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_recipe import SMALL

from fer_deploy.cli import cli
from fer_deploy.cli.console import ProgressBar
from fer_deploy.cli.train import Duration
from fer_deploy.cli.train_display import TrainingDisplay
from fer_deploy.errors import install
from fer_deploy.machine import available_cores
from fer_deploy.recipes import load_recipe
from fer_deploy.training.run import Run
from fer_deploy.training.watcher import BatchReport

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = "synthetic:280"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_recipe(folder: Path, name: str, *, epochs: int = 2, extra: str = "") -> Path:
    """A recipe that trains in a second."""
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\ntitle = "small"\naugmentation = {{ flip = 0.5 }}\n'
        'network = { name = "plain", options = { widths = [4, 8], depths = [1, 1], stem_stride = 2 } }\n'
        f"{extra}\n[[stage]]\nepochs = {epochs}\nbatch_size = 64\noptimiser = {{ lr = 4e-3 }}\n"
    )
    return path


def run(*arguments: str | Path, workspace: Path) -> Result:
    words = ["train", *map(str, arguments), "--data", DATA, "--workspace", str(workspace), "--device", "cpu"]
    return CliRunner().invoke(cli, [*words, "--threads", "1"], env={"COLUMNS": "200"})


def start(*arguments: str | Path, workspace: Path, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    words = ["train", *map(str, arguments), "--data", DATA, "--workspace", str(workspace), "--device", "cpu"]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "fer_deploy", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize(("batch", "remedy"), [(64, "--batch-size 16"), (16, "use more --epochs")])
def test_a_run_of_too_few_steps_is_named_with_the_remedy(batch: int, remedy: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "short", epochs=1)
    result = run(recipe, "--batch-size", str(batch), workspace=tmp_path)
    assert result.exit_code == 0, result.output
    (note,) = (line for line in result.output.splitlines() if "too few" in line)
    assert "short takes" in note
    assert remedy in note


def test_notes_about_the_data_are_shown(tmp_path: Path) -> None:
    done = run(write_recipe(tmp_path, "one", epochs=1), workspace=tmp_path)
    assert done.exit_code == 0, done.output
    assert "note: these faces are drawn: a score on them says nothing about real faces\n" in done.stdout


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("9m", 540), ("1h30m", 5400), ("1.5m", 90), ("2H", 7200)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "9 minutes", "-3s", "1m2h", "9" * 400])
def test_what_is_no_length_of_time_is_wrong_usage(text: str, tmp_path: Path) -> None:
    done = run(write_recipe(tmp_path, "one"), f"--time-limit={text}", workspace=tmp_path)
    assert done.exit_code == 2
    assert "is not a length of time: write 90s, 9m or 1h30m" in done.output


def test_a_limit_of_time_ends_all_runs_cleanly_and_the_next_call_goes_on(tmp_path: Path) -> None:
    """Each call ends by itself, exit 0, everything saved. (That the weights are the same bits: test_fit.py.)"""
    recipes = [write_recipe(tmp_path, name, epochs=5000) for name in ("one", "two")]
    folder = tmp_path / "training/one"
    before = b""
    for call in range(2):
        with start(*recipes, "--time-limit", "12s", workspace=tmp_path) as process:
            out, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (0, "")
        assert "Not finished: one, two. Everything is saved: run the same command again to resume." in out
        if not re.search(r"^one on ", out, re.MULTILINE):
            pytest.skip("this machine is so loaded that twelve seconds do not reach the first step")
        assert re.search(r"one stopped after \d+ epochs, saved\.", out)
        assert ("resuming after epoch" in out) == bool(call and before)
        assert json.loads((folder / "run.json").read_text())["status"] == "training"
        assert (folder / "checkpoint.safetensors").exists()
        now = (folder / "history.csv").read_bytes() if (folder / "history.csv").exists() else b""
        assert now.startswith(before)
        before = now


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal for Ctrl-C that one process can send another")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "long", epochs=40)
    with start(recipe, workspace=tmp_path / "cut") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch   2" in line:
                process.send_signal(number)
                break
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "stopping after this batch" in out
    assert re.search(r"long stopped after \d+ epochs, saved\.", out)
    assert "Not finished: long. Everything is saved: run the same command again to resume." in out
    assert "Traceback" not in err
    folder = tmp_path / "cut/training/long"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "checkpoint.safetensors").exists()
    before = (folder / "history.csv").read_bytes()
    done = run(recipe, workspace=tmp_path / "cut")
    assert done.exit_code == 0
    assert re.search(r"long on .*, resuming after epoch \d+", done.output)
    assert (folder / "history.csv").read_bytes().startswith(before)
    assert run(recipe, workspace=tmp_path / "whole").exit_code == 0
    name = "training/long/weights.safetensors"
    assert sha256(tmp_path / "cut" / name) == sha256(tmp_path / "whole" / name)


def test_training_goes_on_past_a_failed_variant_and_exits_1(tmp_path: Path) -> None:
    first, second, third = (write_recipe(tmp_path, name) for name in ("one", "two", "three"))
    other = write_recipe(tmp_path / "..", f"{tmp_path.name}-two", epochs=3)
    other.write_text(other.read_text().replace(f"{tmp_path.name}-two", "two"))
    assert run(other, workspace=tmp_path).exit_code == 0  # so `two` holds another run, and is refused
    other.unlink()
    done = run(first, second, third, workspace=tmp_path)
    assert done.exit_code == 1
    assert re.search(
        r"error: two: .*holds a run that differs in recipe\.stage\.0\.epochs \(the folder's: 3, yours: 2\)", done.output
    )
    assert "error: 1 of 3 runs failed: two" in done.output
    assert "one complete:" in done.output
    assert "three complete:" in done.output
    assert Run.open(tmp_path / "training/three").validation_accuracy > 0
    assert run(second, workspace=tmp_path).exit_code == 1  # alone too
    text = first.read_text(encoding="utf-8")
    title = re.search(r'^title = "(.*)"$', text, re.MULTILINE)
    assert title is not None
    first.write_text(text.replace(title[0], 'title = "a better title"'), encoding="utf-8")
    weights = sha256(tmp_path / "training/one/weights.safetensors")
    assert run(first, workspace=tmp_path).exit_code == 0  # the same run under a better title
    assert sha256(tmp_path / "training/one/weights.safetensors") == weights


def test_seeds_are_reported_as_mean_and_spread(tmp_path: Path) -> None:
    done = run(write_recipe(tmp_path, "one", epochs=3), "--seeds", "3", workspace=tmp_path)
    assert done.exit_code == 0, done.output
    runs = [Run.open(tmp_path / f"training/one.seed{seed}") for seed in range(3)]
    assert len({each.weights_sha256 for each in runs}) == 3
    assert [each.record["seed"] for each in runs] == [0, 1, 2]
    accuracies = [100 * each.validation_accuracy for each in runs]
    mean = sum(accuracies) / 3
    spread = (sum((accuracy - mean) ** 2 for accuracy in accuracies) / 2) ** 0.5
    assert (
        f"one: 3 seeds, validation accuracy {mean:.2f}% ± {spread:.2f}% (standard deviation), "
        f"{min(accuracies):.2f}% to {max(accuracies):.2f}%"
    ) in done.output


@pytest.mark.skipif(os.name == "nt", reason="folders of Windows are not read-only")
@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written_gets_one_line(begun: bool, tmp_path: Path) -> None:
    """At the start and later. Root may write everywhere, so it gives that right away first."""
    unprivileged = []
    if os.getuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may write everywhere, and there is no setpriv to give that away with")
        unprivileged = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    recipe = write_recipe(tmp_path, "one", epochs=40)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    if begun:
        with start(recipe, workspace=workspace) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "epoch   2" in line:
                    process.send_signal(signal.SIGTERM)
                    break
            process.communicate(timeout=100)
        assert process.returncode == 130
    for path in (*workspace.rglob("*"), workspace):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: sha256(path) for path in workspace.rglob("*") if path.is_file()}
    assert bool(before) == begun
    try:
        with start(recipe, workspace=workspace, before=unprivileged) as process:
            _, err = process.communicate(timeout=100)
    finally:
        for path in (workspace, *workspace.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert process.returncode == 1
    assert re.fullmatch(r"error: \S+workspace\S*: permission denied: the last checkpoint is intact: .+\n", err), err
    assert {path: sha256(path) for path in workspace.rglob("*") if path.is_file()} == before
    if begun:
        assert run(recipe, workspace=workspace).exit_code == 0


def test_two_stages_by_the_command_line(tmp_path: Path) -> None:
    """History has a row an epoch, curves are drawn, the run opens."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    done = run(path, "--epochs", "2", workspace=tmp_path)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "training/small"
    assert [row["stage"] for row in csv.DictReader((folder / "history.csv").open())] == ["1", "2"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    before = sha256(folder / "weights.safetensors")
    again = run(path, "--epochs", "2", workspace=tmp_path)
    assert (again.exit_code, again.output.count("small is already complete")) == (0, 1)
    assert sha256(folder / "weights.safetensors") == before


def test_runs_side_by_side_end_where_one_after_another_does(tmp_path: Path) -> None:
    """Three runs on half of the faces, two at a time, one of them taught by another, one failing: the same weights,
    and exit 1."""
    one = write_recipe(tmp_path, "one")
    student = write_recipe(tmp_path, "student", extra='distillation = { teachers = ["one"], views = 2 }')
    bad = write_recipe(tmp_path, "bad", extra='initialisation = "absent.safetensors"')
    with start(student, one, bad, "--side-by-side", "2", workspace=tmp_path / "beside") as process:
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "teacher 'one': " in err  # it must be named before its student
    assert "there is no run here" in err
    with start(one, student, bad, "--share", "0.5", "--side-by-side", "2", workspace=tmp_path / "beside") as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "error: 1 of 3 runs failed: bad" in err
    assert re.search(r"^bad: .*absent\.safetensors", err, re.MULTILINE)
    assert re.search(r"^one: epoch   1  stage 1", out, re.MULTILINE)
    assert re.search(r"^student: student complete: ", out, re.MULTILINE)
    assert run(one, student, "--share", "0.5", workspace=tmp_path / "after").exit_code == 0
    for name in ("one", "student"):
        assert json.loads((tmp_path / f"after/training/{name}/run.json").read_text())["data"]["training_rows"] == 140
        weights = f"training/{name}/weights.safetensors"
        assert sha256(tmp_path / "beside" / weights) == sha256(tmp_path / "after" / weights)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the command's processes in /proc")
def test_students_of_a_teacher_that_did_not_finish_are_not_started(tmp_path: Path) -> None:
    """The teacher's process is stopped: its student waits for the next call, and nothing has failed."""
    teacher = write_recipe(tmp_path, "teacher", epochs=4000)
    student = write_recipe(tmp_path, "student", extra='distillation = { teachers = ["teacher"], views = 2 }')
    other = write_recipe(tmp_path, "other")
    with start(teacher, student, other, "--side-by-side", "2", workspace=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("teacher: epoch   1"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            if b"teacher.toml" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGTERM)
        out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    assert "Not finished: teacher, student. Everything is saved: run the same command again to resume." in out
    assert Run.open(tmp_path / "training/other")
    assert not (tmp_path / "training/student").exists()


def test_a_student_of_a_failed_teacher_is_not_started(tmp_path: Path) -> None:
    teacher = write_recipe(tmp_path, "teacher", extra='initialisation = "absent.safetensors"')
    student = write_recipe(tmp_path, "student", extra='distillation = { teachers = ["teacher"], views = 2 }')
    done = run(teacher, student, write_recipe(tmp_path, "other"), workspace=tmp_path)
    assert done.exit_code == 1
    assert "error: 1 of 3 runs failed: teacher" in done.stderr
    assert "Not finished: student." in done.stdout
    assert "other complete:" in done.stdout


def test_with_teachers_trains_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    """A student, its teacher, and the run whose weights the teacher starts from; once complete they stay."""
    recipes = tmp_path / "training/recipes"
    recipes.mkdir(parents=True)
    write_recipe(recipes, "base")
    write_recipe(recipes, "teacher", extra='initialisation = "training/base/weights.safetensors"')
    write_recipe(recipes, "student", extra='distillation = { teachers = ["teacher"], views = 2 }')
    done = run("student", "--with-teachers", workspace=tmp_path)
    assert done.exit_code == 0, done.output
    plan, _, course = done.stdout.partition("base on ")
    assert [line.split()[0] for line in plan.splitlines() if line.startswith("  ")] == [
        "run",
        "base",
        "teacher",
        "student",
    ]
    assert [line.split()[0] for line in course.splitlines() if " complete: " in line] == ["base", "teacher", "student"]
    started_from = Run.open(tmp_path / "training/teacher").record["initialisation"]
    assert started_from.startswith("weights of base/weights.safetensors")
    before = {path: sha256(path) for path in tmp_path.rglob("*.safetensors")}
    again = run("student", "--with-teachers", workspace=tmp_path)
    assert (again.exit_code, again.output.count("is already complete")) == (0, 1)
    assert "teacher" not in again.stdout
    assert {path: sha256(path) for path in tmp_path.rglob("*.safetensors")} == before


def test_the_time_left_is_right_after_an_interruption_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that resumes at batch 181 of 200: half a second a batch, and 15 batches and nine epochs to come."""
    now = [100.0]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    with ProgressBar(stderr=False, redraw_alone=False) as bar:
        display = TrainingDisplay("run", tmp_path, bar)
        display.started(load_recipe("plain"), device="cpu", epochs_done=0)
        for batch in range(181, 186):
            display.batch(BatchReport(1, 1, batch, 200, 10, 1.0, 1e-3, 100.0))
            now[0] += 0.5
        now[0] -= 0.5
        display.batch(BatchReport(1, 1, 185, 200, 10, 1.0, 1e-3, 100.0))
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).strip().splitlines()[-1]
    assert "run  epoch 1/10" in last
    assert "loss 1.000  lr 1.0e-03  100 images/s" in last
    assert "0:15:08" in last or "0:15:07" in last, last  # 1,815 batches


@pytest.mark.skipif(sys.platform != "linux", reason="stops the command's processes by their names")
def test_a_restart_side_by_side_counts_no_earlier_run(tmp_path: Path) -> None:
    """Two complete runs are trained again; what cannot begin in time is not finished, though it was complete before."""
    recipes = [write_recipe(tmp_path, name) for name in ("one", "two")]
    assert run(*recipes, workspace=tmp_path).exit_code == 0
    before = {name: (tmp_path / f"training/{name}/run.json").stat().st_mtime_ns for name in ("one", "two")}
    done = run(*recipes, "--restart", "--side-by-side", "2", "--time-limit", "5.5s", workspace=tmp_path)
    assert done.exit_code == 0, done.output
    unfinished = {
        name for name, time in before.items() if (tmp_path / f"training/{name}/run.json").stat().st_mtime_ns == time
    }
    line = next((line for line in done.output.splitlines() if line.startswith("Not finished: ")), "")
    assert all(name in line for name in unfinished)
    again = run(*recipes, "--restart", "--side-by-side", "2", workspace=tmp_path)
    assert (again.exit_code, "Not finished" in again.output) == (0, False), again.output


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal for Ctrl-C that one process can send another")
def test_ctrl_c_stops_all_that_run_side_by_side(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "long", epochs=4000)
    with start(recipe, "--seeds", "3", "--side-by-side", "2", workspace=tmp_path) as process:
        assert process.stdout is not None
        begun: set[str] = set()
        for line in process.stdout:
            if "epoch   1" in line:
                begun.add(line.partition(":")[0])
            if len(begun) == 2:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert begun == {"long.seed0", "long.seed1"}
    assert "Not finished: long.seed0, long.seed1, long.seed2. Everything is saved" in out, out + err
    for name in begun:
        assert (tmp_path / "training" / name / "checkpoint.safetensors").exists()


def test_a_senseless_number_of_threads_is_refused(tmp_path: Path) -> None:
    most = 8 * available_cores()
    words = ["train", str(write_recipe(tmp_path, "one")), "--data", DATA, "--workspace", str(tmp_path), "--threads"]
    for threads, code, message in [(most + 1, 1, f"use 1 to {most}"), (10**9, 2, "is not in the range")]:
        if threads > 1024 and code == 1:
            continue
        done = CliRunner().invoke(cli, [*words, str(threads)])
        assert done.exit_code == code
        assert message in done.stderr
    assert not (tmp_path / "training").exists()


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("unshare"), reason="makes a user with Linux's unshare")
@pytest.mark.parametrize("home", [None, "/proc/self"])
def test_a_user_without_a_home_can_train(home: str | None, tmp_path: Path) -> None:
    """No HOME and no passwd entry, as in containers that run under any user id; or a home that cannot be written."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "FERDEPLOY_CACHE")
    }
    environment |= {"OMP_NUM_THREADS": "1"} | ({} if home is None else {"HOME": home})
    words = ["train", str(write_recipe(tmp_path, "one", epochs=1)), "--data", DATA, "--workspace", str(tmp_path)]
    before = ["unshare", "--user", "--map-user=54321"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no user namespaces")
    done = subprocess.run(
        [*before, sys.executable, "-m", "fer_deploy", *words, "--device", "cpu", "--threads", "1"],
        env=environment, capture_output=True, text=True, cwd=REPOSITORY, timeout=200, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "one complete: " in done.stdout


def test_without_torch_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = run("B", workspace=tmp_path)
    assert done.exit_code == 1
    assert done.stderr == f"error: torch is not installed: {install('train')}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP, which PyTorch brings on Linux")
@pytest.mark.parametrize(("given", "effect"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_waiting_threads_sleep_unless_configured_otherwise(given: str | None, effect: str) -> None:
    """OpenMP itself says which policy it took up when PyTorch brought it in."""
    program = "from fer_deploy.cli.train import wait_passively; wait_passively(); import torch"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=REPOSITORY, check=True
    )
    assert re.search(rf"OMP_WAIT_POLICY = '{effect}'", done.stderr), done.stderr


@pytest.mark.skipif(
    sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="asks GNU's malloc"
)
@pytest.mark.parametrize(("given", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_freed_memory_is_kept_unless_configured_otherwise(given: dict[str, str], kept: bool) -> None:
    """Pages that the kernel has to clear while blocks of 40 MB come and go: in the end none where they are kept."""
    program = """
import resource
from fer_deploy.cli.train import keep_freed_memory
print(keep_freed_memory())
import torch
for _ in range(20):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10_000_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 4e8)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment | given,
        cwd=REPOSITORY,
        check=True,
    )
    answer, cleared = done.stdout.split()
    assert answer == str(kept)
    assert (float(cleared) < 0.1) == kept, cleared
