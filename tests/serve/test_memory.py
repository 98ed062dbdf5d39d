"""Memory stays within what the settings state, however many large pictures arrive at once."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import tiny_model, write_tiny_model

from fer_deploy import Recognizer
from fer_deploy.pictures import stated_pixels
from fer_deploy.serve.batching import BATCH_PIXELS, Batcher, LargePictures
from fer_deploy.serve.settings import ServiceSettings

BYTES_PER_PIXEL = 22
"""What `ServiceSettings` states."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_many_large_pictures_take_the_memory_of_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from service_memory import draw_picture, measure

    model = write_tiny_model(tmp_path / "tiny.onnx")
    picture = draw_picture(6, kind)
    found = measure([picture] * 8, "--model", str(model), "--megapixels", "6.1", "--threads", "4", "--seconds", "120")
    assert found.statuses == [200] * 8
    bodies = 2 * 8 * len(picture)
    threads = 4 * 2**23  # stacks and first-time allocations
    assert found.peak - found.before < BYTES_PER_PIXEL * 6_000_000 + bodies + threads
    assert found.after - found.before < 60e6 + bodies, "large blocks are returned to the system"


def test_the_limit_on_pixels_read_at_a_time() -> None:
    assert ServiceSettings(maximum_pixels=9).large_pixels_limit == 9
    assert ServiceSettings(maximum_pixels=9, maximum_large_pixels=20).large_pixels_limit == 20
    with pytest.raises(ValueError, match="large_pixels_limit must be at least 1"):
        ServiceSettings(maximum_large_pixels=0)


def test_large_pictures_take_turns_by_their_pixels() -> None:
    turns = LargePictures(25)
    generator = np.random.default_rng(3)
    sizes = [int(size) for size in generator.integers(5, 26, 60)] + [40]  # one is larger than the limit
    now: list[int] = []
    most: list[tuple[int, int]] = []
    lock = threading.Lock()

    def read(size: int) -> None:
        with turns.turn(size):
            with lock:
                now.append(size)
                most.append((sum(now), len(now)))
            time.sleep(0.002)
            with lock:
                now.remove(size)

    threads = [threading.Thread(target=read, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == len(sizes), "every picture had its turn"
    assert all(pixels <= 25 or count == 1 for pixels, count in most)
    assert max(count for _, count in most) > 1, "several fit at a time"


def encoded(side: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), 90).save(buffer, kind)
    return buffer.getvalue()


def test_large_and_small_pictures_in_one_queue_are_all_answered() -> None:
    """Threads that hold small faces must not wait for each other's large ones."""
    side = int(BATCH_PIXELS**0.5) + 2
    contents = [encoded(side if i % 3 else 48) for i in range(18)]
    assert {stated_pixels(content) > BATCH_PIXELS for content in contents} == {True, False}
    queue = Batcher(
        Recognizer(tiny_model(), threads=1),
        threads=3, maximum_queue=100, maximum_batch=8, maximum_pixels=side * side,
    )  # fmt: skip

    async def use() -> list[np.ndarray]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*queue.submit(contents, deadline=time.monotonic() + 60))

    rows = asyncio.run(use())
    queue.close()
    assert len(rows) == 18
    np.testing.assert_allclose(rows, [rows[0]] * 18, atol=1e-4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000"])
def test_the_header_states_the_pixels(kind: str) -> None:
    assert stated_pixels(encoded(70, kind)) == 4900


@pytest.mark.parametrize("content", [b"", b"text", encoded(48)[:20], b"RIFF" + bytes(30)])
def test_what_has_no_header_counts_as_small(content: bytes) -> None:
    assert stated_pixels(content) == 0
