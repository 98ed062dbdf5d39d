from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image
from tiny_model import grey_face, tiny_model

from fer_deploy import EMOTIONS, Recognizer
from fer_deploy.errors import DataError
from fer_deploy.serve.batching import Batcher, OverloadedError, TooLateError

Result = TypeVar("Result")


def png(label: str, *, height: int = 48, width: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey_face(label, height=height, width=width)).save(buffer, "PNG")
    return buffer.getvalue()


class Gated:
    """The tiny model, computing only while the gate is open."""

    def __init__(self) -> None:
        self.inner = Recognizer(tiny_model(), threads=1)
        self.gate = threading.Event()
        self.calls: list[list[tuple[int, ...]]] = []

    def probabilities_of(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        self.calls.append([face.shape for face in faces])
        assert self.gate.wait(20)
        return self.inner.probabilities_of(faces)


def run(use: Callable[[], Awaitable[Result]]) -> Result:
    async def bounded() -> Result:
        async with asyncio.timeout(30):
            return await use()

    return asyncio.run(bounded())


def batcher(model: Any, **options: Any) -> Batcher:
    chosen = {"threads": 1, "maximum_queue": 1000, "maximum_batch": 8, "maximum_pixels": 10_000_000} | options
    return Batcher(model, **chosen)


def soon() -> float:
    return time.monotonic() + 20


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_request_gets_its_own_answer(threads: int) -> None:
    generator = np.random.default_rng(5)
    labels = [EMOTIONS[i] for i in generator.integers(0, 7, 300)]
    sizes = generator.choice([48, 31, 80], 300)
    pictures = [png(label, height=int(size), width=int(size)) for label, size in zip(labels, sizes, strict=True)]
    queue = batcher(Recognizer(tiny_model(), threads=1), threads=threads)

    async def one(picture: bytes) -> str:
        (future,) = queue.submit([picture], deadline=soon())
        return EMOTIONS[int((await future).argmax())]

    async def use() -> list[str]:
        return await asyncio.gather(*map(one, pictures))

    assert run(use) == labels
    queue.close()


def test_queued_faces_form_batches_up_to_the_maximum() -> None:
    model = Gated()
    queue = batcher(model)

    async def use() -> None:
        futures = queue.submit([png("happy")], deadline=soon())
        await until(lambda: len(model.calls) == 1)  # a lone request does not wait for others
        futures += queue.submit([png("sad")] * 20, deadline=soon())
        model.gate.set()
        await asyncio.gather(*futures)

    run(use)
    assert [len(call) for call in model.calls] == [1, 8, 8, 4]
    queue.close()


def test_large_pictures_are_not_decoded_many_at_a_time() -> None:
    model = Gated()
    model.gate.set()
    queue = batcher(model)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    noisy, flat = buffer.getvalue(), png("happy", height=1500, width=1500)
    assert len(noisy) > 256 * 1024 > 8 * len(flat)

    async def use() -> None:
        await asyncio.gather(*queue.submit([noisy] * 3, deadline=soon()))
        await asyncio.gather(*queue.submit([flat] * 4, deadline=soon()))

    run(use)
    assert [len(call) for call in model.calls] == [1] * 7  # by encoded bytes, then by decoded pixels
    queue.close()


def test_a_full_queue_refuses_at_once_and_accepts_all_or_nothing() -> None:
    model = Gated()
    queue = batcher(model, maximum_queue=5)

    async def use() -> None:
        futures = queue.submit([png("happy")], deadline=soon())
        await until(lambda: queue.waiting == 0)
        futures += queue.submit([png("sad")] * 3, deadline=soon())
        with pytest.raises(OverloadedError, match="3 of 5 places in the queue are taken"):
            queue.submit([png("fear")] * 3, deadline=soon())
        assert queue.waiting == 3
        futures += queue.submit([png("fear")] * 2, deadline=soon())
        assert not queue.has_room()
        model.gate.set()
        assert len(await asyncio.gather(*futures)) == 6
        assert queue.has_room(5)

    run(use)
    queue.close()


def test_a_cancelled_request_leaves_the_queue_and_is_not_computed() -> None:
    model = Gated()
    queue = batcher(model, maximum_queue=2)

    async def use() -> None:
        first = queue.submit([png("happy")], deadline=soon())
        await until(lambda: queue.waiting == 0)
        second = queue.submit([png("sad", height=20), png("sad", height=20)], deadline=soon())
        assert not queue.has_room()
        second[0].cancel()
        await until(queue.has_room)
        model.gate.set()
        await asyncio.gather(*first, second[1])

    run(use)
    assert [len(call) for call in model.calls] == [1, 1]
    queue.close()


def test_a_request_past_its_deadline_is_not_computed() -> None:
    model = Gated()
    queue = batcher(model)

    async def use() -> None:
        first = queue.submit([png("happy")], deadline=soon())
        await until(lambda: len(model.calls) == 1)
        late = queue.submit([png("sad")], deadline=time.monotonic() - 0.001)
        model.gate.set()
        await asyncio.gather(*first)
        with pytest.raises(TooLateError):
            await late[0]

    run(use)
    assert len(model.calls) == 1
    queue.close()


def test_bad_pictures_do_not_affect_other_answers() -> None:
    model = Recognizer(tiny_model(shape=("batch", 48, 48, 3)), threads=1)  # takes 48x48 alone
    queue = batcher(model)
    contents = [png("happy"), b"no picture", png("sad", height=50), png("fear"), b"", png("angry")[:40]]

    async def use() -> list[Any]:
        return await asyncio.gather(*queue.submit(contents, deadline=soon()), return_exceptions=True)

    results = run(use)
    assert [EMOTIONS[int(results[i].argmax())] for i in (0, 3)] == ["happy", "fear"]
    for i in (1, 2, 4, 5):
        assert isinstance(results[i], DataError)
        assert "\n" not in str(results[i])
    queue.close()


def test_a_failing_model_fails_its_requests_and_the_thread_survives() -> None:
    class Failing:
        fail = True

        def probabilities_of(self, faces: Sequence[np.ndarray]) -> np.ndarray:
            if self.fail:
                raise RuntimeError("no memory on the device")
            return np.ones((len(faces), 7), np.float32) / 7

    model = Failing()
    queue = batcher(model)

    async def use() -> None:
        results = await asyncio.gather(*queue.submit([png("sad")] * 3, deadline=soon()), return_exceptions=True)
        assert [str(result) for result in results] == ["no memory on the device"] * 3
        model.fail = False
        (row,) = await asyncio.gather(*queue.submit([png("sad")], deadline=soon()))
        assert row.shape == (7,)

    run(use)
    queue.close()


def test_close_finishes_the_queue_and_accepts_nothing_more() -> None:
    model = Gated()
    queue = batcher(model)

    async def use() -> None:
        futures = queue.submit([png("happy")] * 20, deadline=soon())
        closing = asyncio.get_running_loop().run_in_executor(None, queue.close)
        await until(lambda: not queue.has_room())
        with pytest.raises(OverloadedError):
            queue.submit([png("happy")], deadline=soon())
        model.gate.set()
        assert len(await asyncio.gather(*futures)) == 20
        await closing

    run(use)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ferdeploy-")]
