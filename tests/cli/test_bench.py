"""`ferdeploy bench` as a user runs it."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import bench_kills
import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from bench_files import tiny_model

from fer_deploy.cli import cli

FAST = ["--quick", "--samples", "8", "--seconds", "0.1", "--engine", "ort-cpu"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FERDEPLOY_DATA", raising=False)
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "one.onnx").write_bytes(tiny_model(seed=1, name="one", accuracy="0.61", gflops="0.0232"))
    (tmp_path / "exports" / "two.onnx").write_bytes(tiny_model(seed=2, name="two"))
    return tmp_path


def bench(workspace: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["bench", "--workspace", str(workspace), *arguments])


def test_the_plain_command_writes_a_report(workspace: Path) -> None:
    result = bench(workspace, *FAST, "--data", "synthetic:300")
    assert result.exit_code == 0, result.output
    lines = result.stdout.partition("wrote ")[0].splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert "accuracy %" in result.stdout
    assert "    ort-cpu" in [line.rstrip() for line in lines]
    rows = [line[4:].split()[0] for line in lines if line[4:].startswith(("one ", "two "))]
    assert sorted(rows) == ["one", "two"]
    table = json.loads((workspace / "benchmarks" / "report.json").read_text("utf-8"))
    assert [row["name"] for row in table["rows"]] == ["one", "two"]
    assert (workspace / "benchmarks" / "report.md").is_file()
    assert (workspace / "benchmarks" / "report.html").is_file()


def test_without_data_accuracy_is_marked_as_recorded(workspace: Path) -> None:
    result = bench(workspace, *FAST)
    assert result.exit_code == 0, result.output
    assert "61.00*" in result.stdout
    assert "as recorded in the file" in result.stdout


def test_a_name_and_a_file_and_an_output_folder(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    path = workspace / "exports" / "two.onnx"
    result = bench(workspace, "one", str(path), *FAST, "--output", str(tmp_path / "out"), "--no-timing")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert [(row["name"], row["latency_ms"]) for row in report["rows"]] == [("one", None), ("two", None)]
    assert report["machine"]["load_at_start"] == 99
    assert not [warning for warning in report["warnings"] if "times" in warning]  # nothing was timed


def test_absent_engines_are_listed_with_the_reason(workspace: Path) -> None:
    result = bench(workspace, "--quick", "--no-timing", "--engine", "ort-cpu", "--engine", "ort-qnn")
    assert result.exit_code == 0, result.output
    assert "2 models on ort-qnn: ONNX Runtime" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["three"], "no export and no run named 'three'"),
        (["--engine", "pytorch"], "there is no engine 'pytorch'"),
        (["--peer", "nobody"], "there is no peer 'nobody'"),
        (["--data", "no-such.csv"], "no-such.csv"),
        (["--compare", "no-such.json"], "no-such.json"),
        (["--from", "no-such.json"], "no-such.json"),
        (["--adapter", "no-such.toml"], "no-such.toml"),
    ],
)
def test_failures_are_one_line_and_exit_1(workspace: Path, arguments: list[str], message: str) -> None:
    result = bench(workspace, "--quick", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (workspace / "benchmarks").exists()


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--sort", "beauty"], ["--samples", "1"], ["--seed", "-1"]])
def test_wrong_usage_is_exit_2(workspace: Path, arguments: list[str]) -> None:
    assert bench(workspace, *arguments).exit_code == 2


def test_a_report_is_shown_again_without_measuring(workspace: Path) -> None:
    first = bench(workspace, *FAST, "--data", "synthetic:300")
    report = workspace / "benchmarks" / "report.json"
    before = report.read_bytes()
    again = bench(workspace, "--from", str(report))
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[0] == first.stdout.splitlines()[0]
    assert report.read_bytes() == before


def test_compare_exits_1_only_when_something_is_worse(workspace: Path) -> None:
    assert bench(workspace, *FAST, "--data", "synthetic:300").exit_code == 0
    report = workspace / "benchmarks" / "report.json"
    old = workspace / "old.json"
    old.write_bytes(report.read_bytes())
    same = bench(workspace, "--from", str(report), "--compare", str(old))
    assert same.exit_code == 0, same.output
    assert "0 regressions" in same.stdout
    table = json.loads(old.read_text("utf-8"))
    for row in table["rows"]:  # the old report was right everywhere
        row["predictions"], row["accuracy"] = table["data"]["labels"], 1.0
    old.write_text(json.dumps(table))
    worse = bench(workspace, "--from", str(report), "--compare", str(old))
    assert worse.exit_code == 1
    assert "regression: one on ort-cpu, accuracy: 100.00 %" in worse.stdout
    assert "2 regressions" in worse.stdout
    lenient = bench(workspace, "--from", str(report), "--compare", str(old), "--max-accuracy-loss", "100")
    assert lenient.exit_code == 0


def test_a_baseline_is_kept_when_a_figure_got_worse(workspace: Path) -> None:
    """Else the same command, given again, would find nothing worse."""
    assert bench(workspace, *FAST, "--data", "synthetic:300").exit_code == 0
    report = workspace / "benchmarks" / "report.json"
    before = report.read_bytes()
    (workspace / "exports" / "two.onnx").unlink()
    for _ in range(2):
        worse = bench(workspace, *FAST, "--data", "synthetic:300", "--compare", str(report), "--max-slowdown", "1000")
        assert worse.exit_code == 1
        assert "lost: two on ort-cpu, row: had figures, now has none (missing from the new report)" in worse.stdout
        assert report.read_bytes() == before
    kept = json.loads((workspace / "benchmarks" / "worse" / "report.json").read_text("utf-8"))
    assert [row["name"] for row in kept["rows"]] == ["one"]
    some = bench(workspace, "one", *FAST, "--data", "synthetic:300", "--compare", str(report), "--max-slowdown", "1000")
    assert some.exit_code == 0  # only `one` was named


def test_a_named_model_without_figures_is_exit_1_and_writes_nothing_by_itself(workspace: Path) -> None:
    assert bench(workspace, *FAST, "--no-timing").exit_code == 0
    files = {path: path.read_bytes() for path in (workspace / "benchmarks").iterdir()}
    bad = workspace / "bad.onnx"
    bad.write_bytes(random.Random(0).randbytes(3000))
    for name, engine in ((str(bad), "ort-cpu"), ("two", "ort-qnn")):
        result = bench(workspace, name, "--quick", "--no-timing", "--engine", engine)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {Path(name).stem}: ")
        assert result.stderr.count("\n") == 1
        assert "wrote" not in result.stdout
        assert {path: path.read_bytes() for path in (workspace / "benchmarks").iterdir()} == files


def test_a_named_model_that_fails_does_not_take_the_others_figures(workspace: Path, tmp_path: Path) -> None:
    (workspace / "bad.onnx").write_bytes(b"no model")
    result = bench(workspace, "one", str(workspace / "bad.onnx"), *FAST, "--no-timing", "--output", str(tmp_path / "o"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: bad: ")
    rows = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))["rows"]
    assert [(row["name"], row["status"] == "ok") for row in rows] == [("one", True), ("bad", False)]


def test_without_names_a_damaged_file_is_a_row_and_an_error(workspace: Path) -> None:
    (workspace / "exports" / "bad.onnx").write_bytes(b"no model")
    some = bench(workspace, *FAST, "--no-timing")
    assert some.exit_code == 1
    assert some.stderr.startswith("error: bad: ")
    rows = json.loads((workspace / "benchmarks" / "report.json").read_text("utf-8"))["rows"]
    assert [(row["name"], row["status"] == "ok") for row in rows] == [("bad", False), ("one", True), ("two", True)]
    for name in ("one", "two"):
        (workspace / "exports" / f"{name}.onnx").write_bytes(b"no model")
    result = bench(workspace, *FAST, "--no-timing")
    assert result.exit_code == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in result.stderr.splitlines()] == ["two", "one", "bad"]


def test_models_with_other_labels_are_left_out_and_an_error_only_where_named(workspace: Path) -> None:
    (workspace / "exports" / "moods.onnx").write_bytes(tiny_model(name="moods", labels=("good", "bad")))
    everything = bench(workspace, *FAST, "--no-timing", *DATA)
    assert everything.exit_code == 0, everything.output
    assert "moods on ort-cpu: left out: the model has the labels good, bad; the data has angry," in (
        " ".join(everything.stdout.split())
    )
    named = bench(workspace, "one", "moods", *FAST, "--no-timing", *DATA)
    assert named.exit_code == 1
    assert "error: moods: left out: the model has" in named.stderr


def test_a_comparison_with_other_labels_is_refused_before_anything_is_measured(workspace: Path) -> None:
    assert bench(workspace, *FAST, "--no-timing", *DATA).exit_code == 0
    path = workspace / "benchmarks" / "report.json"
    table = json.loads(path.read_text("utf-8"))
    old = workspace / "old.json"
    old.write_text(json.dumps({**table, "labels": list("abcdefg")}))
    result = bench(workspace, *FAST, "--no-timing", *DATA, "--compare", str(old))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the earlier report has other labels, a, b, c, d, e, f, g, and the data has")
    assert result.stderr.count("\n") == 1


DATA = ("--data", "synthetic:300")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["one", *FAST, *DATA], "a row two on ort-cpu"),
        ([*FAST], "accuracy on synthetic"),
        ([*FAST, *DATA, "--no-timing"], "the times of one on ort-cpu (and 1 more)"),
        ([*FAST, "--data", "synthetic:100"], "50 scored faces instead of "),
        (["--quick", "--engine", "openvino-cpu", *DATA], "a row one on ort-cpu"),
    ],
)
def test_a_complete_report_is_never_replaced_by_a_poorer_one(
    workspace: Path, arguments: list[str], reason: str
) -> None:
    assert bench(workspace, *FAST, *DATA).exit_code == 0
    folder = workspace / "benchmarks"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        result = bench(workspace, *arguments)
        assert result.exit_code == 0, result.output
        assert f"note: {folder / 'report.json'} was kept, it has what the new report lacks: {reason}" in result.stderr
        assert "delete it first, or choose another folder with --output" in result.stderr
        assert f"wrote {folder / 'partial' / 'report.json'}" in result.stdout
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_complete_run_replaces_the_report_also_when_a_model_is_gone_or_new(workspace: Path) -> None:
    assert bench(workspace, *FAST, *DATA).exit_code == 0
    (workspace / "exports" / "two.onnx").unlink()
    (workspace / "exports" / "three.onnx").write_bytes(tiny_model(seed=3, name="three"))
    result = bench(workspace, *FAST, *DATA)
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads((workspace / "benchmarks" / "report.json").read_text("utf-8"))
    assert [row["name"] for row in report["rows"]] == ["one", "three"]
    (workspace / "exports" / "three.onnx").write_bytes(b"damaged")
    assert "figures of three on ort-cpu, which failed now: " in bench(workspace, *FAST, *DATA).stderr


@pytest.mark.parametrize("content", ["{}", "", "[" * 100_000, '{"format": "ferdeploy-bench", "version": 2}'])
def test_a_file_that_is_not_a_report_of_this_version_is_not_replaced(workspace: Path, content: str) -> None:
    path = workspace / "benchmarks" / "report.json"
    path.parent.mkdir()
    path.write_text(content)
    result = bench(workspace, *FAST, "--no-timing")
    assert result.exit_code == 0, result.output
    assert "was kept" in result.stderr
    assert path.read_text() == content
    assert (path.parent / "partial" / "report.json").is_file()


@pytest.mark.parametrize("kind", ["missing", "pipe", "folder"])
def test_a_missing_or_irregular_file_is_one_line(workspace: Path, kind: str) -> None:
    path = workspace / "it.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    result = bench(workspace, str(path), *FAST)
    assert result.exit_code == 1
    message = {"missing": "no such file", "pipe": "a named pipe, not a model", "folder": "a folder, not a model"}[kind]
    assert f"error: {path}: {message}" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
@pytest.mark.parametrize("number", bench_kills.SIGNALS, ids=lambda number: number.name)
def test_a_stopped_run_leaves_nothing_half_written(workspace: Path, number: signal.Signals) -> None:
    command, folder = bench_kills.bench_command(workspace), workspace / "benchmarks"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for after_s, while_writing in ((0.7, False), (0.0, True)):
        stopped = bench_kills.stop_once(command, folder, number, after_s=after_s, while_writing=while_writing)
        assert stopped.problems == ()
        assert stopped.exit_code != 0
    assert bench(workspace, *FAST, *DATA).exit_code == 0


def test_runs_at_the_same_time_do_not_mix_their_files(workspace: Path) -> None:
    command = bench_kills.bench_command(workspace)
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert bench_kills.problems_of(workspace / "benchmarks") == []


def test_leftovers_of_a_kill_are_removed(workspace: Path) -> None:
    folder = workspace / "benchmarks"
    folder.mkdir()
    old, fresh = folder / ".report.json.abc.partial", folder / ".report.md.def.partial"
    for path in (old, fresh):
        path.write_text("{")
    os.utime(old, (0, 0))
    assert bench(workspace, *FAST, "--no-timing").exit_code == 0
    assert (old.exists(), fresh.exists()) == (False, True)  # a run may be writing the fresh one now


@pytest.mark.parametrize("kind", ["file", "file on the way", "device", "pipe", "dangling link", "file at partial"])
def test_an_output_that_cannot_be_a_folder_is_refused_before_measuring(workspace: Path, kind: str) -> None:
    path = workspace / "out"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(workspace / "nowhere" / "else")
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "file at partial":
        path.mkdir()
        (path / "partial").write_text("notes")
    else:
        path.write_text("notes")
        path = path / "below" if kind == "file on the way" else path
    result = bench(workspace, *FAST, "--output", str(path))
    assert result.exit_code == (2 if kind == "file" else 1)
    if kind != "file":
        assert result.stderr.startswith("error: ")
        assert ": not a folder: name another one with --output" in result.stderr
        assert result.stderr.count("\n") == 1
    assert "wrote" not in result.stdout


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe", "dangling link"])
def test_a_report_json_that_is_no_file_is_left_alone(workspace: Path, kind: str) -> None:
    path = workspace / "benchmarks" / "report.json"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        if kind == "link to a pipe":
            os.mkfifo(workspace / "pipe")
        path.symlink_to(workspace / "pipe")
    result = bench(workspace, *FAST, "--no-timing")
    assert result.exit_code == 0, result.output
    assert "was kept" in result.stderr
    assert (path.parent / "partial" / "report.json").is_file()


def test_a_full_disk_does_not_lose_what_was_measured(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.json")

    monkeypatch.setattr("fer_deploy.bench.save.save_pages", full)
    result = bench(workspace, *FAST, "--no-timing")
    assert result.exit_code == 1
    assert "61.00*" in result.stdout
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize("accuracy", ["nan", "inf", "-0.1", "7.5", "9" * 5000, "seventy"])
def test_a_file_with_an_absurd_recorded_accuracy_is_a_row_with_the_reason(workspace: Path, accuracy: str) -> None:
    (workspace / "exports" / "odd.onnx").write_bytes(tiny_model(name="odd", accuracy=accuracy))
    result = bench(workspace, *FAST, "--no-timing")
    assert result.exit_code == 1, result.output
    assert "odd on ort-cpu: " in result.stdout
    assert "accuracy must be a number from 0 to 1" in " ".join(result.stdout.split())
    rows = json.loads((workspace / "benchmarks" / "report.json").read_text("utf-8"))["rows"]
    assert {row["name"]: row["recorded_accuracy"] for row in rows} == {"odd": None, "one": 0.61, "two": None}


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "100000", "9" * 30, "2.5", "all"])
def test_absurd_threads_are_wrong_usage(workspace: Path, threads: str) -> None:
    result = bench(workspace, *FAST, "--threads", threads)
    assert result.exit_code == 2
    assert "--threads" in result.stderr


def test_more_threads_than_cores_are_refused_before_measuring(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_deploy.machine.available_cores", lambda: 2)
    result = bench(workspace, *FAST, "--threads", "1024")
    assert result.exit_code == 1
    assert result.stderr == "error: --threads 1024: 2 cores are available: use 1 to 2\n"
    assert bench(workspace, *FAST, "--no-timing", "--threads", "2").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [["--samples", "9" * 30], ["--seconds", "1e9"], ["--seed", "9" * 30], ["--max-slowdown", "nan"]]
)
def test_absurd_amounts_are_wrong_usage(workspace: Path, arguments: list[str]) -> None:
    assert bench(workspace, *arguments).exit_code == 2


@pytest.mark.parametrize("name", ["line\nbreak", "\x1b[31mred", "a|b<i>", "caf\udce9"])
def test_odd_file_names_reach_every_page_escaped(workspace: Path, name: str) -> None:
    (workspace / "exports" / f"{name}.onnx").write_bytes(tiny_model(seed=3))
    result = bench(workspace, *FAST, *DATA, "--predictions")
    assert result.exit_code == 0, result.output
    folder = workspace / "benchmarks"
    texts = [result.stdout, *((folder / f"report.{kind}").read_text("utf-8") for kind in ("json", "md", "html"))]
    assert not any("\x1b" in text or "line\nbreak" in text for text in texts)
    assert len(list((folder / "predictions").iterdir())) == 3
    assert bench(workspace, "--from", str(folder / "report.json")).exit_code == 0


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_signs_that_the_encoding_lacks_do_not_stop_the_command(workspace: Path, encoding: str) -> None:
    command = [sys.executable, "-m", "fer_deploy", "bench", "--workspace", str(workspace), *FAST]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([*command, "--data", "synthetic:300"], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"accuracy %" in done.stdout
    assert (workspace / "benchmarks" / "report.json").is_file()


def test_a_measurement_is_saved_although_stdout_is_full(workspace: Path) -> None:
    with Path("/dev/full").open("w") if Path("/dev/full").exists() else pytest.skip("no /dev/full here") as full:
        command = [sys.executable, "-m", "fer_deploy", "bench", "--workspace", str(workspace), *FAST]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert (workspace / "benchmarks" / "report.json").is_file()


def test_an_unrelated_folder_called_data_is_ignored(workspace: Path) -> None:
    (workspace / "data").mkdir()
    (workspace / "data" / "sales.txt").write_text("1\n")
    result = bench(workspace, *FAST, "--no-timing")
    assert result.exit_code == 0, result.output
    assert "note: no data set is used: " in result.stderr
    assert "data holds no data set" in result.stderr
    named = bench(workspace, *FAST, "--no-timing", "--data", str(workspace / "data"))
    assert named.exit_code == 1


def test_nan_and_infinity_are_usage_errors(workspace: Path) -> None:
    for number in ("nan", "inf"):
        result = bench(workspace, "--seconds", number)
        assert result.exit_code == 2
        assert number in result.output


def test_a_damaged_report_is_refused(workspace: Path) -> None:
    path = workspace / "old.json"
    for text, message in (
        ("{", "not JSON"),
        ("[]", "not a report"),
        ('{"format": "ferdeploy-bench", "version": 99}', "version 99"),
        ('{"format": "ferdeploy-bench", "version": 1}', "damaged report"),
    ):
        path.write_text(text)
        result = bench(workspace, "--from", str(path))
        assert result.exit_code == 1
        assert message in result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fer_deploy.cli.bench import command\n"
        "heavy = {'torch', 'onnxruntime', 'numpy', 'openvino', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\ncommand(['--help'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "ferdeploy bench B+E" in result.stdout
