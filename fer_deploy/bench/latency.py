"""How long an answer takes: single calls and whole batches, with a check of the clock.

The rules, each held by a test:

* time is `perf_counter_ns`, from faces in host memory to probabilities in host memory, including the wait for the
  device;
* warm-up calls are discarded, every other sample is kept, none is clipped;
* engines and models take turns in blocks, in a new random order each round, so that a machine that slows down or speeds
  up during the run affects all of them;
* the 99th percentile is given only from 1,000 samples on;
* single times must add up to the wall time of the same calls: an engine that returns before its device is done is
  refused (`check_clock`), not reported as fast;
* a run whose rounds differ too much, or that shared its processor, is marked as busy.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import MeasurementError

SAMPLES_FOR_P99 = 1000
"""With fewer samples, fewer than ten lie above the 99th percentile: too few to report it."""

BUSY_SPREAD = 0.15
"""Interquartile range of the rounds' medians over their median, above which the machine counts as busy."""

BUSY_PROCESSOR_SHARE = 0.9
"""Processor time over wall time of a single-threaded stream, below which the machine counts as busy."""

UNEXPLAINED_TIME = 0.2
"""The largest share of a block's wall time that its samples may fail to explain; above it the engine is refused."""


class Session(Protocol):
    """A model opened on one engine, in this process.

    A whole call is `download(compute(upload(faces)))`. Engines in the host's memory pass the faces through.
    """

    fixed_batch: int | None
    """The only batch size that the model accepts; None for any."""

    def upload(self, faces: NDArray[np.uint8]) -> Any:
        """Copy faces, uint8 (n, 48, 48, 3), to the engine's memory; may return before the copy is done."""

    def compute(self, uploaded: Any) -> Any:
        """Classify uploaded faces; may return before the device is done."""

    def synchronise(self) -> None:
        """Wait until the device has done all its work."""

    def download(self, answer: Any) -> NDArray[np.float32]:
        """Wait for the answer and return it as probabilities, float32 (n, classes), in host memory."""


@dataclass(frozen=True)
class Clock:
    """Two clocks in nanoseconds: wall time and this process's processor time. Tests replace them."""

    wall: Callable[[], int] = time.perf_counter_ns
    processor: Callable[[], int] = time.process_time_ns


@dataclass(frozen=True)
class Block:
    """Calls measured in one go.

    Attributes:
        samples: one wall time per call, ns, in order.
        wall: ns from before the first call to after the last.
        processor: processor time of this process over the same span, ns; None where another process computes.
    """

    samples: tuple[int, ...]
    wall: int
    processor: int | None


class Stream(Protocol):
    """Calls that can be timed: of a session in this process, or of a peer in another."""

    def time_calls(self, *, calls: int, warm_up: int) -> Block:
        """Make `warm_up` calls without timing them, then time `calls`, of one face each (or the fixed batch)."""

    def time_batches(self, *, batch: int, calls: int) -> int:
        """Wall time, ns, of `calls` batches from first upload to last answer in host memory."""

    fixed_batch: int | None


@dataclass(frozen=True)
class Parts:
    """The parts of a call on an engine with its own memory; medians in milliseconds."""

    upload_ms: float
    compute_ms: float
    download_ms: float


@dataclass(frozen=True)
class Latency:
    """Single-call latency of one stream.

    Attributes:
        batch: faces per call.
        threads: threads of the engine.
        p50, p90, p99: milliseconds, each one of the samples; p99 is None below SAMPLES_FOR_P99.
        n: number of samples.
        mean: milliseconds.
        spread: interquartile range of the rounds' medians over their median.
        processor_share: processor time over wall time; None where it is unknown.
        busy: whether the spread or the processor share shows that other programs were running.
        parts: where the time goes; None for engines in the host's memory.
        rounds: number of rounds, each with the same number of samples.
        samples_ns: every sample, in the order of measurement.
    """

    batch: int
    threads: int
    p50: float
    p90: float
    p99: float | None
    n: int
    mean: float
    spread: float
    processor_share: float | None
    busy: bool
    parts: Parts | None
    rounds: int
    samples_ns: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class BatchRate:
    """Faces per second at one batch size: the median over rounds."""

    batch: int
    images_per_s: float


@dataclass(frozen=True)
class Throughput:
    """Offline throughput: the batch size with the highest rate, and the rates of all."""

    batch: int
    images_per_s: float
    tried: tuple[BatchRate, ...]


@dataclass(frozen=True)
class LatencyPlan:
    """How much to measure.

    Attributes:
        samples: most samples per stream.
        seconds: most time per stream; slower streams get fewer samples, but at least `least`.
        rounds: turns of each stream; its samples are spread evenly over them.
        warm_up: calls discarded at first; two more precede every block.
        least: fewest samples per stream.
        batches: batch sizes to try for throughput; without any, throughput is not measured.
        batch_seconds: most time per batch size.
        seed: seed of the order of turns.
    """

    samples: int = SAMPLES_FOR_P99
    seconds: float = 6.0
    rounds: int = 20
    warm_up: int = 10
    least: int = 40
    batches: tuple[int, ...] = (1, 8, 32, 128)
    batch_seconds: float = 0.6
    seed: int = 0


QUICK = LatencyPlan(samples=40, seconds=0.4, rounds=4, warm_up=3, least=8, batches=(32,), batch_seconds=0.1)
"""Takes seconds for everything: shows that it works, gives no p99."""


class SessionStream:
    """A session in this process as a stream."""

    def __init__(self, session: Session, faces: NDArray[np.uint8], *, clock: Clock | None = None) -> None:
        """Time `session` on `faces`, uint8 (n, 48, 48, 3), in turn, so that successive calls get different faces."""
        self._session = session
        self._faces = faces
        self._clock = clock or Clock()
        self._next = 0
        self.fixed_batch = session.fixed_batch

    def time_calls(self, *, calls: int, warm_up: int) -> Block:
        """Time whole calls: faces in host memory to probabilities in host memory."""
        session, wall = self._session, self._clock.wall
        batch = self.fixed_batch or 1
        for _ in range(warm_up):
            session.download(session.compute(session.upload(self._take(batch))))
        session.synchronise()
        inputs = [self._take(batch) for _ in range(calls)]
        samples = []
        processor = self._clock.processor()
        start = wall()
        for faces in inputs:
            before = wall()
            session.download(session.compute(session.upload(faces)))
            session.synchronise()
            samples.append(wall() - before)
        end = wall()
        return Block(tuple(samples), end - start, self._clock.processor() - processor)

    def time_batches(self, *, batch: int, calls: int) -> int:
        """Time batches that may overlap on the device, until all answers are in host memory."""
        session = self._session
        inputs = [self._take(batch) for _ in range(calls)]
        start = self._clock.wall()
        answers = [session.compute(session.upload(faces)) for faces in inputs]
        for answer in answers:
            session.download(answer)
        session.synchronise()
        return self._clock.wall() - start

    def check_clock(self, *, calls: int = 8) -> Parts:
        """Time the parts of a call, and compare their sum with the wall clock.

        `calls` computations are timed one by one, with a synchronisation after each; then the last answer is
        downloaded. If the engine really synchronises, the samples explain the wall time. If it does not, the samples
        are too short and the wait shows up in the download.

        Raises:
            MeasurementError: the samples fail to explain more than UNEXPLAINED_TIME of the wall time, twice in a row.
        """
        parts, unexplained = self._parts(calls)
        if unexplained > UNEXPLAINED_TIME:  # another program may have caused the first one
            parts, unexplained = self._parts(calls)
        if unexplained > UNEXPLAINED_TIME:
            raise MeasurementError(
                f"single times do not explain {unexplained:.0%} of the wall time: "
                "the engine returns before its device is done, and its synchronise does not wait"
            )
        return parts

    def _parts(self, calls: int) -> tuple[Parts, float]:
        session, wall = self._session, self._clock.wall
        uploads: list[int] = []
        computes: list[int] = []
        downloads: list[int] = []
        batch = self.fixed_batch or 1
        session.download(session.compute(session.upload(self._take(batch))))
        for _ in range(calls):
            faces = self._take(batch)
            marks = [wall()]
            uploaded = session.upload(faces)
            session.synchronise()
            marks.append(wall())
            answer = session.compute(uploaded)
            session.synchronise()
            marks.append(wall())
            session.download(answer)
            marks.append(wall())
            for times, index in ((uploads, 0), (computes, 1), (downloads, 2)):
                times.append(marks[index + 1] - marks[index])
        uploaded = session.upload(self._take(batch))
        session.synchronise()
        explained = 0
        start = wall()
        for _ in range(calls):
            before = wall()
            answer = session.compute(uploaded)
            session.synchronise()
            explained += wall() - before
        session.download(answer)
        drained = wall()
        session.download(answer)  # the device is idle now: this is the time of the download alone
        explained += wall() - drained
        total = drained - start
        milliseconds = [statistics.median(times) / 1e6 for times in (uploads, computes, downloads)]
        return Parts(*milliseconds), max(0.0, 1 - explained / total) if total else 0.0

    def _take(self, batch: int) -> NDArray[np.uint8]:
        rows = (np.arange(batch) + self._next) % len(self._faces)
        self._next = (self._next + batch) % len(self._faces)
        return np.ascontiguousarray(self._faces[rows])


@dataclass
class _Turn:
    """One stream and what has been measured of it."""

    stream: Stream
    calls: int
    blocks: list[Block] = field(default_factory=list)
    failure: Exception | None = None


def measure_latency(
    streams: Sequence[Stream],
    *,
    threads: int,
    plan: LatencyPlan,
    parts: Sequence[Parts | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Latency | Exception]:
    """Time every stream, in blocks that take turns in random order.

    Args:
        streams: what to time.
        threads: threads of the engines, for the record; they are not set here.
        plan: how much to measure.
        parts: one entry per stream, for its result.
        progress: called with (blocks done, blocks in total).

    Returns:
        One result per stream, in their order; an exception for a stream that failed, which does not stop the others.
    """
    turns = []
    for stream in streams:
        turn = _Turn(stream, calls=0)
        try:
            turn.calls = _calls_a_round(stream, plan)
        except Exception as error:
            turn.failure = error
        turns.append(turn)
    order = random.Random(plan.seed)
    done = 0
    for _ in range(plan.rounds):
        for turn in order.sample(turns, len(turns)):
            if turn.failure is None:
                try:
                    turn.blocks.append(turn.stream.time_calls(calls=turn.calls, warm_up=2))
                except Exception as error:
                    turn.failure = error
            done += 1
            if progress:
                progress(done, plan.rounds * len(turns))
    carried = parts or [None] * len(turns)
    return [
        turn.failure or summarise(turn.blocks, batch=turn.stream.fixed_batch or 1, threads=threads, parts=part)
        for turn, part in zip(turns, carried, strict=True)
    ]


def _calls_a_round(stream: Stream, plan: LatencyPlan) -> int:
    """Warm a stream up, and return the number of its calls per round."""
    block = stream.time_calls(calls=3, warm_up=max(0, plan.warm_up - 3))
    one = max(1, statistics.median(block.samples))
    affordable = int(plan.seconds * 1e9 / one)
    samples = min(plan.samples, max(plan.least, affordable))
    return math.ceil(samples / plan.rounds)


def summarise(blocks: Sequence[Block], *, batch: int, threads: int, parts: Parts | None = None) -> Latency:
    """Combine a stream's blocks, one per round, into one result."""
    samples = tuple(sample for block in blocks for sample in block.samples)
    spread = round_spread([statistics.median(block.samples) for block in blocks])
    wall = sum(block.wall for block in blocks)
    processor = [block.processor for block in blocks if block.processor is not None]
    share = sum(processor) / wall if len(processor) == len(blocks) and wall else None
    starved = threads == 1 and parts is None and share is not None and share < BUSY_PROCESSOR_SHARE
    return Latency(
        batch=batch,
        threads=threads,
        p50=percentile_ms(samples, 50),
        p90=percentile_ms(samples, 90),
        p99=percentile_ms(samples, 99) if len(samples) >= SAMPLES_FOR_P99 else None,
        n=len(samples),
        mean=statistics.fmean(samples) / 1e6,
        spread=spread,
        processor_share=share,
        busy=spread > BUSY_SPREAD or starved,
        parts=parts,
        rounds=len(blocks),
        samples_ns=samples,
    )


def percentile_ms(samples_ns: Sequence[int], percent: float) -> float:
    """A percentile in milliseconds: the smallest sample that `percent` of the samples do not exceed."""
    return float(np.percentile(np.asarray(samples_ns), percent, method="inverted_cdf")) / 1e6


def round_spread(medians: Sequence[float]) -> float:
    """Interquartile range over median of the rounds' medians; 0.0 for a single round."""
    low, middle, high = np.percentile(np.asarray(medians, dtype=np.float64), [25, 50, 75])
    return float((high - low) / middle) if middle else 0.0


def measure_throughput(
    streams: Sequence[Stream],
    *,
    plan: LatencyPlan,
    progress: Callable[[int, int], None] | None = None,
) -> list[Throughput | Exception | None]:
    """Try each batch size on each stream, in random order, and keep each stream's best.

    A batch size's rate is the median of three rounds. None where no batch size of the plan fits.
    """
    rounds = 3
    tasks: list[tuple[int, int, int]] = []
    failures: dict[int, Exception] = {}
    for index, stream in enumerate(streams):
        sizes = plan.batches if stream.fixed_batch is None else (stream.fixed_batch,) if plan.batches else ()
        for batch in sizes:
            try:
                stream.time_batches(batch=batch, calls=1)  # warm-up: the engine compiles shapes and allocates memory
                one = max(1, stream.time_batches(batch=batch, calls=1))
            except Exception as error:
                failures[index] = error
                break
            tasks.append((index, batch, max(1, int(plan.batch_seconds * 1e9 / rounds / one))))
    rates: dict[tuple[int, int], list[float]] = {}
    order = random.Random(plan.seed + 1)
    done = 0
    for _ in range(rounds):
        for index, batch, calls in order.sample(tasks, len(tasks)):
            done += 1
            if progress:
                progress(done, rounds * len(tasks))
            if index in failures:
                continue
            try:
                wall = streams[index].time_batches(batch=batch, calls=calls)
            except Exception as error:
                failures[index] = error
                continue
            rates.setdefault((index, batch), []).append(batch * calls / (wall / 1e9))
    results: list[Throughput | Exception | None] = []
    for index in range(len(streams)):
        if index in failures:
            results.append(failures[index])
            continue
        tried = tuple(
            BatchRate(batch, statistics.median(values)) for (at, batch), values in sorted(rates.items()) if at == index
        )
        best = max(tried, key=lambda rate: rate.images_per_s, default=None)
        results.append(Throughput(best.batch, best.images_per_s, tried) if best else None)
    return results
