"""`ferdeploy verify` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_model import tiny_model

from fer_deploy.cli import cli


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that keeps the contract, without manifest or runs: exporting real ones is tests/export's matter."""
    monkeypatch.delenv("FERDEPLOY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "exports" / "tiny.onnx"
    path.parent.mkdir()
    content = tiny_model()
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def test_skipped_checks_are_listed_and_an_error_with_strict(file: Path) -> None:
    done = _run(file)
    assert done.exit_code == 0, done.output
    assert "ok      contract" in done.output
    assert done.output.count("\n  skipped ") == 3
    last = done.output.rstrip().splitlines()[-1]
    assert last == "  sound but unproven: could not check sha256, golden vectors, parity with the runs"
    strict = _run(file, "--strict")
    assert strict.exit_code == 1
    assert "one could not be made (--strict)" in strict.stderr


def test_a_damaged_file_is_exit_1_and_the_others_are_still_checked(file: Path) -> None:
    bad = file.with_name("bad.onnx")
    bad.write_bytes(file.read_bytes()[:100])
    done = _run(bad, file)
    assert done.exit_code == 1
    assert "failed  contract" in done.output
    assert "ok      contract" in done.output
    assert done.stderr == f"error: {bad} failed a check\n"
    assert done.stdout.rstrip().splitlines()[-1] == "2 files: 1 failed, 1 sound but unproven"
    assert "  failed: contract" in done.stdout


def test_a_damaged_manifest_is_exit_1(file: Path) -> None:
    (file.parent / "manifest.json").write_text("[]")
    done = _run(file)
    assert done.exit_code == 1
    assert done.stdout.rstrip().splitlines()[-1] == "  failed: manifest"


@pytest.mark.parametrize("key", ["name", "members", "temperatures", "fusion", "weights_source", "precision"])
def test_control_characters_in_metadata_never_reach_the_terminal(file: Path, key: str) -> None:
    """However they are encoded: as they are, or as JSON escapes."""
    for text in ("\x1b[2J\x07", "a\u202eb\x9b31m", '["a\\u001b[2J"]'):
        file.write_bytes(tiny_model(metadata={key: text}))
        output = _run(file).output
        assert all(character.isprintable() or character == "\n" for character in output), repr(output)


def test_control_characters_in_a_manifest_never_reach_the_terminal(file: Path) -> None:
    manifest = {"format": 1, "files": {}, "golden": [{"file": "\x1b[2J", "shape": [1, 1, 1, 3], "sha256": "\x1b" * 64}]}
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    output = _run(file).output
    assert all(character.isprintable() or character == "\n" for character in output), repr(output)


def test_a_missing_file_is_exit_1(tmp_path: Path) -> None:
    done = _run(tmp_path / "none.onnx")
    assert done.exit_code == 1
    assert "no such file" in done.output


def test_no_file_is_wrong_usage() -> None:
    assert _run().exit_code == 2
