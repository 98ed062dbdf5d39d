"""Videos that were joined by their bytes: read to their end, or reported as read in part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_deploy.reading.decode import Video

av = pytest.importorskip("av")

FRAMES = 6


def write_video(path: Path, codec: str, **options: str) -> bytes:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            pixels = np.full((48, 64, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def read(path: Path) -> tuple[int, str]:
    """The number of frames read, and what was lost."""
    with Video(path) as video:
        return sum(1 for _ in video.frames()), video.loss() or ""


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "mpeg4", {}),
        ("a.mp4", "mpeg4", {"movflags": "faststart"}),
        ("a.mov", "mpeg4", {}),
        ("a.flv", "flv", {}),
        ("a.wmv", "wmv2", {}),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_join_that_ends_the_reading_is_a_loss(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], count: int
) -> None:
    path = tmp_path / name
    path.write_bytes(count * write_video(path, codec, **options))
    frames, loss = read(path)
    assert frames == FRAMES
    if count == 1:
        assert not loss
    else:
        assert f"a{path.suffix}: {count} recordings lie one after the other in this file" in loss
        assert "\n" not in loss


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "mpeg4", {}),
        ("a.avi", "mpeg4", {}),
        ("a.ts", "mpeg2video", {}),
        ("a.mp4", "mpeg4", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_a_join_that_is_read_over_is_no_loss(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = tmp_path / name
    path.write_bytes(2 * write_video(path, codec, **options))
    frames, loss = read(path)
    assert frames > FRAMES
    assert "recordings" not in loss


@pytest.mark.parametrize("cut", [40, 100, 300])
def test_a_second_recording_that_is_cut_short_counts_too(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.mp4"
    content = write_video(path, "mpeg4")
    path.write_bytes(content + content[:cut])
    assert "2 recordings" in read(path)[1]
