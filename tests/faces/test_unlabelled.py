"""Faces without labels, from a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_deploy.errors import DataError
from fer_deploy.faces.decode import resize
from fer_deploy.faces.synthetic import colour_faces, synthetic_dataset
from fer_deploy.faces.unlabelled import read_unlabelled
from fer_deploy.pictures import to_grey


def test_pictures_are_read_in_the_order_of_their_names_once_each(tmp_path: Path) -> None:
    dataset = synthetic_dataset(70)
    generator = np.random.default_rng(0)
    one, two = generator.integers(256, size=(2, 48, 48), dtype=np.uint8)
    (tmp_path / "b").mkdir()
    Image.fromarray(two).save(tmp_path / "b/two.png")
    Image.fromarray(one).convert("RGB").save(tmp_path / "a.PNG")
    Image.fromarray(one).save(tmp_path / "c.png")
    Image.fromarray(np.full((96, 96), 7, np.uint8)).save(tmp_path / "d.png")
    Image.fromarray(dataset.test.images[3]).save(tmp_path / "e.png")
    Image.fromarray(dataset.validation.images[3]).save(tmp_path / "f.png")
    Image.fromarray(dataset.training.images[3]).save(tmp_path / "g.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    Image.fromarray(one).save(tmp_path / ".hidden.png")
    lines: list[str] = []
    faces = read_unlabelled(tmp_path, dataset, message=lines.append)
    assert lines == [
        f"{tmp_path}: 4 unlabelled faces; 1 pictures of another size were resized to 48x48; left out: "
        "2 equal to a validation or test face, 1 *.txt, 1 equal to another picture, 1 hidden"
    ]
    assert faces.dtype == np.uint8
    expected = [one, two, np.full((48, 48), 7, np.uint8), dataset.training.images[3]]
    assert np.array_equal(faces, np.stack(expected))


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    dataset = synthetic_dataset(70)
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        read_unlabelled(tmp_path / "nowhere", dataset)
    Image.fromarray(dataset.test.images[0]).save(tmp_path / "test.png")
    with pytest.raises(DataError, match="holds no picture that is not a validation or test face"):
        read_unlabelled(tmp_path, dataset)
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    with pytest.raises(DataError, match=r"torn\.jpg"):
        read_unlabelled(tmp_path, dataset)


def test_faces_for_larger_networks_are_resized_from_their_originals(tmp_path: Path) -> None:
    few = synthetic_dataset(70)
    drawn = colour_faces([0, 1], height=120, width=90, seed=3)
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    Image.fromarray(few.test.images[0]).save(tmp_path / "copy.png")
    found = read_unlabelled(tmp_path, few, side=96)
    assert found.shape == (2, 96, 96)
    assert np.array_equal(found[1], resize(to_grey(drawn[1]), 96, 96))
