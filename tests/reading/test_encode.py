from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fer_deploy.reading.decode import Video
from fer_deploy.reading.encode import writing_video

pytest.importorskip("av")


def test_odd_sizes_and_times_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with writing_video(path, frames_per_s=Fraction(30)) as writer:
        for time in (0.0, 0.0, 0.5):  # one time twice, and a pause
            writer.write(np.full((31, 45, 3), 200, np.uint8), time)
    with Video(path) as video:
        frames = list(video.frames())
    assert [frame.pixels.shape for frame in frames] == [(30, 44, 3)] * 3
    assert frames[2].time_s == pytest.approx(0.5, abs=0.01)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with writing_video(tmp_path / "a.mp4", frames_per_s=Fraction(30)) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8), 0.0)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert list(tmp_path.iterdir()) == []
