from __future__ import annotations

import numpy as np
import pytest

from fer_deploy.detection import Box
from fer_deploy.emotions import EMOTIONS
from fer_deploy.reading.smooth import Smoother
from fer_deploy.recognizer import Recognition

BOX = Box(0, 100, 40, 140)


def recognised(**values: float) -> Recognition:
    rest = (1 - sum(values.values())) / (7 - len(values))
    return Recognition.from_row([values.get(label, rest) for label in EMOTIONS], EMOTIONS, box=BOX)


def test_the_first_frame_is_its_own_average() -> None:
    face = recognised(happy=0.7)
    assert Smoother(0.4).update(1, face, 0.0).probabilities == pytest.approx(face.probabilities)


def test_one_odd_frame_does_not_change_the_label() -> None:
    smoother = Smoother(0.4)
    labels = [
        smoother.update(1, recognised(sad=0.9) if frame == 20 else recognised(happy=0.8), frame / 25).label
        for frame in range(40)
    ]
    assert labels == ["happy"] * 40


def test_a_change_that_stays_arrives() -> None:
    smoother = Smoother(0.4)
    labels = [
        smoother.update(1, recognised(happy=0.9) if frame < 25 else recognised(sad=0.9), frame / 25).label
        for frame in range(75)
    ]
    changed = labels.index("sad")
    assert labels == ["happy"] * changed + ["sad"] * (75 - changed)
    assert 0.1 < (changed - 25) / 25 < 0.5  # seconds late: about 0.69 of the time constant


def test_the_frame_rate_does_not_matter() -> None:
    def after_a_second(rate: int) -> float:
        smoother = Smoother(0.4)
        smoother.update(1, recognised(happy=1.0), 0.0)
        for frame in range(1, rate + 1):
            last = smoother.update(1, recognised(happy=0.0), frame / rate)
        return last.probabilities["happy"]

    assert after_a_second(5) == pytest.approx(after_a_second(60), abs=1e-9)
    assert after_a_second(25) == pytest.approx(np.exp(-1 / 0.4), abs=1e-9)


def test_tracks_do_not_mix_and_rows_sum_to_one() -> None:
    smoother = Smoother(0.4)
    smoother.update(1, recognised(happy=1.0), 0.0)
    other = smoother.update(2, recognised(sad=1.0), 0.0)
    assert other.probabilities["happy"] == 0
    assert sum(smoother.update(1, recognised(sad=0.6), 0.1).probabilities.values()) == pytest.approx(1)


def test_nothing_is_smoothed_when_the_constant_is_zero() -> None:
    smoother = Smoother(0)
    smoother.update(1, recognised(happy=1.0), 0.0)
    assert smoother.update(1, recognised(sad=1.0), 0.04).label == "sad"
    with pytest.raises(ValueError, match="negative"):
        Smoother(-1)


def test_the_smoothed_result_keeps_the_frames_box() -> None:
    assert Smoother().update(1, recognised(happy=1.0), 0.0).box == BOX
