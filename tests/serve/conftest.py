"""A real service in this process, on a free port of the loopback; and models that a test can block."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_model import grey_face, tiny_model

from fer_deploy import Recognizer
from fer_deploy.serve.application import Service
from fer_deploy.serve.server import Server, listen
from fer_deploy.serve.settings import ServiceSettings


def encoded(label: str, kind: str = "PNG", *, height: int = 48, width: int = 48) -> bytes:
    """A picture that the tiny model reads as `label`."""
    buffer = io.BytesIO()
    Image.fromarray(grey_face(label, height=height, width=width)).save(buffer, kind)
    return buffer.getvalue()


class GatedRecognizer(Recognizer):
    """The tiny model, which computes only while `gate` is open, and records its calls."""

    def __init__(self) -> None:
        super().__init__(tiny_model(), threads=1)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def probabilities_of(self, faces: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        self.batches.append(len(faces))
        self.entered.set()
        if not self.gate.wait(30):
            raise TimeoutError("the test never opened the gate")
        return super().probabilities_of(faces)


@dataclass(frozen=True, eq=False)
class Running:
    """A service that answers at `port`."""

    service: Service
    server: Server
    port: int

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def metric(self, name: str) -> float:
        """One value of /metrics, by its whole name with labels."""
        (line,) = [line for line in self.ask("GET", "/metrics")[1].decode().splitlines() if line.startswith(f"{name} ")]
        return float(line.rpartition(" ")[2])


@contextmanager
def running(recognizer: Recognizer | None = None, **settings: object) -> Iterator[Running]:
    """Serve for as long as the block lasts."""
    chosen = ServiceSettings(**{"port": 0, "threads": 1} | settings)  # type: ignore[arg-type]
    listener = listen(chosen)
    service = Service(recognizer or Recognizer(tiny_model(), threads=1), chosen)
    server = Server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Running(service, server, listener.getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        service.close()
        listener.close()
        assert not thread.is_alive(), "the server did not end"


def wait_for(condition: object, *, seconds: float = 20.0) -> None:
    """Wait until `condition()` is true; fail after so long."""
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def plain() -> Iterator[Running]:
    """A service with ordinary limits, shared by a module's tests."""
    with running(maximum_bytes=200_000, maximum_pixels=1_000_000) as service:
        yield service
