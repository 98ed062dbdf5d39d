"""Write frames as a video file, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fer_deploy.errors import DataError, one_line
from fer_deploy.files import replacing, shown
from fer_deploy.pictures import Pixels
from fer_deploy.reading.decode import load_av

_TICKS = 90_000  # per second, the usual time base of MPEG containers


class VideoWriter:
    """Encodes frames with their times. Made by `writing_video`."""

    def __init__(self, container: Any, av: Any, rate: Fraction) -> None:
        self._container, self._av, self._rate = container, av, rate
        self._stream: Any = None
        self._last = -1

    def write(self, pixels: Pixels, time_s: float) -> None:
        """Append one frame.

        Args:
            pixels: uint8 (height, width, 3). An odd last row or column is cut off, since video stores colour for blocks
                of two by two pixels. A frame of another size than the first is scaled to the first's.
            time_s: when to show it, in seconds. A time that is not later than the previous frame's is moved just after
                it.
        """
        height, width = (max(2, side - side % 2) for side in pixels.shape[:2])
        if pixels.shape[0] < 2 or pixels.shape[1] < 2:  # no encoder takes a single row or column
            pixels = np.pad(
                pixels, ((0, 2 - min(2, pixels.shape[0])), (0, 2 - min(2, pixels.shape[1])), (0, 0)), "edge"
            )
        if self._stream is None:
            self._stream = self._start(width, height)
        frame = self._av.VideoFrame.from_ndarray(pixels[:height, :width].copy(), format="rgb24")
        if (width, height) != (self._stream.width, self._stream.height):
            frame = frame.reformat(width=self._stream.width, height=self._stream.height)
        self._last = max(self._last + 1, round(time_s * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write the frames that the encoder has buffered."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _start(self, width: int, height: int) -> Any:
        options = {"crf": "20", "preset": "veryfast"}
        try:
            stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        except Exception:  # this build of FFmpeg lacks it
            stream = self._container.add_stream("mpeg4", rate=self._rate)
            stream.bit_rate = 4_000_000
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        return stream


@contextmanager
def writing_video(path: Path, *, frames_per_s: Fraction) -> Iterator[VideoWriter]:
    """Write an MP4 file without sound. It appears, complete, when the block ends without an error.

    Args:
        path: the file.
        frames_per_s: the approximate frame rate.

    Raises:
        UnavailableError: PyAV is not installed.
        DataError: the file cannot be encoded or written.
    """
    av = load_av()
    with replacing(path) as temporary:
        try:
            container = av.open(str(temporary), mode="w", format="mp4", options={"movflags": "+faststart"})
            with container:
                writer = VideoWriter(container, av, frames_per_s)
                yield writer
                writer.finish()
        except av.error.FFmpegError as error:
            raise DataError(f"{shown(path)}: cannot be encoded: {one_line(error)}") from error
