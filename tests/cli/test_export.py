"""`ferdeploy export` as people type it: what it writes, prints and refuses, and with which exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from trained_runs import train_network, write_run

from fer_deploy.cli import cli
from fer_deploy.ensemble import STUDY_SOURCE
from fer_deploy.export.parity import PARITY_CASES
from fer_deploy.export.verify import verify_file
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.model.contract import check_model_file

DATA = ["--data", "synthetic:420"]


def _run(*arguments: str, workspace: Path, columns: int = 160) -> Result:
    arguments = ("export", *arguments, "--workspace", str(workspace))
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": str(columns)})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the runs B and E."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cli")
    dataset = synthetic_dataset(420)
    for seed, name in enumerate(("B", "E")):
        write_run(folder, name, train_network(dataset, seed=seed, epochs=2))
    return folder


@pytest.fixture
def workspace(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it without exports, and no data but what the command names."""
    monkeypatch.delenv("FERDEPLOY_DATA", raising=False)
    monkeypatch.setattr("fer_deploy.export.parity.PARITY_CASES", PARITY_CASES[:4])  # all of them: tests/export
    shutil.copytree(runs / "training", tmp_path / "training")
    return tmp_path


def test_an_ensemble_alone_writes_the_fused_file_with_the_studys_weights(workspace: Path) -> None:
    done = _run("--ensemble", "B,E", *DATA, workspace=workspace)
    assert done.exit_code == 0, done.output
    assert [path.name for path in (workspace / "exports").glob("*.onnx")] == ["B+E.onnx"]
    assert "B+E.onnx: weights B 0.45, E 0.55 (the study, searched on PrivateTest)" in done.output
    contract = check_model_file(workspace / "exports" / "B+E.onnx")
    assert contract.weights == (0.45, 0.55)
    assert contract.metadata["weights_source"] == STUDY_SOURCE
    for figure in ("file", "max |Δp|", "flips", "valid. %", "test %"):
        assert figure in done.output


def test_the_table_fits_80_columns(workspace: Path) -> None:
    done = _run("B", "--ensemble", "B,E", "--precision", "fp32,fp16", *DATA, workspace=workspace, columns=80)
    assert done.exit_code == 0, done.output
    header = next(line for line in done.output.splitlines() if not line.startswith("note: "))
    assert header.split("  ")[0] == "file"
    assert [" ".join(title.split()) for title in header.split("  ") if title.strip()] == [
        *("file", "kB", "nodes", "max |Δp|", "mean |Δp|", "flips", "valid. %", "test %")
    ]
    for name in ("B.onnx", "B.fp16.onnx", "B+E.onnx", "B+E.fp16.onnx"):
        (line,) = (line for line in done.output.splitlines() if line.startswith(f"{name} "))
        assert len(line.split()) == 8, line
    assert "…" not in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_a_run_without_its_weights_is_left_out_and_reported(workspace: Path) -> None:
    (workspace / "training" / "E" / "weights.safetensors").unlink()
    done = _run(*DATA, workspace=workspace)
    assert done.exit_code == 0, done.output
    assert [path.name for path in (workspace / "exports").glob("*.onnx")] == ["B.onnx"]
    assert "E: left out, its weights are not here: train it again" in " ".join(done.output.split())


def test_without_names_every_run_is_exported_and_strict_needs_data(workspace: Path) -> None:
    refused = _run("--strict", workspace=workspace)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: B: without --data")
    assert refused.stderr.rstrip().endswith("(--strict)")
    assert not list((workspace / "exports").glob("*.onnx"))
    done = _run("--card", "--precision", "fp16", workspace=workspace)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (workspace / "exports").glob("*.onnx")) == ["B.fp16.onnx", "E.fp16.onnx"]
    assert "note: B: without --data, parity is checked on drawn faces" in done.output
    assert (workspace / "exports" / "hub" / "E" / "README.md").is_file()


def test_weights_fusion_shape_and_a_mirrored_view(workspace: Path) -> None:
    """All in one command, since each file takes a second or two."""
    options = ["--weights", "1,3", "--fusion", "rrf", "--static", "1x48x48"]
    done = _run("--ensemble", "B,B~mirror", *options, *DATA, workspace=workspace)
    assert done.exit_code == 0, done.output
    contract = check_model_file(workspace / "exports" / "B+B~mirror.rrf.1x48x48.onnx")
    assert contract.shape == (1, 48, 48)
    assert contract.weights == (0.25, 0.75)
    assert contract.metadata["fusion"] == "rrf"
    manifest = json.loads((workspace / "exports" / "manifest.json").read_text())
    outputs = manifest["files"]["B+B~mirror.rrf.1x48x48.onnx"]["golden"]["outputs"]
    assert list(outputs) == ["golden/colour-48x48.bin"]  # the one golden input of that shape


def test_weights_are_searched_on_the_data(workspace: Path) -> None:
    """Under a name of their own they lie beside the file with the study's."""
    done = _run("--ensemble", "B,E", "--search", "--name", "B+E.searched", *DATA, workspace=workspace)
    assert done.exit_code == 0, done.output
    assert "B+E.searched.onnx: weights" in done.output
    assert "(searched on validation)" in done.output
    file = workspace / "exports" / "B+E.searched.onnx"
    contract = check_model_file(file)
    assert contract.name == "B+E.searched"
    assert contract.members == ("B", "E")
    assert [(check.name, check.status) for check in verify_file(file, workspace=workspace).checks] == [
        *(
            ("contract", "ok"),
            ("answers", "ok"),
            ("sha256", "ok"),
            ("golden vectors", "ok"),
            ("parity with the runs", "ok"),
        )
    ]


def test_a_file_that_fails_its_checks_is_exit_1_after_the_others(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer_deploy.export.parity.TOLERANCES", {"fp32": 1e-12, "fp16": 5e-3})
    done = _run("B", "--precision", "fp16,fp32", *DATA, workspace=workspace)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: B.onnx is not written: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (workspace / "exports").glob("*.onnx")] == ["B.fp16.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "there is no run here"),
        (["B", "--data", "nowhere.csv"], "nowhere.csv"),
        (["--ensemble", "B,E", "--search"], "--search needs faces"),
        (["B", "--precision", "int8"], "int8 is calibrated on faces"),
        (["B", "--name", "../B"], "a file can't be called '../B'"),
        (["B", "--name", "B.int8"], "no precision at the end"),
    ],
)
def test_failures_are_one_line_and_exit_1(workspace: Path, arguments: list[str], message: str) -> None:
    done = _run(*arguments, workspace=workspace)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(workspace.glob("exports/*.onnx"))


def test_a_run_with_a_strange_name_is_printed_as_text(workspace: Path) -> None:
    """Rich's markup in a folder's name has no effect."""
    (workspace / "training" / "B").rename(workspace / "training" / "[red]B")
    done = _run("[red]B", "--static", "nx48x48", *DATA, workspace=workspace)
    assert done.exit_code == 0, done.output
    assert done.output.count("[red]B.nx48x48.onnx") == 1


def test_a_run_whose_name_holds_control_characters_is_refused(workspace: Path) -> None:
    name = "B\x1b[2J"
    (workspace / "training" / "B").rename(workspace / "training" / name)
    for names in ([name], []):
        done = _run(*names, workspace=workspace)
        assert done.exit_code == 1
        assert (
            done.stderr == "error: 'B\\x1b[2J' is not the name of a run: name a folder of " + f"{workspace}/training\n"
        )


def test_a_workspace_without_runs_names_the_next_command(tmp_path: Path) -> None:
    done = _run(workspace=tmp_path)
    assert done.exit_code == 1
    assert "ferdeploy train" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["B+E"], "--ensemble B,E"),
        (["--ensemble", "B"], "two members or more"),
        (["--ensemble", "B,,E"], "empty name"),
        (["--ensemble", "B,E", "--weights", "1"], "1 numbers for 2 members"),
        (["--ensemble", "B,E", "--weights", "a,b"], "not a list of numbers"),
        (["--ensemble", "B,E", "--weights", "1,1", "--search"], "one of the two"),
        (["B", "--fusion", "rrf"], "go with --ensemble"),
        (["B", "--weights", "1"], "go with --ensemble"),
        (["B", "--precision", "fp8"], "none of fp32, fp16, int8"),
        (["B", "E", "--name", "both"], "one NAME or one --ensemble"),
        (["--name", "every"], "one NAME or one --ensemble"),
        (["B", "--tune", "1"], "--tune is for int8"),
        (["B", "--static", "48"], "write 1x48x48"),
        (["B", "--static", "0x48x48"], "write 1x48x48"),
    ],
)
def test_wrong_usage_is_exit_2(workspace: Path, arguments: list[str], message: str) -> None:
    done = _run(*arguments, workspace=workspace)
    assert done.exit_code == 2
    assert message in done.stderr
