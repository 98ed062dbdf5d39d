"""`ferdeploy crop`: faces cut out of photos, for recipes with unlabelled faces."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fer_deploy.cli.crop import command
from fer_deploy.detection.detector import FaceDetector
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.faces.unlabelled import read_unlabelled
from fer_deploy.files import read_file
from fer_deploy.pictures import read_picture

PHOTO = Path(__file__).parents[1] / "pictures" / "astronaut.jpg"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The astronaut, beside a small dark copy of herself, and a picture of nobody in a folder."""
    (tmp_path / "photos/more").mkdir(parents=True)
    shutil.copy(PHOTO, tmp_path / "photos/astronaut.jpg")
    with Image.open(PHOTO) as photo:
        both = Image.new("RGB", (photo.width + 200, photo.height))
        both.paste(photo.resize((200, 200)).point(lambda value: value // 3), (0, 0))
        both.paste(photo, (200, 0))
        both.save(tmp_path / "photos/more/two.png")
    Image.new("RGB", (90, 90), "green").save(tmp_path / "photos/more/nobody.png")
    return tmp_path / "photos"


def test_the_largest_face_of_each_photo_becomes_a_picture(photos: Path, tmp_path: Path) -> None:
    output = photos / "faces"
    done = CliRunner().invoke(command, [str(photos), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "2 faces from 3 photos" in done.output
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*.png")) == [
        "astronaut.png",
        "more/two.png",
    ]
    one, two = (np.asarray(Image.open(output / name)).astype(int) for name in ("astronaut.png", "more/two.png"))
    assert one.shape == two.shape == (48, 48)
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.8  # a pixel or two away
    assert abs(one.mean() - two.mean()) < 15  # the large one of the two, not the dark one
    pixels = read_picture(read_file(PHOTO, maximum_bytes=1 << 24), name="astronaut").pixels
    detector = FaceDetector()
    (box,) = detector.detect(pixels)
    grey = np.asarray(Image.fromarray(detector.crop(pixels, box)).convert("L")).astype(float)
    cells = np.linspace(0, len(grey), 49).round().astype(int)
    means = np.array([[grey[a:b, c:d].mean() for c, d in zip(cells, cells[1:])] for a, b in zip(cells, cells[1:])])  # noqa: B905, RUF007
    assert np.abs(one - means).mean() < 4
    assert len(read_unlabelled(output, synthetic_dataset(70))) == 2


def test_a_stopped_run_resumes_and_broken_photos_are_named(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "faces"
    CliRunner().invoke(command, [str(photos / "more"), "--output", str(output)])
    kept = (output / "two.png").stat().st_mtime_ns
    (photos / "more/torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    again = CliRunner().invoke(command, [str(photos / "more"), str(photos / "gone.jpg"), "--output", str(output)])
    assert again.exit_code == 1
    assert "0 faces from 3 photos, 1 existed already, 1 without a face, 2 failed" in again.output
    assert "error: " in again.output
    assert "torn.jpg" in again.output
    assert "gone.jpg" in again.output
    assert (output / "two.png").stat().st_mtime_ns == kept


def test_faces_of_one_name_are_refused(photos: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(photos / "astronaut.jpg"), str(PHOTO), "--output", str(tmp_path / "faces")])
    assert done.exit_code == 1
    assert "would both become" in done.output
    assert not (tmp_path / "faces").exists()


def test_faces_keep_the_size_of_a_larger_network(photos: Path, tmp_path: Path) -> None:
    sizes = {}
    for size in ("48", "96", "512"):
        output = tmp_path / size
        done = CliRunner().invoke(command, [str(photos), "--output", str(output), "--size", size])
        assert done.exit_code == 0, done.output
        sizes[size] = {Image.open(path).size for path in output.rglob("*.png")}
    assert sizes["48"] == {(48, 48)}
    assert sizes["96"] == {(96, 96)}
    assert all(96 < width == height < 512 for width, height in sizes["512"])  # as large as the photo has it
