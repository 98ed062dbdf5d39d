"""An annotated copy of a video: its frames with the boxes, tracks and smoothed labels that were read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_deploy.reading.decode import Video
from fer_deploy.reading.draw import annotate
from fer_deploy.reading.encode import writing_video
from fer_deploy.reading.rows import Row


def render(source: Path, target: Path, rows: Sequence[Row], *, every: int = 1) -> None:
    """Write the copy.

    Args:
        source: the video.
        target: an MP4 file; without sound.
        rows: what was read, in order of frames.
        every: every how many frames one was read; the ones between show the last one's boxes.

    Raises:
        DataError: the video cannot be read or written.
    """
    by_frame: dict[int, list[Row]] = {}
    for row in rows:
        by_frame.setdefault(row.frame or 0, []).append(row)
    size: tuple[int, ...] | None = None
    with Video(source) as video, writing_video(target, frames_per_s=video.facts.frames_per_s) as writer:
        for frame in video.frames():
            size = size or frame.pixels.shape
            if frame.pixels.shape != size:  # a stream that changes its size: a file has one
                continue
            shown_rows = by_frame.get(frame.number - frame.number % every, [])
            faces = [row.smoothed or row.face for row in shown_rows]
            names = [f"#{row.track}" for row in shown_rows]
            writer.write(annotate(frame.pixels, faces, names=names), frame.time_s)
