"""Decode the frames of a video file with PyAV, whose wheels contain FFmpeg's libraries.

FFmpeg gets an open file and a list of permitted containers, all of which hold their frames themselves: a playlist that
is named .mp4 cannot make it open other files or addresses.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fer_deploy.errors import DataError, UnavailableError, install, one_line
from fer_deploy.files import check_regular, shown
from fer_deploy.pictures import Pixels

CONTAINERS = frozenset(
    {"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "ivf"}
)
"""The containers that are read, by FFmpeg's names."""

MAXIMUM_PIXELS = 35_389_440
"""Frames larger than 8192x4320 are refused."""

MAXIMUM_BAD_FRAMES = 100
"""Reading stops when this many frames in a row cannot be decoded."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        number: from 0; frames that `every` and `start` skip are counted.
        time_s: seconds since the first frame.
        pixels: uint8 (height, width, 3), RGB, upright.
    """

    number: int
    time_s: float
    pixels: Pixels


@dataclass(frozen=True)
class VideoFacts:
    """What a container states about its video.

    Attributes:
        width: pixels, as stored: before rotation, which `frames` applies.
        height: pixels, as stored.
        frames_per_s: average frames per second; 25 if the file does not state it.
        frames: number of frames; None if the file does not state it.
    """

    width: int
    height: int
    frames_per_s: Fraction
    frames: int | None


class Video:
    """An open video file. Use it in a `with` block.

    Args:
        path: the file.

    Raises:
        UnavailableError: PyAV is not installed.
        DataError: the file does not exist, or is not a video that can be read.
    """

    def __init__(self, path: Path) -> None:
        av = load_av()
        self._name = shown(path)
        check_regular(path, what="video")
        self._file = path.open("rb")
        try:
            permitted = {"format_whitelist": ",".join(sorted(CONTAINERS))}  # checked before a demuxer opens other files
            self._container = av.open(self._file, mode="r", metadata_errors="replace", options=permitted)
            if not self._container.streams.video:
                raise DataError(f"{self._name}: no video in this file")
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise DataError(f"{self._name}: its video codec cannot be decoded here: save it as MP4")
            self._stream.thread_type = "AUTO"
            self._stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
            self.facts = self._read_facts()
        except DataError:
            self.close()
            raise
        except Exception as error:  # PyAV has a class for each of FFmpeg's errors, and raises ValueError and others too
            self.close()
            why = f"not a video, or damaged: {reason_of(error)}"
            if getattr(error, "errno", None) == errno.EINVAL:  # how FFmpeg refuses a container that is not permitted
                why = "not a video in a format that is read here, or damaged: save it as MP4"
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
        """Each `every`th frame whose number is at least `start`. Earlier frames are decoded and skipped.

        Frames that cannot be decoded are skipped, as players do.

        Raises:
            DataError: no frame can be decoded, or MAXIMUM_BAD_FRAMES in a row cannot.
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
            except Exception:  # the file ends in the middle: the frames before that are good
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


def load_av() -> Any:
    """Import PyAV.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UnavailableError(f"videos need PyAV: {install('video')}") from error
    av.logging.set_level(None)  # FFmpeg's own remarks on damaged files; ours say it in one line
    return av


def reason_of(error: Exception) -> str:
    """FFmpeg's own words for an error, without the error number and file name that PyAV adds."""
    return one_line(getattr(error, "strerror", None) or error)
