from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from tiny_model import grey_face, write_tiny_model

from fer_deploy.errors import DataError
from fer_deploy.reading.inputs import Source, find_inputs
from fer_deploy.reading.pictures import FaceReader, read_faces
from fer_deploy.recognizer import Recognizer


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> FaceReader:
    return FaceReader(Recognizer(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")))


def source(path: Path) -> Source:
    (only,) = find_inputs([path]).sources
    return only


def half_and_half(first: str, second: str) -> Image.Image:
    """A picture whose upper half has one emotion and whose lower half another."""
    upper, lower = grey_face(first, height=40, width=40), grey_face(second, height=40, width=40)
    return Image.fromarray(np.concatenate([upper, lower]))


def test_a_picture_without_a_detector_is_one_face(reader: FaceReader, tmp_path: Path) -> None:
    half_and_half("sad", "happy").save(tmp_path / "a.png")
    read = read_faces(source(tmp_path / "a.png"), reader)
    assert [face.label for face in read.faces] == ["sad"]
    assert (read.notes, read.turned) == ([], False)


def test_exif_orientation_is_applied_and_reported(reader: FaceReader, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half_and_half("sad", "happy").save(tmp_path / "a.jpg", exif=exif, quality=100)
    read = read_faces(source(tmp_path / "a.jpg"), reader)
    assert ([face.label for face in read.faces], read.turned) == (["happy"], True)


@pytest.mark.parametrize("blank", [0, 1, 3])
def test_the_first_frame_with_something_in_it_is_read(reader: FaceReader, tmp_path: Path, blank: int) -> None:
    # Of different greys: WebP stores equal frames as one.
    frames = [Image.new("RGB", (40, 80), (200 + 20 * number,) * 3) for number in range(blank)]
    frames += [half_and_half("sad", "happy"), half_and_half("happy", "sad")]
    path = tmp_path / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    read = read_faces(source(path), reader)
    assert [face.label for face in read.faces] == ["sad"]
    (note,) = read.notes
    expected = f"number {blank + 1} was read: those before it are blank" if blank else "the first was read"
    assert note.startswith(f"{path}: ")
    assert note.endswith(f"frames or pages: only {expected}")


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "jfif"])
def test_an_annotated_copy_keeps_the_colour_profile(reader: FaceReader, tmp_path: Path, ending: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kind = "JPEG" if ending == "jfif" else None
    half_and_half("sad", "happy").save(tmp_path / f"a.{ending}", kind, icc_profile=profile)
    read_faces(source(tmp_path / f"a.{ending}"), reader, copy=tmp_path / "out" / f"a.{ending}")
    with Image.open(tmp_path / "out" / f"a.{ending}") as copy:
        assert copy.info["icc_profile"] == profile


def test_a_copy_of_a_picture_without_a_profile_has_none(reader: FaceReader, tmp_path: Path) -> None:
    half_and_half("sad", "happy").save(tmp_path / "a.png")
    read_faces(source(tmp_path / "a.png"), reader, copy=tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as copy:
        assert "icc_profile" not in copy.info


def test_standard_input_is_named_in_errors(reader: FaceReader, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO(b"no picture")

    monkeypatch.setattr(sys, "stdin", Standard())
    with pytest.raises(DataError, match="standard input: a text file"):
        read_faces(Source(Path("-"), Path("-")), reader)
