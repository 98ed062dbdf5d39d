from __future__ import annotations

import numpy as np
import pytest

from fer_deploy.detection import Box
from fer_deploy.emotions import EMOTIONS
from fer_deploy.reading.smooth import Smoother
from fer_deploy.reading.track import MAXIMUM_GAP_S, Tracker
from fer_deploy.recognizer import Recognition


def box(x: float, y: float = 100.0, *, size: float = 40.0) -> Box:
    return Box(x, y, x + size, y + size)


class TestTracker:
    def test_a_face_that_moves_slowly_keeps_its_number(self) -> None:
        tracker = Tracker()
        assert [tracker.update([box(10 + 3 * frame)], frame / 25) for frame in range(40)] == [[1]] * 40

    def test_faces_keep_their_numbers_in_whatever_order_they_come(self) -> None:
        tracker, generator = Tracker(), np.random.default_rng(1)
        places = [50.0, 150.0, 260.0, 400.0]
        first = tracker.update([box(x) for x in places], 0.0)
        assert first == [1, 2, 3, 4]
        for frame in range(1, 30):
            order = generator.permutation(4)
            found = tracker.update([box(places[i] + generator.normal(0, 4)) for i in order], frame / 25)
            assert found == [first[i] for i in order]

    def test_two_faces_that_pass_each_other_do_not_share_a_number(self) -> None:
        tracker = Tracker()
        for frame in range(41):
            found = tracker.update([box(5.0 * frame), box(200 - 5.0 * frame, 112)], frame / 25)
            assert len(set(found)) == 2

    def test_a_face_that_is_gone_for_a_moment_keeps_its_number_and_one_gone_for_long_does_not(self) -> None:
        tracker = Tracker()
        assert tracker.update([box(10)], 0.0) == [1]
        assert tracker.update([], 0.3) == []
        assert tracker.update([box(14)], 0.6) == [1]
        assert tracker.update([], 0.9) == []
        assert tracker.update([box(14)], 0.6 + MAXIMUM_GAP_S + 0.01) == [2]

    def test_a_face_in_each_of_few_frames_keeps_its_number(self) -> None:
        tracker, apart_s = Tracker(), 30 / 25  # each 30th frame
        assert [tracker.update([box(10 + frame)], apart_s * frame) for frame in range(5)] == [[1]] * 5
        assert tracker.update([], apart_s * 5) == []
        assert tracker.update([box(14)], apart_s * 6) == [2]

    def test_a_fast_face_is_followed_by_its_centre(self) -> None:
        tracker = Tracker()
        assert [tracker.update([box(30.0 * frame)], frame / 5) for frame in range(4)] == [[1]] * 4

    def test_a_leap_across_the_picture_is_another_face(self) -> None:
        tracker = Tracker()
        assert tracker.update([box(0)], 0.0) == [1]
        assert tracker.update([box(300)], 0.04) == [2]

    def test_another_size_at_the_same_distance_is_another_face(self) -> None:
        tracker = Tracker()
        assert tracker.update([box(0)], 0.0) == [1]
        assert tracker.update([Box(0, 20, 200, 220)], 0.04) == [2]

    def test_the_better_match_wins(self) -> None:
        tracker = Tracker()
        assert tracker.update([box(0), box(30)], 0.0) == [1, 2]
        assert tracker.update([box(28)], 0.04) == [2]


def recognised(**values: float) -> Recognition:
    rest = (1 - sum(values.values())) / (7 - len(values))
    return Recognition.from_row([values.get(label, rest) for label in EMOTIONS], EMOTIONS, box=box(0))


class TestSmoother:
    def test_the_first_frame_is_its_own_average(self) -> None:
        face = recognised(happy=0.7)
        assert Smoother(0.4).update(1, face, 0.0).probabilities == pytest.approx(face.probabilities)

    def test_one_odd_frame_does_not_change_the_label(self) -> None:
        smoother = Smoother(0.4)
        labels = [
            smoother.update(1, recognised(sad=0.9) if frame == 20 else recognised(happy=0.8), frame / 25).label
            for frame in range(40)
        ]
        assert labels == ["happy"] * 40

    def test_a_change_that_stays_arrives(self) -> None:
        smoother = Smoother(0.4)
        labels = [
            smoother.update(1, recognised(happy=0.9) if frame < 25 else recognised(sad=0.9), frame / 25).label
            for frame in range(75)
        ]
        changed = labels.index("sad")
        assert labels == ["happy"] * changed + ["sad"] * (75 - changed)
        assert 0.1 < (changed - 25) / 25 < 0.5  # seconds late: about 0.69 of the time constant

    def test_the_frame_rate_does_not_matter(self) -> None:
        def after_a_second(rate: int) -> float:
            smoother = Smoother(0.4)
            smoother.update(1, recognised(happy=1.0), 0.0)
            for frame in range(1, rate + 1):
                last = smoother.update(1, recognised(happy=0.0), frame / rate)
            return last.probabilities["happy"]

        assert after_a_second(5) == pytest.approx(after_a_second(60), abs=1e-9)
        assert after_a_second(25) == pytest.approx(np.exp(-1 / 0.4), abs=1e-9)

    def test_tracks_do_not_mix_and_rows_sum_to_one(self) -> None:
        smoother = Smoother(0.4)
        smoother.update(1, recognised(happy=1.0), 0.0)
        other = smoother.update(2, recognised(sad=1.0), 0.0)
        assert other.probabilities["happy"] == 0
        assert sum(smoother.update(1, recognised(sad=0.6), 0.1).probabilities.values()) == pytest.approx(1)

    def test_nothing_is_smoothed_when_the_constant_is_zero(self) -> None:
        smoother = Smoother(0)
        smoother.update(1, recognised(happy=1.0), 0.0)
        assert smoother.update(1, recognised(sad=1.0), 0.04).label == "sad"
        with pytest.raises(ValueError, match="negative"):
            Smoother(-1)

    def test_the_box_is_the_frames_own(self) -> None:
        assert Smoother().update(1, recognised(happy=1.0), 0.0).box == box(0)
