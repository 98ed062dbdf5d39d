"""The bounded queue, and the threads that empty it: many small requests become few calls of ONNX Runtime.

A thread that is free takes everything that waits, up to a batch; nobody waits for a batch to fill. While all threads
are busy the queue grows, and so do the batches: throughput rises with load, and a lone request pays nothing for it.
Pillow and ONNX Runtime let go of Python's lock while they work, so the threads really run side by side.

Everything is decoded by the thread that computes it. What waits is therefore encoded, and small; and the memory for
decoded pictures is bounded by the number of threads, however many requests there are.
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
from fer_deploy.pictures import Pixels, read_picture

_SMALL = 256 * 1024
"""A larger encoded picture ends a batch: it takes long to decode, and others should not wait for it."""

_BATCH_PIXELS = 4_000_000
"""So does reaching this many decoded pixels (12 MB)."""


class OverloadedError(FerDeployError):
    """The queue is full; nothing was queued."""


class TooLateError(FerDeployError):
    """The time limit passed before a thread came to the request."""


class Model(Protocol):
    """What is needed of a `Recognizer`."""

    def probabilities_of(self, faces: Sequence[Pixels]) -> NDArray[np.float32]:
        """float32 (n, 7) for pictures of any sizes."""


class Observer(Protocol):
    """Is told what the threads do. Called by them, so it must be safe between threads."""

    def waited(self, seconds: float) -> None:
        """A face left the queue after so long."""

    def computed(self, faces: int, decode_seconds: float, model_seconds: float) -> None:
        """A batch was decoded and computed."""


@dataclass(eq=False)
class _Job:
    content: bytes
    deadline: float
    future: asyncio.Future[NDArray[np.float32]]
    queued: float = field(default_factory=time.monotonic)


class Batcher:
    """A bounded queue of encoded faces, emptied by threads.

    Args:
        model: reads the faces; shared by the threads.
        threads: how many to start.
        maximum_queue: faces that may wait; see `submit`.
        maximum_batch: faces that a thread takes at a time.
        maximum_pixels: see `read_picture`.
        observer: is told of waits and batches.
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
        """Whether so many faces would be queued now."""
        return not self._closed and len(self._queue) + faces <= self._maximum_queue

    def submit(self, contents: Sequence[bytes], *, deadline: float) -> list[asyncio.Future[NDArray[np.float32]]]:
        """Queue encoded faces, all or none; call it in the event loop that will await the results.

        Args:
            contents: each an encoded picture that is a face.
            deadline: on `time.monotonic`'s clock; a face that a thread takes up later fails with `TooLateError`.

        Returns:
            A future a face: float32 (7,), or DataError for a picture that can't be read, `TooLateError`, or whatever
            the model raised. Cancelling one takes its face out of the queue.

        Raises:
            OverloadedError: there is no room, or `close` was called.
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(content, deadline, loop.create_future()) for content in contents]
        with self._changed:
            if not self.has_room(len(jobs)):
                raise OverloadedError(
                    f"{len(self._queue)} faces wait already, of at most {self._maximum_queue}: try later"
                )
            self._queue.extend(jobs)
            self._changed.notify(len(jobs))
        for job in jobs:
            job.future.add_done_callback(self._forget_if_cancelled(job))
        return [job.future for job in jobs]

    def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Take nothing more, let what is queued end, and join the threads."""
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
            with self._changed, suppress(ValueError):  # a thread may have it already
                self._queue.remove(job)

        return forget

    def _take(self) -> list[_Job]:
        """The next batch, at least one face; nothing once the queue is closed and empty."""
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
            except BaseException as error:  # whatever it is, those who wait must hear of it, and the thread goes on
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
                picture = read_picture(job.content, name="the picture", maximum_pixels=self._maximum_pixels).pixels
            except DataError as error:
                answers.append((job, error))
                continue
            if pictures and pixels + picture.size // 3 > _BATCH_PIXELS:
                _answer([*answers, *self._compute(batch, pictures, started)])  # they need not wait for the rest
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
            # One picture may be to blame (a size that a file of fixed size does not take): the others shall not pay.
            alone = [self._compute([job], [picture], decoded) for job, picture in zip(batch, pictures, strict=True)]
            return [answer for answers in alone for answer in answers]
        if self._observer is not None:
            self._observer.computed(len(batch), decoded - started, time.monotonic() - decoded)
        return list(zip(batch, rows, strict=True))


def _answer(answers: Sequence[tuple[_Job, NDArray[np.float32] | BaseException]]) -> None:
    """Hand results to the event loop: one call for all of a batch."""
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
    except RuntimeError:  # the loop is closed: the service has ended, nobody waits
        return
