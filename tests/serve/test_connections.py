"""Slow, endless and many clients, over real sockets with bounded loops."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from serve.conftest import Running, encoded, running, wait_for

LIMIT = 100_000
HEAD = b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\n"


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    while more := connection.recv(65_536):
        received += more
    return received


def drip(connection: socket.socket, content: bytes, *, seconds: float) -> float:
    """Send a byte every 20 ms until the connection ends; how long that took."""
    started = time.monotonic()
    with suppress(OSError):
        for byte in content:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
            if time.monotonic() - started > seconds:
                break
    return time.monotonic() - started


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"GET /",
        b"\r\n" * 20 + b"G",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
    ],
    ids=["a header", "the target", "empty lines", "many headers"],
)
def test_a_dripped_head_has_a_deadline_as_a_whole(start: bytes) -> None:
    more = b"A: b\r\n" * 200 if start.endswith(b"localhost\r\n") else b"y" * 1000
    with running(header_seconds=0.6) as service, service.socket() as connection:
        assert drip(connection, start + more, seconds=10) < 5
        with suppress(ConnectionError):
            assert not read_to_the_end(connection).startswith(b"HTTP/1.1 200")


def test_the_deadline_holds_for_later_heads_of_a_connection_too() -> None:
    with running(header_seconds=0.6) as service, service.socket() as connection:
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(4000).startswith(b"HTTP/1.1 200")
        assert drip(connection, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1000, seconds=10) < 5


def test_a_long_request_is_not_cut_off_by_the_deadline_of_heads() -> None:
    picture = encoded("happy")
    with running(header_seconds=0.4, maximum_seconds=20) as service, service.socket() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(picture))
        for start in range(0, len(picture), 1 + len(picture) // 8):  # about 1.6 s, over several sweeps
            connection.sendall(picture[start : start + 1 + len(picture) // 8])
            time.sleep(0.2)
        assert connection.recv(4000).startswith(b"HTTP/1.1 200")


def test_many_dripping_clients_block_others_only_until_the_deadline() -> None:
    threads = threading.active_count()
    with running(header_seconds=0.6, maximum_connections=20) as service, ExitStack() as stack:
        clients = [stack.enter_context(service.socket()) for _ in range(60)]
        for client in clients:
            with suppress(OSError):
                client.sendall(b"GET / HT")
        assert threading.active_count() <= threads + 4  # one loop, one worker and the metrics of this process
        wait_for(lambda: _answers(service), seconds=10)


def _answers(service: Running) -> bool:
    try:
        return service.ask("GET", "/health")[0].status == 200
    except OSError:
        return False


@pytest.mark.parametrize("keep", [b"", b"Connection: close\r\n"], ids=["keep-alive", "close"])
@pytest.mark.parametrize(
    ("head", "size", "status"),
    [
        (b"Content-Length: 5000000\r\n", 5_000_000, 413),
        (b"Content-Type: application/json\r\nContent-Length: 90000\r\n", 90_000, 415),
        (b"Content-Type: video/mp4\r\nContent-Length: 5000000\r\n", 5_000_000, 415),
    ],
    ids=["too large", "another kind", "both"],
)
def test_a_client_that_sends_all_before_it_reads_still_gets_the_answer(
    head: bytes, size: int, status: int, keep: bytes
) -> None:
    with running(maximum_bytes=LIMIT) as service:
        for _ in range(5):  # a reset would be a race
            with service.socket() as connection:
                connection.sendall(HEAD + head + keep + b"\r\n")
                time.sleep(0.02)
                body = bytes(size)
                for start in range(0, size, 65_536):
                    connection.sendall(body[start : start + 65_536])
                connection.shutdown(socket.SHUT_WR)
                answer = read_to_the_end(connection)
                assert answer.startswith(b"HTTP/1.1 %d " % status)
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == status


def test_a_client_that_never_ends_a_refused_body_is_cut_off() -> None:
    with running(maximum_bytes=LIMIT, header_seconds=1.0) as service:
        for keep in (b"", b"Connection: close\r\n"):
            with service.socket() as connection:
                connection.sendall(HEAD + keep + b"Content-Length: 5000000\r\n\r\n")
                assert drip(connection, bytes(2000), seconds=20) < 12
        wait_for(lambda: not len(service.service.connections))


def test_refused_bodies_are_not_kept_in_memory() -> None:
    with running(maximum_bytes=LIMIT) as service, service.socket() as connection:
        connection.sendall(HEAD + b"Content-Length: 50000000\r\n\r\n")
        assert connection.recv(4000).startswith(b"HTTP/1.1 413")
        for _ in range(200):
            connection.sendall(bytes(100_000))
            assert service.service.bodies.held_bytes == 0
