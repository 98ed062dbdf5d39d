"""Classify the faces in a camera's stream and show them, as fast as the machine can without lagging behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from fer_deploy.detection.detector import FaceDetector
from fer_deploy.errors import UnavailableError
from fer_deploy.pictures import Pixels
from fer_deploy.reading.decode import Frame, load_av, reason_of
from fer_deploy.reading.draw import annotate
from fer_deploy.reading.smooth import Smoother
from fer_deploy.reading.track import Tracker
from fer_deploy.recognizer import Recognizer

_PATIENCE_S = 10.0  # a camera without a new frame for so long has been disconnected


class Camera:
    """An open camera. Use it in a `with` block.

    Args:
        name: its number from 0, or the system's name for it.

    Raises:
        UnavailableError: PyAV is not installed, or the camera cannot be opened.
    """

    def __init__(self, name: str = "0") -> None:
        av = load_av()
        kind, address = _camera_address(name)
        try:
            self._container = av.open(address, format=kind, mode="r")
            self._stream = self._container.streams.video[0]
        except Exception as error:
            raise UnavailableError(f"camera {name}: cannot be opened ({address}): {reason_of(error)}") from error

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Frames as they arrive, without end."""
        first: float | None = None
        for number, frame in enumerate(self._container.decode(self._stream)):
            time = frame.time if frame.time is not None else number / 25
            first = time if first is None else first
            yield Frame(number, time - first, np.ascontiguousarray(frame.to_ndarray(format="rgb24")))


class Screen(Protocol):
    """Shows frames."""

    is_open: bool

    def show(self, pixels: Pixels) -> None:
        """Show one picture, uint8 (height, width, 3)."""
        ...


class _Latest:
    """Receives frames in a thread and keeps only the newest, so that the display never lags behind the camera."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._ended = False
        self._stopped = False
        self._thread = threading.Thread(target=self._take, args=(frames,), daemon=True)
        self._thread.start()

    def next(self) -> Frame | None:
        """The newest frame that was not returned before; None at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._ended, timeout=_PATIENCE_S)
            frame, self._frame = self._frame, None
            return frame

    def stop(self) -> None:
        """Stop receiving, and wait until the thread has noticed."""
        self._stopped = True
        self._thread.join(timeout=_PATIENCE_S)

    def _take(self, frames: Iterable[Frame]) -> None:
        try:
            for frame in frames:
                with self._condition:
                    self._frame = frame
                    self._condition.notify()
                if self._stopped:
                    return
        except Exception:  # the camera was disconnected: the frames end
            pass
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify()


def show_live(
    frames: Iterable[Frame],
    screen: Screen,
    recognizer: Recognizer,
    detector: FaceDetector,
    *,
    smoothing_s: float,
) -> float:
    """Classify and show frames until the screen is closed or the frames end.

    Args:
        frames: the camera's frames.
        screen: where to show them.
        recognizer: the classifier.
        detector: finds the faces.
        smoothing_s: time constant of the smoothing, in seconds.

    Returns:
        The number of frames shown per second.
    """
    tracker, smoother = Tracker(), Smoother(smoothing_s)
    latest = _Latest(frames)
    frames_shown, started = 0, time.perf_counter()
    try:
        while screen.is_open:
            frame = latest.next()
            if frame is None:
                break
            faces = recognizer.read_pixels(frame.pixels, detector=detector)
            tracks = tracker.update([face.box for face in faces if face.box is not None], frame.time_s)
            smoothed = [smoother.update(track, face, frame.time_s) for track, face in zip(tracks, faces, strict=True)]
            screen.show(annotate(frame.pixels, smoothed))
            frames_shown += 1
    finally:
        latest.stop()
    return frames_shown / max(1e-9, time.perf_counter() - started)


def _camera_address(name: str) -> tuple[str, str]:
    """FFmpeg's input format and address for a camera on this system."""
    if sys.platform == "darwin":
        return "avfoundation", name
    if sys.platform == "win32":
        return "dshow", name if name.startswith("video=") else f"video={name}"
    return "v4l2", f"/dev/video{name}" if name.isdigit() else name
