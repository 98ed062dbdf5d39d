"""What a user of the package waits for: Recognizer.predict on an array, a photo's file and many faces, and loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_deploy import Recognizer

pytestmark = pytest.mark.benchmark(warmup=True, warmup_iterations=5, min_rounds=30)


def test_predict_an_array(model_path: Path, faces: np.ndarray, benchmark, percentiles) -> None:
    recognizer = Recognizer(model_path, threads=1)
    percentiles(1)
    assert benchmark(recognizer.predict, faces[0]).label in recognizer.labels


def test_predict_a_file(model_path: Path, faces: np.ndarray, tmp_path: Path, benchmark, percentiles) -> None:
    path = tmp_path / "face.png"
    Image.fromarray(faces[0]).resize((224, 224)).save(path)
    recognizer = Recognizer(model_path, threads=1)
    percentiles(1)
    assert benchmark(recognizer.predict, path).label in recognizer.labels


def test_predict_64_faces(model_path: Path, faces: np.ndarray, benchmark, percentiles) -> None:
    recognizer = Recognizer(model_path, threads=1)
    percentiles(64)
    assert len(benchmark(recognizer.predict, faces[:64])) == 64


@pytest.mark.benchmark(min_rounds=5, warmup=False)
def test_load(model_path: Path, benchmark, percentiles) -> None:
    percentiles(1)
    assert benchmark(Recognizer, model_path, threads=1).labels
