"""Show a camera's picture with its faces read, as fast as the machine can and no slower than the camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Protocol

from fer_deploy.detection.detector import FaceDetector
from fer_deploy.pictures import Pixels
from fer_deploy.reading.decode import Frame
from fer_deploy.reading.draw import annotate
from fer_deploy.reading.smooth import Smoother
from fer_deploy.reading.track import Tracker
from fer_deploy.recognizer import Recognizer

_PATIENCE_S = 10.0  # a camera that gives nothing for so long is taken to be gone


class Screen(Protocol):
    """Where frames are shown."""

    is_open: bool

    def show(self, pixels: Pixels) -> None:
        """Show one picture, uint8 (height, width, 3)."""
        ...


class _Latest:
    """Takes frames from a camera in a thread of its own and keeps the newest: reading never lags behind the camera."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._ended = False
        self._stopped = False
        self._thread = threading.Thread(target=self._take, args=(frames,), daemon=True)
        self._thread.start()

    def next(self) -> Frame | None:
        """The newest frame that was not given yet; None when there will be no more."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._ended, timeout=_PATIENCE_S)
            frame, self._frame = self._frame, None
            return frame

    def stop(self) -> None:
        """Take no more frames, and wait until the thread has noticed."""
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
        except Exception:  # the camera was pulled out: the frames end
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
    """Read frames and show them until the screen is closed or the frames end.

    Args:
        frames: a camera's.
        screen: where to show them.
        recognizer: the model.
        detector: finds the faces.
        smoothing_s: the time constant of smoothing, in seconds.

    Returns:
        Frames shown a second.
    """
    tracker, smoother = Tracker(), Smoother(smoothing_s)
    latest = _Latest(frames)
    shown, started = 0, time.perf_counter()
    try:
        while screen.is_open:
            frame = latest.next()
            if frame is None:
                break
            faces = recognizer.read_pixels(frame.pixels, detector=detector)
            tracks = tracker.update([face.box for face in faces if face.box is not None], frame.time_s)
            steady = [smoother.update(track, face, frame.time_s) for track, face in zip(tracks, faces, strict=True)]
            screen.show(annotate(frame.pixels, steady))
            shown += 1
    finally:
        latest.stop()
    return shown / max(1e-9, time.perf_counter() - started)
