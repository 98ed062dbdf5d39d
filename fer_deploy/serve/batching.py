"""The bounded queue, and the threads that empty it: many small requests become few calls of ONNX Runtime.

A free thread takes everything in the queue, up to one batch; it never waits for a batch to fill. While all threads are
busy the queue grows, and so do the batches: throughput rises with load, and a single request is not delayed.
Pillow and ONNX Runtime release Python's lock while they work, so the threads run in parallel.

The thread that computes a face also decodes it. The queue therefore holds encoded pictures, which are small. Large
pictures take turns: a picture costs far more memory while the model resizes it than its own bytes, and threads that
read large pictures at the same time would multiply that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError, FerDeployError
from fer_deploy.pictures import Pixels, stated_pixels
from fer_deploy.serve.decoding import decode_picture

_SMALL = 256 * 1024
"""Encoded bytes that end a batch: large pictures take long to decode, and other requests should not wait for them."""

BATCH_PIXELS = 4_000_000
"""Decoded pixels that end a batch too (12 MB). A picture with more is a batch of its own, and counts as large."""


class OverloadedError(FerDeployError):
    """The queue is full; no face was queued."""


class TooLateError(FerDeployError):
    """The time limit passed before the result was ready."""


class FaceModel(Protocol):
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


_Answer = tuple[_Job, NDArray[np.float32] | BaseException]


@dataclass(eq=False)
class _Batch:
    """Decoded faces that are computed together, and the answers of those that could not be decoded."""

    faces: list[tuple[_Job, Pixels]] = field(default_factory=list)
    answers: list[_Answer] = field(default_factory=list)
    pixels: int = 0
    decode_seconds: float = 0.0

    def clear(self) -> None:
        """Empty it, so that its pictures can be freed."""
        self.faces.clear()
        self.answers.clear()
        self.pixels, self.decode_seconds = 0, 0.0


class LargePictures:
    """Bounds the pixels of large pictures that all threads together decode and compute at a time.

    Args:
        maximum_pixels: the bound; a single picture may always be read.
    """

    def __init__(self, maximum_pixels: int) -> None:
        self._maximum_pixels = maximum_pixels
        self._pixels = 0
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, pixels: int) -> Iterator[None]:
        """Wait until a picture of so many pixels fits beside the others, and count it for the length of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pixels or self._pixels + pixels <= self._maximum_pixels)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify_all()


class Batcher:
    """A bounded queue of encoded faces, emptied by threads.

    Args:
        model: computes the probabilities; the threads share it.
        threads: how many threads to start.
        maximum_queue: faces that may wait; see `submit`.
        maximum_batch: faces that a thread takes at a time.
        maximum_pixels: pixels that a picture may have; see `decode_picture`.
        maximum_large_pixels: pixels of large pictures that are read at a time; see `LargePictures`. None is
            `maximum_pixels`.
        observer: receives waiting times and batches.
    """

    def __init__(
        self,
        model: FaceModel,
        *,
        threads: int,
        maximum_queue: int,
        maximum_batch: int,
        maximum_pixels: int,
        maximum_large_pixels: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._model = model
        self._maximum_queue = maximum_queue
        self._maximum_batch = maximum_batch
        self._maximum_pixels = maximum_pixels
        self._large_pictures = LargePictures(maximum_large_pixels or maximum_pixels)
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
                _deliver([(job, error) for job in jobs])
            jobs.clear()  # the thread may now wait for long, and keeps no pictures meanwhile

    def _run(self, jobs: list[_Job]) -> None:
        """Decode and compute faces in order, as batches of at most `BATCH_PIXELS`."""
        taken = time.monotonic()
        batch = _Batch()
        for job in jobs:
            if self._observer is not None:
                self._observer.waited(taken - job.queued)
            pixels = stated_pixels(job.content)
            if batch.pixels + pixels > BATCH_PIXELS:
                self._finish(batch)  # these faces need not wait for a larger one
            if BATCH_PIXELS < pixels <= self._maximum_pixels:
                with self._large_pictures.turn(pixels):
                    self._decode(job, batch)
                    self._finish(batch)
            else:
                self._decode(job, batch)
        self._finish(batch)

    def _decode(self, job: _Job, batch: _Batch) -> None:
        """Add a face to a batch, or its error to the batch's answers."""
        started = time.monotonic()
        if started > job.deadline:
            late = TooLateError("the time limit passed while the request waited: try later")
            batch.answers.append((job, late))
            return
        try:
            picture = decode_picture(job.content, name=job.name, maximum_pixels=self._maximum_pixels)
        except DataError as error:
            batch.answers.append((job, error))
            return
        batch.faces.append((job, picture))
        batch.pixels += picture.size // 3
        batch.decode_seconds += time.monotonic() - started

    def _finish(self, batch: _Batch) -> None:
        """Compute a batch, deliver its answers, and empty it."""
        if batch.faces:
            batch.answers += self._compute(batch.faces, batch.decode_seconds)
        _deliver(batch.answers)
        batch.clear()

    def _compute(self, faces: Sequence[tuple[_Job, Pixels]], decode_seconds: float) -> list[_Answer]:
        started = time.monotonic()
        try:
            rows = self._model.probabilities_of([picture for _job, picture in faces])
        except Exception as error:
            if len(faces) == 1:
                return [(faces[0][0], error)]
            # One picture may be the cause (a size that a model of fixed size rejects): retry each on its own.
            return [answer for face in faces for answer in self._compute([face], decode_seconds / len(faces))]
        if self._observer is not None:
            self._observer.computed(len(faces), decode_seconds, time.monotonic() - started)
        return [(job, row) for (job, _picture), row in zip(faces, rows, strict=True)]


def _deliver(answers: Sequence[_Answer]) -> None:
    """Hand results to the event loop, in one call per batch."""
    if not answers:
        return
    delivered = list(answers)  # the event loop reads them later

    def deliver() -> None:
        for job, answer in delivered:
            if job.future.done():
                continue
            if isinstance(answer, BaseException):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)

    try:
        delivered[0][0].future.get_loop().call_soon_threadsafe(deliver)
    except RuntimeError:  # the loop is closed: the service has stopped and no request waits
        return
