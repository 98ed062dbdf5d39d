"""The most memory that `ferdeploy serve` takes for large pictures sent at once: `python benchmarks/service_memory.py`.

It starts the service on a free port of the loopback, sends drawn pictures at the same time, and prints the resident
memory of the service before, at its peak and afterwards, from /proc (Linux).
"""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image

ANSWER_SECONDS = 600


class Memory(NamedTuple):
    """Resident memory of the service in bytes, and the statuses of its answers."""

    before: int
    peak: int
    after: int
    statuses: list[int]


def draw_picture(megapixels: float, kind: str) -> bytes:
    """A square picture with soft, coloured detail, encoded."""
    side = round((megapixels * 1e6) ** 0.5)
    detail = np.random.default_rng(0).integers(0, 256, (side // 20, side // 20, 3), np.uint8)
    buffer = io.BytesIO()
    options = {"quality": 60} if kind in ("JPEG", "WEBP") else {}
    Image.fromarray(detail).resize((side, side), Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def measure(pictures: list[bytes], *options: str) -> Memory:
    """Send all pictures at once to a service started with these options."""
    command = [sys.executable, "-m", "fer_deploy", "serve", "--port", "0", "--log", "json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        try:
            port = int(json.loads(service.stdout.readline())["url"].rpartition(":")[2])
            service.stdout.readline()  # "ready"
            before = _resident(service.pid, "VmRSS")
            with ThreadPoolExecutor(len(pictures)) as clients:
                statuses = list(clients.map(lambda picture: _send(port, picture), pictures))
            return Memory(before, _resident(service.pid, "VmHWM"), _resident(service.pid, "VmRSS"), statuses)
        finally:
            service.kill()


def _send(port: int, picture: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    connection.request("POST", "/v1/face", picture, {"content-type": "image/*"})
    return connection.getresponse().status


def _resident(process: int, field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


@click.command()
@click.option("--count", default=24, show_default=True, help="Pictures sent at once.")
@click.option("--megapixels", default=25.0, show_default=True, help="Size of each.")
@click.option("--kind", default="JPEG", show_default=True, help="Their format, by Pillow's name.")
@click.argument("options", nargs=-1)
def main(count: int, megapixels: float, kind: str, options: tuple[str, ...]) -> None:
    """Measure the memory of `ferdeploy serve`, started with OPTIONS (after --)."""
    picture = draw_picture(megapixels, kind)
    found = measure([picture] * count, "--seconds", str(ANSWER_SECONDS), *options)
    click.echo(
        f"{count} {kind} pictures of {megapixels:g} megapixels and {len(picture) / 1e6:.1f} MB: "
        f"{found.before / 1e6:.0f} MB before, {found.peak / 1e6:.0f} MB at the peak, {found.after / 1e6:.0f} MB after; "
        f"answers {sorted(set(found.statuses))}"
    )


if __name__ == "__main__":
    main()
