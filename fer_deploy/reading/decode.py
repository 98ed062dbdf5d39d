"""Decode the frames of a video file with PyAV, whose wheels contain FFmpeg's libraries.

Frames come as players show them: of the main video stream, in the shape and orientation that the file states, with
their times. What is lost or assumed is counted, see `Video.loss` and `Video.notes`.

FFmpeg gets an open file and a list of permitted containers, all of which hold their frames themselves: a playlist that
is named .mp4 cannot make it open other files or addresses.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from fer_deploy.errors import DataError, UnavailableError, install, one_line
from fer_deploy.files import check_regular, open_regular, shown
from fer_deploy.machine import available_cores
from fer_deploy.pictures import Pixels
from fer_deploy.reading.joined import joined_recordings
from fer_deploy.reading.timeline import StreamFacts, Timeline

CONTAINERS = frozenset(
    {
        *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "flv", "asf", "ogg", "ivf", "nut", "rm"),
        *(
            "mpegts",
            "mpeg",
            "mpegvideo",
            "m4v",
            "h264",
            "hevc",
            "obu",
            "mjpeg",
            "jpeg_pipe",
            "dv",
            "mxf",
            "wtv",
            "yuv4mpegpipe",
        ),
    }
)
"""The containers that are read, by FFmpeg's names. Each holds its frames itself."""

MAXIMUM_PIXELS = 35_389_440
"""Frames larger than 8192x4320 are refused."""

_STATE_DURATION = {"matroska", "webm", "flv", "asf"}
"""Containers whose header states when the file ends, and no number of frames. Others have FFmpeg estimate it."""

_IN_ORDER = {"matroska", "webm", "flv", "asf", "mpegts"}
"""Containers that store packets one after the other, with little between them."""

_LARGEST_HEADER = 4096
"""More bytes than this between two packets of such a container are a damaged part that was skipped."""

_THREADS = 4
"""Decoding threads: more gain little, since detection takes longer than decoding."""

_DEMUX_ERRORS = 10
"""So many errors of a container in a row are its end."""

_LARGEST_SHAPE = 10
"""Pixels that are wider or higher than this many times their other side are an error in the file."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        number: from 0. Frames that `every` and `start` skip are counted, and so are frames that cannot be decoded.
        time_s: seconds since the first frame.
        pixels: uint8 (height, width, 3), RGB, upright, with square pixels.
    """

    number: int
    time_s: float
    pixels: Pixels


@dataclass(frozen=True)
class VideoFacts:
    """What a container states about its video.

    Attributes:
        width: pixels, as stored: `frames` applies the shape of the pixels and the rotation.
        height: pixels, as stored.
        frames_per_s: average frames per second; 25 if the file does not state it.
        frames: number of frames, perhaps estimated from the duration; None if the file does not state it.
    """

    width: int
    height: int
    frames_per_s: Fraction
    frames: int | None


class Video:
    """An open video file. Use it in a `with` block.

    Args:
        path: the file.

    Attributes:
        facts: what the container states.

    Raises:
        UnavailableError: PyAV is not installed.
        DataError: the file does not exist, or is not a video that can be read.
    """

    def __init__(self, path: Path) -> None:
        self._av = load_av()
        self._name = shown(path)
        self._remarks: list[str] = []
        self._container: Any = None
        self._timeline: Timeline | None = None
        self._first_shape: Fraction | None = None
        self._size = (0, 0)
        check_regular(path, what="video")
        self._file = open_regular(path, what="video")
        self._recordings = joined_recordings(self._file)
        self._open()
        self.facts = self._read_facts()

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

        Frames that cannot be decoded are skipped, as players do, and counted in `loss`.

        Raises:
            DataError: no frame can be decoded.
        """
        if self._timeline is not None:  # the container has been read before
            self._open()
        done = 0
        try:
            for number, time_s, frame in self._decode(threads=min(_THREADS, available_cores()), strict=True):
                done += 1
                if number >= start and number % every == 0:
                    yield Frame(number, time_s, self._pixels(frame))
        except _DamagedError:
            # With several threads, a bad frame can take good ones with it, above all at the end of the file.
            self._open()
            for number, time_s, frame in islice(self._decode(threads=1, strict=False), done, None):
                if number >= start and number % every == 0:
                    yield Frame(number, time_s, self._pixels(frame))
        if self._timeline is not None and not self._timeline.frames:
            raise DataError(f"{self._name}: no frame in it can be decoded")

    def loss(self) -> str | None:
        """What the file states but could not be read, as one line after `frames` has ended; None if all was read."""
        text = self._timeline.loss() if self._timeline is not None else None
        texts = [] if text is None else [f"{text}: cut short or damaged"]
        if self._recordings > 1:
            texts.append(
                f"{self._recordings} recordings lie one after the other in this file, and only the first is read: join "
                "them with ffmpeg -f concat, or read each by itself"
            )
        return f"{self._name}: {'; '.join(texts)}" if texts else None

    def notes(self) -> list[str]:
        """What was assumed or changed, one line each, after `frames` has ended."""
        texts = [*self._remarks, *(self._timeline.notes() if self._timeline is not None else ())]
        return [f"{self._name}: {text}" for text in texts]

    def _open(self) -> None:
        """Open the container from its start, and choose the stream."""
        if self._container is not None:
            self._container.close()
        self._file.seek(0)
        try:
            permitted = {"format_whitelist": ",".join(sorted(CONTAINERS))}  # checked before a demuxer opens other files
            self._container = self._av.open(self._file, mode="r", metadata_errors="replace", options=permitted)
            self._stream = self._choose_stream()
        except DataError:
            self.close()
            raise
        except Exception as error:  # PyAV has a class for each of FFmpeg's errors, and raises ValueError and others too
            why = self._why_not_opened(error)
            self.close()
            raise DataError(f"{self._name}: {why}") from error

    def _why_not_opened(self, error: Exception) -> str:
        self._file.seek(0)
        if self._file.read(12)[4:8] == b"ftyp" and isinstance(error, self._av.error.InvalidDataError):
            return "its index (moov) is missing or damaged: the recording or download was cut short"
        if getattr(error, "errno", None) == errno.EINVAL:  # how FFmpeg refuses a container that is not permitted
            return "not a video in a format that is read here, or damaged: save it as MP4"
        return f"not a video, or damaged: {reason_of(error)}"

    def _choose_stream(self) -> Any:
        """The main video: no cover picture; the one marked as default, then the largest."""
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not streams:
            what = "only a cover picture, no video" if self._container.streams.video else "no video"
            raise DataError(f"{self._name}: {what} in this file")
        decodable = [stream for stream in streams if stream.codec_context is not None]
        if not decodable:
            raise DataError(f"{self._name}: its video codec cannot be decoded here: save it as MP4")

        def rank(stream: Any) -> tuple[bool, int]:
            context = stream.codec_context
            return bool(stream.disposition & self._av.stream.Disposition.default), context.width * context.height

        chosen = max(decodable, key=rank)
        if len(streams) > 1:
            context = chosen.codec_context
            size = f"{context.width}x{context.height}"
            self._remark(f"{len(streams)} videos in this file: only stream {chosen.index} ({size}) is read")
        return chosen

    def _decode(self, *, threads: int, strict: bool) -> Iterator[tuple[int, float, Any]]:
        """(number, time in seconds, frame) for each frame.

        Args:
            threads: decoding threads.
            strict: raise _DamagedError at the first damage.
        """
        context = self._stream.codec_context
        context.thread_type, context.thread_count = "AUTO", threads
        timeline = self._timeline = Timeline(self._stream_facts())
        for packet in chain(self._packets(timeline, strict=strict), [None]):  # None: give the frames that you hold
            try:
                decoded = context.decode(packet)
            except Exception as error:
                if strict:
                    raise _DamagedError from error
                timeline.failed()
                continue
            for frame in decoded:
                place = timeline.frame(frame.pts, frame.dts, is_patched=bool(frame.is_corrupt))
                if place is not None:
                    yield *place, frame
        timeline.finish()

    def _packets(self, timeline: Timeline, *, strict: bool) -> Iterator[Any]:
        """The packets of the chosen stream. Sound is only followed to its end, which shows where the file was cut."""
        errors = 0
        end: int | None = None  # where the packet before ended in the file
        in_order = bool(set(self._container.format.name.split(",")) & _IN_ORDER)
        is_damaged = False
        while errors < _DEMUX_ERRORS:
            try:
                for packet in self._container.demux(*self._container.streams):
                    errors = 0
                    if packet.dts is None and packet.pts is None and not packet.size:
                        continue  # PyAV's sign for the end of a stream
                    if in_order and packet.pos is not None:
                        is_damaged |= end is not None and packet.pos - end > _LARGEST_HEADER
                        end = packet.pos + packet.size
                    if packet.stream.index != self._stream.index:
                        timeline.other_packet(_end_of(packet))
                        continue
                    timeline.packet(
                        packet.pts,
                        packet.dts,
                        is_keyframe=packet.is_keyframe,
                        is_hidden=packet.is_discard
                        or not packet.size,  # by an edit list; or the last frame is repeated
                        is_damaged=is_damaged or packet.is_corrupt,
                    )
                    is_damaged = False
                    if packet.size:
                        yield packet
                return
            except Exception as error:  # of the container, or a stream that it did not announce: the rest may be whole
                if strict:
                    raise _DamagedError from error
                errors += 1

    def _stream_facts(self) -> StreamFacts:
        stream, formats = self._stream, set(self._container.format.name.split(","))
        duration = self._container.duration
        return StreamFacts(
            tick_s=float(stream.time_base),
            frame_s=1 / float(self.facts.frames_per_s),
            frames=stream.frames or None,
            end_s=duration / 1e6 if duration and formats & _STATE_DURATION else None,
            has_times="avi" not in formats,
            restarts=bool(formats & {"mpegts", "mpeg"}),
            steady=bool(formats & {"mpeg", "ogg", "asf"}),
            fields=int(stream.codec_context.field_order) > 1,  # neither unknown (0) nor progressive (1)
        )

    def _pixels(self, frame: Any) -> Pixels:
        """The frame as players show it: with square pixels, rotated and mirrored."""
        if (frame.width, frame.height) != self._size:
            self._remark(f"frames change from {self._size[0]}x{self._size[1]} to {frame.width}x{frame.height}")
            self._size = frame.width, frame.height
        width, height = self._displayed_size(frame.width, frame.height)
        if width * height > MAXIMUM_PIXELS:
            raise DataError(f"{self._name}: frames of {width}x{height} pixels are too large")
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
        matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        if matrix is not None:
            pixels = self._oriented(pixels, np.frombuffer(bytes(matrix), np.int32))
        return np.ascontiguousarray(pixels)

    def _displayed_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) with square pixels: the side that is too short grows, so that no detail is lost."""
        shape = self._pixel_shape()
        if shape == 1:
            return width, height
        if not Fraction(1, _LARGEST_SHAPE) <= shape <= _LARGEST_SHAPE:
            self._remark(f"pixels of shape {shape.numerator}:{shape.denominator} are an error: they are read as square")
            return width, height
        size = (round(width * shape), height) if shape > 1 else (width, round(height / shape))
        self._remark(
            f"frames of {width}x{height} with pixels of shape {shape.numerator}:{shape.denominator} "
            f"are read at {size[0]}x{size[1]}"
        )
        return size

    def _pixel_shape(self) -> Fraction:
        """Width over height of the stored pixels, as the container states it, else as the last decoded frame does."""
        decoded = self._stream.codec_context.sample_aspect_ratio
        stated = self._stream.sample_aspect_ratio
        # If the container states nothing, `stated` comes from the first frame. Broadcasts change it later.
        shape = decoded if stated == self._first_shape and decoded else stated
        return Fraction(shape) if shape else Fraction(1)

    def _oriented(self, pixels: Pixels, matrix: np.ndarray[Any, Any]) -> Pixels:
        """Apply a display matrix, as FFmpeg and QuickTime define it: (x, y) is shown at (a x + c y, b x + d y)."""
        if len(matrix) < 5:
            return pixels
        a, b, c, d = (int(matrix[position]) for position in (0, 1, 3, 4))
        turned = abs(b) + abs(c) > abs(a) + abs(d)
        if turned:
            pixels = pixels.transpose(1, 0, 2)
        across, down = (c, b) if turned else (a, d)
        if across < 0:
            pixels = pixels[:, ::-1]
        if down < 0:
            pixels = pixels[::-1]
        if turned or across < 0 or down < 0:
            self._remark(f"frames are {_words(turned, across < 0, down < 0)}, as the file states")
        if min(abs(a) + abs(d), abs(b) + abs(c)) > 0.02 * max(abs(a) + abs(d), abs(b) + abs(c)):
            self._remark(
                "its frames are to be shown tilted, which is not done: they are read at the nearest right angle"
            )
        return pixels

    def _remark(self, text: str) -> None:
        if text not in self._remarks:
            self._remarks.append(text)

    def _read_facts(self) -> VideoFacts:
        stream = self._stream
        context = stream.codec_context
        self._first_shape = context.sample_aspect_ratio
        self._size = context.width, context.height
        if context.width * context.height > MAXIMUM_PIXELS:
            self.close()
            raise DataError(f"{self._name}: frames of {context.width}x{context.height} pixels are too large")
        rate = stream.average_rate or stream.base_rate or Fraction(25)
        if not Fraction(1, 100) <= rate <= 1000:
            rate = Fraction(25)
        frames = stream.frames or None
        if frames is None and self._container.duration:
            frames = round(self._container.duration / 1e6 * float(rate)) or None
        return VideoFacts(context.width, context.height, Fraction(rate), frames)


class _DamagedError(Exception):
    """Something cannot be decoded: start again with the decoder that loses least."""


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in (stream.disposition.name or "")


def _end_of(packet: Any) -> float | None:
    """When a packet ends, in seconds."""
    start = packet.pts if packet.pts is not None else packet.dts
    return None if start is None else float((start + (packet.duration or 0)) * packet.time_base)


def _words(turned: bool, mirrored: bool, upside_down: bool) -> str:
    """How frames are turned, for a remark."""
    return {
        (False, True, False): "mirrored",
        (False, False, True): "turned upside down and mirrored",
        (False, True, True): "turned by 180 degrees",
        (True, False, False): "turned by a quarter and mirrored",
        (True, True, False): "turned right by 90 degrees",
        (True, False, True): "turned left by 90 degrees",
        (True, True, True): "turned by a quarter and mirrored",
    }[turned, mirrored, upside_down]


def load_av() -> Any:
    """Import PyAV.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UnavailableError(f"videos need PyAV: {install('video')}") from error
    av.logging.set_level(None)  # silences FFmpeg's own remarks on damaged files: ours fit one line
    return av


def reason_of(error: Exception) -> str:
    """FFmpeg's own words for an error, without the error number and file name that PyAV adds."""
    return one_line(getattr(error, "strerror", None) or error)
