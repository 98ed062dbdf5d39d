"""Latency statistics, checked with engines of known delays on a clock that only they advance."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from fer_deploy.bench.latency import (
    BUSY_SPREAD,
    QUICK,
    Block,
    Clock,
    LatencyPlan,
    SessionStream,
    measure_latency,
    measure_throughput,
    percentile_ms,
    summarise,
)
from fer_deploy.errors import MeasurementError

FACES = np.zeros((5, 48, 48, 3), dtype=np.uint8)
MS = 1_000_000
PLAN = LatencyPlan(samples=40, seconds=100, rounds=4, warm_up=5, least=8, batches=(1, 4, 16), seed=3)


@dataclass
class FakeTime:
    """A clock that advances only while an engine works. `drift` stretches all work from a given time on."""

    now: int = 0
    processor: int = 0
    drift_from: int | None = None
    drift: float = 1.0

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.now, processor=lambda: self.processor)

    def work(self, nanoseconds: int, *, on_processor: bool = True) -> None:
        slow = self.drift if self.drift_from is not None and self.now >= self.drift_from else 1.0
        self.now += int(nanoseconds * slow)
        if on_processor:
            self.processor += int(nanoseconds * slow)


@dataclass
class FakeEngine:
    """An engine whose calls take known times. Asynchronous: `compute` queues, and the device is behind by `ahead`."""

    time: FakeTime
    delays: list[int]
    upload_ns: int = 0
    download_ns: int = 0
    asynchronous: bool = False
    synchronises: bool = True
    fixed_batch: int | None = None
    per_face: int = 0
    calls: int = 0
    queued: deque[int] = field(default_factory=deque)

    def upload(self, faces):
        self.time.work(self.upload_ns)
        return faces

    def compute(self, uploaded):
        delay = self.delays[self.calls % len(self.delays)] + self.per_face * len(uploaded)
        self.calls += 1
        if self.asynchronous:
            self.queued.append(delay)
        else:
            self.time.work(delay)
        return len(uploaded)

    def _drain(self):
        while self.queued:
            self.time.work(self.queued.popleft())

    def synchronise(self):
        if self.synchronises:
            self._drain()

    def download(self, answer):
        self._drain()
        self.time.work(self.download_ns)
        return np.full((answer, 7), 1 / 7, dtype=np.float32)


def stream(engine: FakeEngine) -> SessionStream:
    return SessionStream(engine, FACES, clock=engine.time.clock)


def test_every_sample_is_kept_and_percentiles_are_samples() -> None:
    # nine calls of 1 ms and one of 100 ms, over and over: no clipping may hide the tenth
    engine = FakeEngine(FakeTime(), [MS] * 9 + [100 * MS])
    (latency,) = measure_latency([stream(engine)], threads=1, plan=PLAN)
    assert latency.n == len(latency.samples_ns) == 40
    assert set(latency.samples_ns) == {MS, 100 * MS}
    assert latency.p50 == 1.0
    assert max(latency.samples_ns) == 100 * MS
    assert latency.mean == pytest.approx(sum(latency.samples_ns) / 40 / MS)


@pytest.mark.parametrize(("percent", "expected"), [(50, 5.0), (90, 9.0), (99, 10.0), (100, 10.0)])
def test_percentiles_by_hand(percent: float, expected: float) -> None:
    assert percentile_ms([index * MS for index in range(1, 11)], percent) == expected


@pytest.mark.parametrize(("samples", "stated"), [(999, False), (1000, True)])
def test_p99_needs_a_thousand_samples(samples: int, stated: bool) -> None:
    latency = summarise([Block((MS,) * samples, MS * samples, None)], batch=1, threads=1)
    assert (latency.p99 is not None) == stated


def test_warm_up_is_discarded() -> None:
    engine = FakeEngine(FakeTime(), [50 * MS] * 2 + [MS] * 10_000)  # the first two calls are slow
    (latency,) = measure_latency([stream(engine)], threads=1, plan=replace(PLAN, warm_up=5))
    assert max(latency.samples_ns) == MS


def test_each_turn_warms_up_and_successive_calls_get_different_faces() -> None:
    """An engine that others had their turn after is slow for two calls."""
    time = FakeTime()
    seen: list[int] = []

    @dataclass
    class Forgetful(FakeEngine):
        other: Forgetful | None = None
        since: int = 0

        def upload(self, faces):
            seen.append(int(faces[0, 0, 0, 0]))
            return faces

        def compute(self, uploaded):
            if self.other is not None:
                self.other.since = 0
            self.since += 1
            self.time.work(50 * MS if self.since <= 2 else MS)
            return len(uploaded)

    one, two = Forgetful(time, [MS]), Forgetful(time, [MS])
    one.other, two.other = two, one
    faces = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 48, 48, 3), np.uint8)
    streams = [SessionStream(engine, faces, clock=time.clock) for engine in (one, two)]
    for latency in measure_latency(streams, threads=1, plan=PLAN):
        assert max(latency.samples_ns) == MS
    seen.clear()
    streams[0].time_calls(calls=20, warm_up=2)
    assert all(first != second for first, second in itertools.pairwise(seen))


def test_slow_streams_get_fewer_samples_but_never_too_few() -> None:
    plan = LatencyPlan(samples=1000, seconds=1.0, rounds=5, least=20)
    fast, middling, slow = (stream(FakeEngine(FakeTime(), [ms * MS])) for ms in (0.1, 10, 1000))
    counts = [latency.n for latency in measure_latency([fast, middling, slow], threads=1, plan=plan)]
    assert counts == [1000, 100, 20]


def test_streams_take_turns_in_another_order_each_round() -> None:
    log: list[str] = []

    @dataclass
    class Logged:
        name: str
        fixed_batch = None

        def time_calls(self, *, calls, warm_up):
            log.append(self.name)
            return Block((MS,) * calls, MS * calls, None)

        def time_batches(self, *, batch, calls):
            return MS

    names = ["a", "b", "c", "d"]
    measure_latency([Logged(name) for name in names], threads=1, plan=replace(PLAN, rounds=12))
    rounds = [log[start : start + 4] for start in range(4, len(log), 4)]  # the first four are the warm-up
    assert all(sorted(turn) == names for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 4


def test_a_machine_that_slows_down_affects_all_streams() -> None:
    """Two equal engines on one clock that runs at half speed from the middle on: measured in turns, they stay equal."""
    time = FakeTime(drift_from=200 * MS, drift=2.0)
    plan = LatencyPlan(samples=200, seconds=100, rounds=20, warm_up=3, seed=1)
    first, second = measure_latency(
        [stream(FakeEngine(time, [MS])), stream(FakeEngine(time, [MS]))], threads=1, plan=plan
    )
    assert first.mean == pytest.approx(second.mean, rel=0.05)
    assert first.busy
    assert second.busy


def test_a_steady_machine_is_not_busy() -> None:
    (latency,) = measure_latency([stream(FakeEngine(FakeTime(), [MS, 2 * MS]))], threads=1, plan=PLAN)
    assert latency.spread < BUSY_SPREAD
    assert not latency.busy


def test_a_shared_processor_is_busy() -> None:
    half = Block((2 * MS,) * 10, 20 * MS, processor=10 * MS)
    assert summarise([half] * 4, batch=1, threads=1).busy
    assert not summarise([replace(half, processor=20 * MS)] * 4, batch=1, threads=1).busy
    # with more threads, or another process's clock, the share has no meaning
    assert not summarise([half] * 4, batch=1, threads=2).busy
    assert not summarise([replace(half, processor=None)] * 4, batch=1, threads=1).busy


def test_a_device_is_waited_for() -> None:
    engine = FakeEngine(FakeTime(), [3 * MS], upload_ns=MS // 2, download_ns=MS // 4, asynchronous=True)
    one = stream(engine)
    parts = one.check_clock()
    assert (parts.upload_ms, parts.compute_ms, parts.download_ms) == (0.5, 3.0, 0.25)
    (latency,) = measure_latency([one], threads=1, plan=PLAN, parts=[parts])
    assert latency.p50 == 3.75
    assert latency.parts == parts


def test_a_missing_synchronise_is_caught() -> None:
    engine = FakeEngine(FakeTime(), [3 * MS], asynchronous=True, synchronises=False)
    with pytest.raises(MeasurementError, match=r"do not explain 100% of the wall time"):
        stream(engine).check_clock()


def test_a_call_is_long_even_if_synchronise_is_missing() -> None:
    """Whole calls end with the answer in host memory, so that they cannot be short by forgetting to wait."""
    engine = FakeEngine(FakeTime(), [3 * MS], asynchronous=True, synchronises=False)
    (latency,) = measure_latency([stream(engine)], threads=1, plan=PLAN)
    assert latency.p50 == 3.0


def test_throughput_is_the_best_batch() -> None:
    # 10 ms a call and .1 ms a face: the larger the better; and 1 image/s times are exact on this clock
    engine = FakeEngine(FakeTime(), [10 * MS], per_face=MS // 10)
    (result,) = measure_throughput([stream(engine)], plan=PLAN)
    assert result.batch == 16
    assert [rate.batch for rate in result.tried] == [1, 4, 16]
    assert result.images_per_s == pytest.approx(16 / 0.0116)


def test_overlap_counts_in_throughput() -> None:
    engine = FakeEngine(FakeTime(), [2 * MS], asynchronous=True)
    (result,) = measure_throughput([stream(engine)], plan=replace(PLAN, batches=(4,)))
    assert result.images_per_s == pytest.approx(4 / 0.002)


def test_a_model_of_one_batch_size_is_measured_at_it() -> None:
    engine = FakeEngine(FakeTime(), [MS], fixed_batch=2)
    one = stream(engine)
    (latency,) = measure_latency([one], threads=1, plan=PLAN)
    (throughput,) = measure_throughput([one], plan=PLAN)
    assert latency.batch == throughput.batch == 2
    assert [rate.batch for rate in throughput.tried] == [2]


def test_a_stream_that_fails_leaves_the_others() -> None:
    class Broken(FakeEngine):
        def compute(self, uploaded):
            if self.calls > 12:
                raise RuntimeError("device lost")
            return super().compute(uploaded)

    good, bad = FakeEngine(FakeTime(), [MS]), Broken(FakeTime(), [MS])
    results = measure_latency([stream(bad), stream(good)], threads=1, plan=PLAN)
    assert isinstance(results[0], RuntimeError)
    assert results[1].p50 == 1.0
    rates = measure_throughput([stream(bad), stream(good)], plan=PLAN)
    assert isinstance(rates[0], RuntimeError)
    assert rates[1].images_per_s > 0


def test_a_quick_plan_still_measures() -> None:
    (latency,) = measure_latency([stream(FakeEngine(FakeTime(), [MS]))], threads=1, plan=QUICK)
    assert latency.n == QUICK.samples
    assert latency.p99 is None
    (none,) = measure_throughput([stream(FakeEngine(FakeTime(), [MS]))], plan=replace(QUICK, batches=()))
    assert none is None
