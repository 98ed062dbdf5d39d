"""The bounded queue, and the threads that empty it: many small requests become few calls of ONNX Runtime.

A free thread takes everything in the queue, up to one batch; it never waits for a batch to fill. While all threads are
busy the queue grows, and so do the batches: throughput rises with load, and a single request is not delayed.
Pillow and ONNX Runtime release Python's lock while they work, so the threads run in parallel.

The thread that computes a face also decodes it. The queue therefore holds encoded pictures, which are small, and the
memory for decoded ones depends on the number of threads, not on the number of requests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError, FerDeployError
from fer_deploy.pictures import Pixels
from fer_deploy.serve.decoding import decode_picture

_SMALL = 256 * 1024
"""Encoded bytes that end a batch: large pictures take long to decode, and other requests should not wait for them."""

_BATCH_PIXELS = 4_000_000
"""Decoded pixels that end a batch too (12 MB)."""


class OverloadedError(FerDeployError):
    """The queue is full; no face was queued."""


class TooLateError(FerDeployError):
    """The time limit passed before the result was ready."""


class Model(Protocol):
    """The part of `Recognizer` that the threads call."""

    def probabilities_of(self, faces: Sequence[Pixels]) -> NDArray[np.float32]:
        """float32 (n, classes) for uint8 pictures (height, width, 3) of any sizes."""


class Observer(Protocol):
    """Receives measurements. The threads call it, so it must be thread-safe."""

    def waited(self, seconds: float) -> None:
        """A face left the queue after so many seconds."""

    def computed(self, faces: int, decode_seconds: float, model_seconds: float) -> None:
        """A batch was decoded and computed, in so many seconds each."""


@dataclass(eq=False)
class _Job:
    content: bytes
    name: str
    deadline: float
    future: asyncio.Future[NDArray[np.float32]]
    queued: float = field(default_factory=time.monotonic)


class Batcher:
    """A bounded queue of encoded faces, emptied by threads.

    Args:
        model: computes the probabilities; the threads share it.
        threads: how many threads to start.
        maximum_queue: faces that may wait; see `submit`.
        maximum_batch: faces that a thread takes at a time.
        maximum_pixels: pixels that a picture may have; see `decode_picture`.
        observer: receives waiting times and batches.
    """

    def __init__(
        self,
        model: Model,
        *,
        threads: int,
        maximum_queue: int,
        maximum_batch: int,
        maximum_pixels: int,
        observer: Observer | None = None,
    ) -> None:
        self._model = model
        self._maximum_queue = maximum_queue
        self._maximum_batch = maximum_batch
        self._maximum_pixels = maximum_pixels
        self._observer = observer
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"ferdeploy-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Faces in the queue."""
        return len(self._queue)

    def has_room(self, faces: int = 1) -> bool:
        """Whether the queue has room for so many faces now."""
        return not self._closed and len(self._queue) + faces <= self._maximum_queue

    def submit(
        self, contents: Sequence[bytes], *, deadline: float, names: Sequence[str] | None = None
    ) -> list[asyncio.Future[NDArray[np.float32]]]:
        """Queue encoded faces, all or none. Call it in the event loop that awaits the results.

        Args:
            contents: each an encoded picture that is a face.
            deadline: on the clock of `time.monotonic`; a face that a thread takes later fails with `TooLateError`.
            names: what errors call each picture; None calls each "the picture".

        Returns:
            One future per face: float32 (classes,), or DataError for a picture that cannot be read, `TooLateError`, or
            the error of the model. Cancelling a future removes its face from the queue.

        Raises:
            OverloadedError: the queue has no room for all of them, or `close` was called.
        """
        loop = asyncio.get_running_loop()
        jobs = [
            _Job(content, name, deadline, loop.create_future())
            for content, name in zip(contents, names or ["the picture"] * len(contents), strict=True)
        ]
        with self._changed:
            if not self.has_room(len(jobs)):
                raise OverloadedError(
                    f"{len(self._queue)} of {self._maximum_queue} places in the queue are taken: try later"
                )
            self._queue.extend(jobs)
            self._changed.notify(len(jobs))
        for job in jobs:
            job.future.add_done_callback(self._forget_if_cancelled(job))
        return [job.future for job in jobs]

    def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Accept no more faces, finish those in the queue, and join the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _forget_if_cancelled(self, job: _Job) -> Callable[[asyncio.Future[NDArray[np.float32]]], None]:
        def forget(future: asyncio.Future[NDArray[np.float32]]) -> None:
            if not future.cancelled():
                return
            with self._changed, suppress(ValueError):  # a thread may have taken it already
                self._queue.remove(job)

        return forget

    def _take(self) -> list[_Job]:
        """The next batch, of at least one face; an empty list once the queue is closed and empty."""
        with self._changed:
            while True:
                jobs: list[_Job] = []
                size = 0
                while self._queue and len(jobs) < self._maximum_batch and size <= _SMALL:
                    if jobs and size + len(self._queue[0].content) > _SMALL:
                        break
                    jobs.append(self._queue.popleft())
                    size += len(jobs[-1].content)
                if jobs or self._closed:
                    return jobs
                self._changed.wait()

    def _work(self) -> None:
        while jobs := self._take():
            try:
                self._run(jobs)
            except BaseException as error:  # the requests must get any error, and the thread must survive it
                _answer([(job, error) for job in jobs])

    def _run(self, jobs: list[_Job]) -> None:
        started = time.monotonic()
        answers: list[tuple[_Job, NDArray[np.float32] | BaseException]] = []
        batch: list[_Job] = []
        pictures: list[Pixels] = []
        pixels = 0
        for job in jobs:
            if self._observer is not None:
                self._observer.waited(started - job.queued)
            if time.monotonic() > job.deadline:
                answers.append((job, TooLateError("the time limit passed while the request waited: try later")))
                continue
            try:
                picture = decode_picture(job.content, name=job.name, maximum_pixels=self._maximum_pixels)
            except DataError as error:
                answers.append((job, error))
                continue
            if pictures and pixels + picture.size // 3 > _BATCH_PIXELS:
                _answer(
                    [*answers, *self._compute(batch, pictures, started)]
                )  # these faces need not wait for the others
                answers = []
                batch, pictures, pixels, started = [], [], 0, time.monotonic()
            batch.append(job)
            pictures.append(picture)
            pixels += picture.size // 3
        if pictures:
            answers += self._compute(batch, pictures, started)
        _answer(answers)

    def _compute(
        self, batch: list[_Job], pictures: list[Pixels], started: float
    ) -> list[tuple[_Job, NDArray[np.float32] | BaseException]]:
        decoded = time.monotonic()
        try:
            rows = self._model.probabilities_of(pictures)
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            # One picture may be the cause (a size that a model of fixed size rejects): retry each on its own.
            alone = [self._compute([job], [picture], decoded) for job, picture in zip(batch, pictures, strict=True)]
            return [answer for answers in alone for answer in answers]
        if self._observer is not None:
            self._observer.computed(len(batch), decoded - started, time.monotonic() - decoded)
        return list(zip(batch, rows, strict=True))


def _answer(answers: Sequence[tuple[_Job, NDArray[np.float32] | BaseException]]) -> None:
    """Hand results to the event loop, in one call per batch."""
    if not answers:
        return

    def deliver() -> None:
        for job, answer in answers:
            if job.future.done():
                continue
            if isinstance(answer, BaseException):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)

    try:
        answers[0][0].future.get_loop().call_soon_threadsafe(deliver)
    except RuntimeError:  # the loop is closed: the service has stopped and no request waits
        return
