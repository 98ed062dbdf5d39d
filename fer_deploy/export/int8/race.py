"""How fast an int8 file is compared with its fp32 file: both are timed in turns on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from fer_deploy.faces.dataset import SIZE
from fer_deploy.model.contract import INPUT_NAME
from fer_deploy.model.session import start_session

ROUNDS = 150
"""How often each file is timed."""
WARM_UP = 20
"""Rounds before the first that counts."""


def race(
    contents: Mapping[str, bytes],
    *,
    batch: int = 1,
    size: tuple[int, int] = (SIZE, SIZE),
    rounds: int = ROUNDS,
    threads: int = 1,
) -> dict[str, float]:
    """Median milliseconds that each file takes for a batch of faces, `size` being their height and width.

    The files run in turns, so that other load on the machine slows all of them alike.
    """
    sessions = {name: start_session(content, threads=threads) for name, content in contents.items()}
    pictures = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(WARM_UP + rounds):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {INPUT_NAME: pictures})
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


def describe_race(milliseconds: Mapping[str, float], *, batch: int, processor: str) -> str:
    """A race between `fp32` and `int8` in words."""
    fp32, int8 = milliseconds["fp32"], milliseconds["int8"]
    return f"{fp32 / int8:.2f} x as fast as fp32 ({int8:.2f} ms, {fp32:.2f} ms; batch {batch}, 1 thread, {processor})"
