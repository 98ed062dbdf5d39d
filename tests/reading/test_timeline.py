from __future__ import annotations

import pytest

from fer_deploy.reading.timeline import StreamFacts, Timeline

MILLISECONDS = StreamFacts(tick_s=0.001, frame_s=0.04)


def feed(timeline: Timeline, times: list[int], *, broken: tuple[int, ...] = ()) -> list[tuple[int, float]]:
    """Send packets of these times through a decoder that returns each frame at once, but for the broken ones."""
    places = []
    for number, pts in enumerate(times):
        timeline.packet(pts, pts, is_keyframe=number == 0)
        if pts in broken:
            timeline.failed()
            continue
        place = timeline.frame(pts, pts)
        assert place is not None
        places.append(place)
    timeline.finish()
    return places


def test_frames_are_numbered_and_timed_from_the_first() -> None:
    timeline = Timeline(MILLISECONDS)
    assert feed(timeline, [5000, 5040, 5120]) == [(0, 0.0), (1, pytest.approx(0.04)), (2, pytest.approx(0.12))]
    assert (timeline.loss(), timeline.notes()) == (None, [])


def test_a_pause_is_no_loss_unless_there_are_signs_of_damage() -> None:
    regular = [40 * number for number in range(10)]
    pause = [*regular, 1000, 1040]
    assert [number for number, _ in feed(Timeline(MILLISECONDS), pause)] == list(range(12))
    damaged = Timeline(MILLISECONDS)
    for pts in regular:
        damaged.packet(pts)
        damaged.frame(pts, pts)
    damaged.packet(1000, is_damaged=True)
    assert damaged.frame(1000, 1000) == (25, pytest.approx(1.0))
    assert damaged.lost == 15
    steady = Timeline(StreamFacts(tick_s=0.001, frame_s=0.04, steady=True))
    assert feed(steady, pause)[-1] == (26, pytest.approx(1.04))


def test_broken_frames_are_counted_and_numbers_keep_step_with_time() -> None:
    timeline = Timeline(MILLISECONDS)
    places = feed(timeline, [40 * number for number in range(20)], broken=(200, 240, 280))
    assert [number for number, _ in places] == [0, 1, 2, 3, 4, *range(8, 20)]
    assert timeline.loss() == "3 of 20 frames cannot be decoded, at 0.20 to 0.28 s"


def test_many_places_of_damage_are_summed_up() -> None:
    timeline = Timeline(MILLISECONDS)
    feed(timeline, [40 * number for number in range(30)], broken=(200, 400, 600, 800, 1000))
    assert timeline.loss() == (
        "5 of 30 frames cannot be decoded, at 0.20 to 0.20 s, 0.40 to 0.40 s, 0.60 to 0.60 s and 2 more places"
    )


def test_the_end_that_a_container_states_is_compared_with_the_end_of_its_frames() -> None:
    counted = Timeline(StreamFacts(tick_s=0.001, frame_s=0.04, frames=100))
    feed(counted, [40 * number for number in range(60)])
    assert counted.loss() == "ends after 60 of 100 frames, at 2.36 s"
    timed = Timeline(StreamFacts(tick_s=0.001, frame_s=0.04, end_s=4.0))
    feed(timed, [40 * number for number in range(60)])
    assert timed.loss() == "ends at 2.40 of 4.00 s, after 60 frames"


def test_sound_that_plays_on_after_the_pictures_is_no_cut() -> None:
    timeline = Timeline(StreamFacts(tick_s=0.001, frame_s=0.04, end_s=4.0))
    timeline.other_packet(3.98)
    feed(timeline, [0, 40, 80])
    assert timeline.loss() is None


def test_joined_clocks_continue_after_the_last_frame() -> None:
    mpeg = StreamFacts(tick_s=0.001, frame_s=0.04, restarts=True)
    for second in ([0, 40, 80], [90_000, 90_040, 90_080]):
        timeline = Timeline(mpeg)
        places = feed(timeline, [9000, 9040, 9080, *second])
        assert [time for _, time in places] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.20])
        assert timeline.jumps == 1
        assert "its clock jumps once" in timeline.notes()[0]


def test_a_long_pause_on_a_clock_that_cannot_restart_is_kept() -> None:
    assert feed(Timeline(MILLISECONDS), [0, 40, 90_000])[-1] == (2, 90.0)


def test_a_damaged_time_does_not_stretch_the_video() -> None:
    stated = StreamFacts(tick_s=0.001, frame_s=0.04, end_s=1.0)
    times = [0, 40, 80, 4_000_000_000, 160, 200]
    for facts in (stated, MILLISECONDS):
        timeline = Timeline(facts)
        assert [time for _, time in feed(timeline, times)] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.20])
        assert timeline.jumps == 2
    timeline = Timeline(MILLISECONDS)
    timeline.packet(0, 0)
    timeline.frame(0, 0)
    timeline.packet(4_000_000_000, 40)
    assert timeline.frame(4_000_000_000, 40) == (1, pytest.approx(0.04))


def test_packets_before_the_first_keyframe_are_no_loss() -> None:
    timeline = Timeline(MILLISECONDS)
    for pts in (0, 40, 80):
        timeline.packet(pts)
        timeline.failed()
    timeline.packet(120, is_keyframe=True)
    assert timeline.frame(120, 120) == (0, 0.0)
    timeline.finish()
    assert timeline.loss() is None
    assert "3 frames before the first keyframe" in timeline.notes()[0]


def test_a_broken_first_keyframe_is_a_loss() -> None:
    timeline = Timeline(MILLISECONDS)
    places = feed(timeline, [0, 40, 80, 120], broken=(0, 40))
    assert places[0] == (2, pytest.approx(0.08))
    assert timeline.lost == 2


def test_frames_that_come_out_after_later_ones_are_dropped() -> None:
    timeline = Timeline(MILLISECONDS)
    for dts, pts in enumerate((0, 160, 80, 40, 120)):
        timeline.packet(pts, 40 * dts)
    timeline.failed()
    assert timeline.frame(0, 0) is not None
    assert timeline.frame(160, 160) == (4, pytest.approx(0.16))
    assert timeline.frame(80, 160) is None
    assert timeline.lost == 3


def test_second_fields_are_no_frames() -> None:
    timeline = Timeline(StreamFacts(tick_s=0.001, frame_s=0.04, fields=True))
    timeline.failed()
    for number in range(5):
        timeline.packet(40 * number)
        timeline.packet(40 * number + 20)
        assert timeline.frame(40 * number, None) == (number, pytest.approx(0.04 * number))
    assert timeline.lost == 0


def test_containers_without_times_count_the_errors_between_two_frames() -> None:
    timeline = Timeline(StreamFacts(tick_s=0.04, frame_s=0.04, frames=6, has_times=False))
    for number in range(5):
        timeline.packet(None)
        if number in (1, 2):
            timeline.failed()
        else:
            timeline.frame(None, number)
    timeline.finish()
    assert timeline.loss() == "1 of 6 frames are missing; 2 of 6 frames cannot be decoded, at 0.04 to 0.08 s"


def test_a_container_without_presentation_times_goes_by_the_order_of_decoding() -> None:
    timeline = Timeline(StreamFacts(tick_s=0.04, frame_s=0.04, has_times=False))
    places = [timeline.frame(pts, dts) for pts, dts in ((0, 0), (3, 1), (1, 2), (2, 3))]
    assert [place[1] for place in places if place is not None] == pytest.approx([0, 0.04, 0.08, 0.12])


def test_a_stream_without_a_clock_is_timed_by_its_rate() -> None:
    timeline = Timeline(MILLISECONDS)
    places = [timeline.frame(None, None) for _ in range(3)]
    assert [place[1] for place in places if place is not None] == pytest.approx([0, 0.04, 0.08])
