from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fer_deploy.pictures import read_picture

PHOTO = Path(__file__).parents[1] / "pictures" / "astronaut.jpg"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real video of 24 frames, 12 a second: a photo's face moves to the right, and is gone in frames 10 and 11."""
    pytest.importorskip("av")
    from fer_deploy.reading.encode import writing_video

    photo = read_picture(PHOTO).pixels[20:260, 100:340]
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with writing_video(path, frames_per_s=Fraction(12)) as writer:
        for frame in range(24):
            pixels = np.full((240, 360, 3), 60, np.uint8)
            if frame not in (10, 11):
                pixels[:, 4 * frame : 4 * frame + 240] = photo
            writer.write(pixels, frame / 12)
    return path
