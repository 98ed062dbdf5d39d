"""Frames of a video file or camera, through PyAV (FFmpeg's libraries, which its wheels hold).

A file is handed to FFmpeg as an open file, and FFmpeg is told to take only containers that hold their frames
themselves: a playlist named .mp4 cannot make it open other files or addresses.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fer_deploy.errors import DataError, UnavailableError, install
from fer_deploy.files import check_regular, shown
from fer_deploy.pictures import Pixels

CONTAINERS = frozenset(
    {"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "ivf"}
)
"""FFmpeg's names of the containers that are read."""

MAXIMUM_PIXELS = 35_389_440
"""Frames larger than 8192x4320 are refused."""

MAXIMUM_BAD_FRAMES = 100
"""A video of which this many frames in a row cannot be decoded is given up."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        number: from 0, counting every frame of the video, those left out as well.
        time_s: seconds since the first frame.
        pixels: uint8 (height, width, 3), RGB, upright.
    """

    number: int
    time_s: float
    pixels: Pixels


@dataclass(frozen=True)
class VideoFacts:
    """What a container says of its video.

    Attributes:
        width: pixels, as stored; a phone's video may have to be turned, which `frames` does.
        height: pixels, as stored.
        frames_per_s: average frames a second; 25 where the file does not say.
        frames: how many frames there are; None where the file does not say.
    """

    width: int
    height: int
    frames_per_s: Fraction
    frames: int | None


class Video:
    """A video file, opened. Use it in a `with` block; each call of `frames` reads from the start.

    Args:
        path: the file.

    Raises:
        UnavailableError: PyAV is not installed.
        DataError: there is no such file, or it is not a video that can be read.
    """

    def __init__(self, path: Path) -> None:
        av = load_av()
        self._name = shown(path)
        check_regular(path, what="video")
        self._file = path.open("rb")
        try:
            only = {"format_whitelist": ",".join(sorted(CONTAINERS))}  # before a demuxer opens what the file names
            self._container = av.open(self._file, mode="r", metadata_errors="replace", options=only)
            if not self._container.streams.video:
                raise DataError(f"{self._name}: no video in this file")
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise DataError(f"{self._name}: its video is of a kind that cannot be decoded here: save it as MP4")
            self._stream.thread_type = "AUTO"
            self._stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
            self.facts = self._read_facts()
        except DataError:
            self.close()
            raise
        except Exception as error:  # PyAV raises a class for each of FFmpeg's errors, and ValueError and more
            self.close()
            why = f"not a video, or damaged: {_reason(error)}"
            if getattr(error, "errno", None) == errno.EINVAL:  # how FFmpeg refuses what is not on the list
                why = "not a video file that is read here, or damaged: save it as MP4"
            raise DataError(f"{self._name}: {why}") from error

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with suppress(Exception):
            self._container.close()
        self._file.close()

    def frames(self, *, every: int = 1, start: int = 0) -> Iterator[Frame]:
        """Every `every`th frame whose number is at least `start`; earlier ones are decoded and left out.

        A damaged frame is left out, as players do; a video cut short ends where it ends.

        Raises:
            DataError: nothing could be decoded, or MAXIMUM_BAD_FRAMES in a row could not.
        """
        number = good = bad = 0
        first: float | None = None
        for packet in self._packets():
            try:
                decoded = packet.decode()
            except Exception as error:
                bad += 1
                if bad >= MAXIMUM_BAD_FRAMES:
                    raise DataError(f"{self._name}: damaged: {bad} frames in a row cannot be decoded") from error
                continue
            for frame in decoded:
                good += 1
                bad = 0
                time = frame.time if frame.time is not None else number / float(self.facts.frames_per_s)
                first = time if first is None else first
                if number >= start and number % every == 0:
                    yield Frame(number, max(0.0, time - first), self._pixels(frame))
                number += 1
        if not good:
            raise DataError(f"{self._name}: no frame in it can be decoded")

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception:  # the container ends in the middle: what came before it is good
                return
            yield packet

    def _pixels(self, frame: Any) -> Pixels:
        if frame.width * frame.height > MAXIMUM_PIXELS:
            raise DataError(f"{self._name}: frames of {frame.width}x{frame.height} pixels are too large")
        pixels = frame.to_ndarray(format="rgb24")
        turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns))

    def _read_facts(self) -> VideoFacts:
        stream = self._stream
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAXIMUM_PIXELS:
            raise DataError(f"{self._name}: frames of {width}x{height} pixels are too large")
        rate = stream.average_rate or stream.base_rate or Fraction(25)
        if not Fraction(1, 100) <= rate <= 1000:
            rate = Fraction(25)
        frames = stream.frames or None
        if frames is None and self._container.duration:
            frames = round(self._container.duration / 1e6 * float(rate)) or None
        return VideoFacts(width, height, Fraction(rate), frames)


class Camera:
    """A camera, opened; `frames` never ends by itself. Use it in a `with` block.

    Args:
        name: its number from 0, or the system's own name for it.

    Raises:
        UnavailableError: PyAV is not installed, or there is no such camera.
    """

    def __init__(self, name: str = "0") -> None:
        av = load_av()
        kind, address = _camera_address(name)
        try:
            self._container = av.open(address, format=kind, mode="r")
            self._stream = self._container.streams.video[0]
        except Exception as error:
            raise UnavailableError(f"camera {name}: cannot be opened ({address}): {_reason(error)}") from error

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Frames as they come."""
        first: float | None = None
        for number, frame in enumerate(self._container.decode(self._stream)):
            time = frame.time if frame.time is not None else number / 25
            first = time if first is None else first
            yield Frame(number, time - first, np.ascontiguousarray(frame.to_ndarray(format="rgb24")))


def load_av() -> Any:
    """PyAV.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UnavailableError(f"videos need PyAV: {install('video')}") from error
    av.logging.set_level(None)  # FFmpeg's own remarks on damaged files; ours say it in one line
    return av


def _camera_address(name: str) -> tuple[str, str]:
    """FFmpeg's input format and address for a camera on this system."""
    if sys.platform == "darwin":
        return "avfoundation", name
    if sys.platform == "win32":
        return "dshow", name if name.startswith("video=") else f"video={name}"
    return "v4l2", f"/dev/video{name}" if name.isdigit() else name


def _reason(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())[:200]
