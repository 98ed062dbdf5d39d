from __future__ import annotations

import numpy as np

from fer_deploy.detection import Box
from fer_deploy.reading.track import MAXIMUM_GAP_S, Tracker


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
