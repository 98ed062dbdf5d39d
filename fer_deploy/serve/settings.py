"""Every limit of the service, with the reason for its default."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How a service behaves. All limits are per process.

    Memory that requests can take: `maximum_held_bytes` of encoded pictures, up to twice over while a body is put
    together and three times where a form is taken apart; and for each thread that decodes, up to 6.5 times the 3 bytes
    of each of `maximum_pixels` (475 MB measured with the default).
    """

    host: str = "127.0.0.1"
    """Where to listen. Loopback by default: the service has neither passwords nor encryption of its own."""
    port: int = 8000
    """0 takes a free one; the log says which."""
    threads: int = 0
    """Threads that decode and compute, each with one of ONNX Runtime's; 0 takes as many as the process may use."""
    maximum_queue: int = 256
    """Faces that may wait. More are refused at once, with 503: a longer queue would only make everybody late."""
    maximum_batch: int = 32
    """Faces that one thread takes from the queue together. There is no waiting for a batch to fill: what waits while
    the threads are busy is the next batch, so a lone request is never delayed."""
    maximum_bytes: int = 10 * 2**20
    """An encoded picture's bytes, or a whole body's where it holds several pictures. More is refused with 413."""
    maximum_held_bytes: int = 256 * 2**20
    """Bytes of bodies held at a time, all requests together. More is refused with 503."""
    maximum_pixels: int = 25_000_000
    """Pixels that a picture's header may promise: 25 megapixels are 75 MB when decoded. More is refused with 422."""
    maximum_pictures: int = 64
    """Pictures in one request of several; no more than may wait."""
    maximum_seconds: float = 10.0
    """From a request's first byte to its answer: a body that is not there by then is answered 408, a result that is
    not there 503."""
    header_seconds: float = 10.0
    """For a connection to send a request's head; then it is closed."""
    maximum_head_bytes: int = 32 * 1024
    """A request's head, all lines together; more closes the connection with 431."""
    maximum_connections: int = 1000
    """Open connections. A further one is answered 503 and closed."""
    drain_seconds: float = 0.0
    """After SIGTERM, go on answering for this long while `/ready` says no, so that a load balancer can notice."""
    stop_seconds: float = 20.0
    """Then, for requests under way to end."""
    log: str = "json"
    """`json`: one object a line; `text`: for a person's eyes."""

    def __post_init__(self) -> None:
        for name in ("maximum_queue", "maximum_batch", "maximum_bytes", "maximum_held_bytes", "maximum_pixels",
                     "maximum_pictures", "maximum_head_bytes", "maximum_connections"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("maximum_seconds", "header_seconds", "stop_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.threads < 0 or self.drain_seconds < 0:
            raise ValueError("threads and drain_seconds must not be negative")
        if self.maximum_held_bytes < self.maximum_bytes:
            raise ValueError("maximum_held_bytes must be at least maximum_bytes: else no large picture is ever taken")

    @property
    def thread_count(self) -> int:
        """Threads that decode and compute."""
        return self.threads or usable_cores()


def usable_cores() -> int:
    """Cores that this process may use: its affinity where the system tells it, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
