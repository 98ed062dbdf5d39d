"""Every file that a user names may be a named pipe, or damaged: a command then ends with one line and never blocks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_model import write_tiny_model

from fer_deploy.cli import cli

PIPED = {
    "predict: model": "predict good.png --crops --model pipe.onnx",
    "predict: picture": "predict pipe.png --crops --model good.onnx",
    "predict: video": "predict pipe.mp4 --crops --model good.onnx",
    "predict: list": "predict --files-from pipe.txt --crops --model good.onnx",
    "verify: model": "verify pipe.onnx",
    "verify: manifest": "verify exports/good.onnx",
    "serve: model": "serve --model pipe.onnx --port 0",
    "demo: model": "demo --model pipe.onnx",
    "train: recipe": "train pipe.toml --data synthetic:300",
    "train: data": "train B --data pipe.csv",
    "train: run": "train B --data synthetic:300",
    "train: weights": "train E --data synthetic:300 --init pipe.safetensors",
    "export: run": "export B",
    "bench: model": "bench pipe.onnx --data synthetic:300",
    "bench: report": "bench good.onnx --data synthetic:300 --compare pipe.json",
    "bench: adapter": "bench good.onnx --data synthetic:300 --adapter pipe.toml",
    "variants: run": "variants",
    "score: model": "score good.png out --model pipe.onnx",
    "score: input": "score pipe.png out --model good.onnx",
    "score: plan": "score good.png planned --model good.onnx",
}
PIPES = (
    "pipe.onnx", "pipe.png", "pipe.mp4", "pipe.txt", "pipe.toml", "pipe.csv", "pipe.json", "pipe.safetensors",
    "exports/manifest.json", "training/B/run.json", "planned/_plan/plan.json",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name in PIPES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
    write_tiny_model(tmp_path / "good.onnx")
    write_tiny_model(tmp_path / "exports" / "good.onnx")
    Image.fromarray(np.zeros((48, 48), np.uint8)).save("good.png")

    def give_up(*_: object) -> None:
        raise TimeoutError("it waits for a writer")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", PIPED.values(), ids=PIPED)
def test_a_named_pipe_is_refused(command: str) -> None:
    done = CliRunner().invoke(cli, command.split())
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    assert any(words in done.output for words in ("named pipe", "neither a file nor a folder")), done.output


DAMAGED = {
    "manifest": ("exports/manifest.json", "verify exports/good.onnx"),
    "run": ("training/B/run.json", "export B"),
    "report": ("report.json", "bench good.onnx --data synthetic:300 --compare report.json"),
    "recipe": ("my.toml", "train my.toml --data synthetic:300"),
    "adapter": ("their.toml", "bench good.onnx --data synthetic:300 --adapter their.toml"),
    "plan": ("planned/_plan/plan.json", "score good.png planned --model good.onnx"),
    "model": ("bad.onnx", "predict good.png --crops --model bad.onnx"),
    "picture": ("bad.png", "predict bad.png --crops --model good.onnx"),
    "video": ("bad.mp4", "predict bad.mp4 --crops --model good.onnx"),
}
CONTENTS = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "deep": b"[" * 200_000,
    "deep value": b"a = " + b"[" * 20_000,
    "binary": bytes(range(256)) * 8,
    "long number": b'{"format": ' + b"9" * 5000 + b"}",
    "infinite": b'{"format": 1e999, "status": NaN}',
    "control": b'{"a\\u001b[2J": 1, "format": "\x1b[2J"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize(("file", "command"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_line(file: str, command: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / file
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    done = CliRunner().invoke(cli, command.split())
    assert done.exit_code == 1, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    assert "--debug" not in done.output, "the last resort caught it"
    assert path.name in done.output
    assert "\x1b[2J" not in done.output
