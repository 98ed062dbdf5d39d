"""A load test of the service on this machine: `python benchmarks/service_load.py`.

It starts `ferdeploy serve` on a free loopback port and measures, in one run and on the same encoded pictures: direct
calls of `Recognizer`, requests from few and from many clients, overload, and with `--soak` memory over time. Clients
and service share the machine's cores, so the service by itself can do more than is measured here.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from drawn_faces import encoded_faces

from fer_deploy.errors import MeasurementError
from fer_deploy.machine import available_cores
from fer_deploy.recognizer import Recognizer

HANGS_AFTER_SECONDS = 30.0
"""A request without an answer after this time counts as hanging. The service's own limit is 10 s."""


@dataclass(frozen=True)
class Measured:
    """One row of the report.

    Attributes:
        what: what was measured.
        faces_per_second: faces answered with a result, over the duration of the measurement.
        p50_ms: median time from the first byte sent to the last byte received.
        p99_ms: 99th percentile; NaN with fewer than 100 samples.
        requests: number of answers.
        statuses: number of answers by HTTP status.
        refusal_p99_ms: 99th percentile of 503 answers alone.
    """

    what: str
    faces_per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    statuses: dict[str, int] = field(default_factory=dict)
    refusal_p99_ms: float = float("nan")


def measure_direct(
    recognizer: Recognizer, contents: Sequence[bytes], *, threads: int, batch: int, seconds: float
) -> Measured:
    """`Recognizer.predict` on encoded pictures: the same work without HTTP."""
    times: list[list[float]] = [[] for _ in range(threads)]
    until = time.perf_counter() + seconds

    def work(durations: list[float]) -> None:
        at = 0
        while (began := time.perf_counter()) < until:
            group = [contents[(at + i) % len(contents)] for i in range(batch)]
            recognizer.predict(group)
            durations.append(time.perf_counter() - began)
            at += batch

    began = time.perf_counter()
    workers = [threading.Thread(target=work, args=(durations,)) for durations in times]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - began
    calls = [value for durations in times for value in durations]
    name = f"direct, {threads} thread{'s' * (threads > 1)}, {batch} a call"
    return _row(name, calls, len(calls) * batch / elapsed)


class _Client(asyncio.Protocol):
    """One persistent HTTP/1.1 connection; answers must state their length."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = bytes(self._buffer[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        answer, self._answer = self._answer, None
        if not answer.done():
            answer.set_result((int(head[9:12]), body))

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the service closed the connection before it answered"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await asyncio.wait_for(self._answer, HANGS_AFTER_SECONDS)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def post(content: bytes) -> bytes:
    """A whole request for one face."""
    return b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s" % (
        len(content),
        content,
    )


def post_many(contents: Sequence[bytes]) -> bytes:
    """A whole request for several faces."""
    parts = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="pictures"; filename="a.jpg"\r\n\r\n%s\r\n' % content
        for content in contents
    )
    body = parts + b"--edge--\r\n"
    head = b"Host: localhost\r\nContent-Type: multipart/form-data; boundary=edge\r\nContent-Length: %d" % len(body)
    return b"POST /v1/faces HTTP/1.1\r\n%s\r\n\r\n%s" % (head, body)


async def measure_service(
    port: int,
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    what: str,
    faces: int = 1,
    rate: float = 0.0,
) -> Measured:
    """Measure clients that each send the next request when they have received an answer.

    Args:
        port: the service's loopback port.
        requests: complete requests, sent in turn.
        clients: number of persistent connections.
        seconds: duration.
        what: name of the row.
        faces: faces per request.
        rate: requests per second of all clients together; 0 for as many as are answered.

    Raises:
        MeasurementError: a request hangs, or a connection breaks.
    """
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(_Client, "127.0.0.1", port))[1] for _ in range(clients)]
    times: list[tuple[int, float]] = []
    until = time.perf_counter() + seconds

    async def work(number: int, client: _Client) -> None:
        at = number
        while (began := time.perf_counter()) < until:
            status, _body = await client.ask(requests[at % len(requests)])
            times.append((status, time.perf_counter() - began))
            at += clients
            if status == 503:  # sooner than `Retry-After` asks, to keep up the load
                await asyncio.sleep(0.05)
            if rate:
                await asyncio.sleep(max(0.0, began + clients / rate - time.perf_counter()))

    began = time.perf_counter()
    try:
        await asyncio.gather(*(work(number, client) for number, client in enumerate(connections)))
    except (TimeoutError, ConnectionError) as error:
        raise MeasurementError(f"{what}: {str(error) or 'a request hangs'}: see the service's log") from error
    finally:
        for client in connections:
            client.close()
    elapsed = time.perf_counter() - began
    good = [value for status, value in times if status == 200]
    refused = [value for status, value in times if status == 503]
    counts = {str(status): count for status, count in sorted(Counter(status for status, _ in times).items())}
    return _row(what, good, len(good) * faces / elapsed, statuses=counts, requests=len(times), refused=refused)


async def metric(port: int, name: str) -> float:
    """One value of the service's /metrics."""
    _transport, client = await asyncio.get_running_loop().create_connection(_Client, "127.0.0.1", port)
    try:
        _status, body = await client.ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    finally:
        client.close()
    return next(float(line.split()[-1]) for line in body.decode().splitlines() if line.startswith(f"{name} "))


def mixed(contents: Sequence[bytes]) -> list[bytes]:
    """Requests as in real traffic: single faces, and among them a form of 32, a large photo, and invalid pictures."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((2000, 2000), 60).save(buffer, "JPEG", quality=50)
    requests = list(map(post, contents))
    requests.insert(len(contents) // 5, post_many(contents[:32]))
    requests.insert(len(contents) * 2 // 5, post(buffer.getvalue()))
    requests.insert(len(contents) * 3 // 5, post(contents[0][: len(contents[0]) // 2]))
    requests.insert(len(contents) * 4 // 5, post(b"no picture"))
    return requests


async def measure_memory(
    port: int, requests: Sequence[bytes], *, clients: int, seconds: float, rate: float = 0.0
) -> tuple[Measured, list[float]]:
    """The load's row, and at least twenty samples of the service's resident megabytes during `seconds` of load."""
    samples: list[float] = []
    interval = min(10.0, seconds / 20)
    load = asyncio.ensure_future(
        measure_service(port, requests, clients=clients, seconds=seconds, what="memory over time", rate=rate)
    )
    while not load.done():
        await asyncio.wait({load}, timeout=interval)
        samples.append(await metric(port, "process_resident_memory_bytes") / 1e6)
    return await load, samples


@contextmanager
def service_process(model: Path, *, threads: int, queue: int) -> Iterator[int]:
    """Run `ferdeploy serve` as a process; yields its port."""
    command = [sys.executable, "-m", "fer_deploy", "serve", "--model", str(model), "--port", "0"]
    command += ["--threads", str(threads), "--queue", str(queue), "--log", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise MeasurementError(f"the service did not start: exit code {process.wait()}")
            drain = threading.Thread(target=lambda: [None for _ in process.stdout or ()], daemon=True)
            drain.start()
            yield int(json.loads(line)["url"].rpartition(":")[2])
        finally:
            process.terminate()
            if process.wait(timeout=60) != 0:
                raise MeasurementError(f"the service ended with exit code {process.returncode}")


def _row(
    what: str,
    seconds: Sequence[float],
    faces_per_second: float,
    *,
    statuses: dict[str, int] | None = None,
    requests: int | None = None,
    refused: Sequence[float] = (),
) -> Measured:
    return Measured(
        what,
        faces_per_second,
        _percentile_ms(seconds, 50, least=1),
        _percentile_ms(seconds, 99, least=100),
        len(seconds) if requests is None else requests,
        statuses or {},
        _percentile_ms(refused, 99, least=100),
    )


def _percentile_ms(seconds: Sequence[float], percent: float, *, least: int) -> float:
    return float(np.percentile(seconds, percent) * 1000) if len(seconds) >= least else float("nan")


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=5.0, show_default=True, help="Each measurement's.")
@click.option("--soak", type=click.FloatRange(0, 3600), default=0.0, show_default=True, help="Of memory over time.")
@click.option("--soak-rate", type=click.FloatRange(0), default=0.0, show_default=True,
              help="Its requests per second; 0: as many as are answered.")  # fmt: skip
@click.option("--soak-only", is_flag=True, help="Measure memory alone.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the service. Default: one per core.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def main(
    model: Path,
    seconds: float,
    soak: float,
    soak_rate: float,
    soak_only: bool,
    threads: int | None,
    output: Path | None,
) -> None:
    """Measure direct calls and the service side by side on this machine."""
    if soak_only and not soak:
        raise click.UsageError("--soak-only needs --soak SECONDS")
    count = threads or available_cores()
    contents = encoded_faces(256)
    rows = [] if soak_only else _side_by_side(model, contents, threads=count, seconds=seconds)
    samples: list[float] = []
    if soak:

        async def over_time(port: int) -> tuple[Measured, list[float]]:
            return await measure_memory(port, mixed(contents), clients=32, seconds=soak, rate=soak_rate)

        with service_process(model, threads=count, queue=256) as port:
            row, samples = asyncio.run(over_time(port))
        rows.append(row)
    click.echo(f"{model.name}: {count} thread(s) on {os.cpu_count()} core(s); clients and service share them")
    click.echo(f"{'':44s} {'faces/s':>9s} {'p50 ms':>8s} {'p99 ms':>8s}  answers")
    for row in rows:
        statuses = " ".join(f"{status}: {number}" for status, number in row.statuses.items()) or str(row.requests)
        more = "" if np.isnan(row.refusal_p99_ms) else f", of 503 alone p99 {row.refusal_p99_ms:.1f} ms"
        click.echo(f"{row.what:44s} {row.faces_per_second:9.0f} {row.p50_ms:8.2f} {row.p99_ms:8.2f}  {statuses}{more}")
    if samples:
        third = max(1, len(samples) // 3)
        middle, last = np.mean(samples[third : 2 * third]), np.mean(samples[-third:])
        click.echo(
            f"memory over {soak:.0f} s of 32 clients: {samples[0]:.1f} MB at first, {max(samples):.1f} at most, "
            f"{middle:.1f} on average in the second third, {last:.1f} in the last"
        )
    if output is not None:
        from fer_deploy.files import write_json

        figures: dict[str, Any] = {"rows": [_plain(asdict(row)) for row in rows], "memory_megabytes": samples}
        write_json(output, figures)


def _side_by_side(model: Path, contents: Sequence[bytes], *, threads: int, seconds: float) -> list[Measured]:
    """Direct calls, the service with few and with many clients, and overload."""
    one, many = list(map(post, contents)), [post_many(contents[i : i + 32]) for i in range(0, 256, 32)]
    recognizer = Recognizer(model, threads=1)
    recognizer.predict(contents[:64])
    rows = [
        measure_direct(recognizer, contents, threads=1, batch=1, seconds=seconds),
        measure_direct(recognizer, contents, threads=threads, batch=1, seconds=seconds),
        measure_direct(recognizer, contents, threads=threads, batch=32, seconds=seconds),
    ]

    async def use(port: int) -> None:
        await measure_service(port, one, clients=8, seconds=min(seconds, 2), what="warm-up")
        for clients in (1, 8, 32, 128):
            what = f"service, {clients} client{'s' * (clients > 1)}, 1 a request"
            rows.append(await measure_service(port, one, clients=clients, seconds=seconds, what=what))
        what = "service, 4 clients, 32 a request"
        rows.append(await measure_service(port, many, clients=4, seconds=seconds, what=what, faces=32))

    async def overload(port: int) -> None:
        await measure_service(port, one, clients=8, seconds=min(seconds, 2), what="warm-up")
        what = "service of a queue of 16, 128 clients"
        rows.append(await measure_service(port, one, clients=128, seconds=seconds, what=what))

    with service_process(model, threads=threads, queue=256) as port:
        asyncio.run(use(port))
    with service_process(model, threads=threads, queue=16) as port:
        asyncio.run(overload(port))
    return rows


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in values.items()}


if __name__ == "__main__":
    main()
