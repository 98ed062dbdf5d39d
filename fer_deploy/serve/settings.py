"""Every limit of the service, with the reason for its default."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fer_deploy.machine import available_cores


@dataclass(frozen=True)
class ServiceSettings:
    """How a service behaves. All limits are per process.

    Memory beyond what the idle process has: 22 bytes for each pixel of large pictures that are read at a time
    (`large_pixels_limit`), as much for 4 million pixels in each further thread, and up to twice `held_bytes_limit`.
    docs/serve.md has the measurement.

    Raises:
        ValueError: a limit is out of its range.
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every address of this machine.

    The default reaches this machine alone: the service has no passwords and no encryption."""
    port: int = 8000
    """Port to listen on; 0 takes a free one, which the log names."""
    allowed_hosts: tuple[str, ...] = ()
    """Host name that requests may use besides those of this machine; * allows all. Repeat it for several.

    On the loopback the service answers only to localhost, 127.0.0.0/8 and [::1], so that no other site can point its
    name at this machine. Elsewhere it checks the host only if names are given here. Names have no port."""
    allowed_origins: tuple[str, ...] = ()
    """Origin of web pages that may call the service (CORS), such as http://localhost:3000; * allows all. Repeat it for
    several."""
    threads: int | None = None
    """Threads that decode and compute, each with one thread of ONNX Runtime. Default: one per available core."""
    maximum_queue: int = 256
    """Faces that may wait. More are refused at once with 503.

    A longer queue would not answer more requests, only later."""
    maximum_batch: int = 32
    """Faces that one thread takes from the queue together, at most.

    No thread waits for a batch to fill: the faces that arrive while all threads are busy form the next batch, so a
    single request is never delayed."""
    maximum_bytes: int = 10_000_000
    """Size of a request's body, at most. More is refused with 413."""
    maximum_held_bytes: int | None = None
    """Bytes of bodies in memory at a time, over all requests. More is refused with 503. None allows 256 MB, or one body
    of `maximum_bytes` if that is more."""
    maximum_pixels: int = 25_000_000
    """Size of a picture by its header, at most. More is refused with 422 before anything is decoded."""
    maximum_large_pixels: int | None = None
    """Size of all pictures of over 4 megapixels that are read at a time, at most. Default: one picture.

    The others wait. Reading a picture takes up to 22 bytes of memory per pixel."""
    maximum_pictures: int = 64
    """Pictures in one form, and never more than `maximum_queue`."""
    maximum_seconds: float = 10.0
    """Time from the end of a request's head to its answer, in seconds.

    An incomplete body is then answered with 408, a missing result with 503. A client that does not read its answer is
    cut off after the same time."""
    header_seconds: float = 10.0
    """Time for a connection to send the whole head of its next request, in seconds; then it is closed."""
    maximum_head_bytes: int = 32 * 1024
    """Bytes of a request's head, all lines together. More closes the connection with 400."""
    maximum_connections: int = 1000
    """Open connections. Each further one is answered with 503 and closed."""
    drain_seconds: float = 0.0
    """Time after SIGTERM in which requests are still answered while /ready reports 503, in seconds.

    It lets a load balancer notice."""
    stop_seconds: float = 20.0
    """After that, time for running requests to finish, in seconds."""
    log: Literal["auto", "json", "text"] = "auto"
    """Format of the log: one JSON object per line, or text. auto takes text on a terminal, else json."""

    def __post_init__(self) -> None:
        for name in ("maximum_queue", "maximum_batch", "maximum_bytes", "held_bytes_limit", "maximum_pixels",
                     "large_pixels_limit", "maximum_pictures", "maximum_head_bytes",
                     "maximum_connections"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("maximum_seconds", "header_seconds", "stop_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.drain_seconds < 0:
            raise ValueError(f"drain_seconds must not be negative, got {self.drain_seconds}")
        for host in self.allowed_hosts:
            if host != "*" and not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[^\s\[\]:@/?#]+", host):
                raise ValueError(f"{host!r} is not a host name: give it without scheme, port and path")
        for origin in self.allowed_origins:
            if origin not in ("*", "null") and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@*]+", origin):
                raise ValueError(
                    f"{origin!r} is not an origin: give scheme://host or scheme://host:port without a path"
                )
        if self.held_bytes_limit < self.maximum_bytes:
            raise ValueError("maximum_held_bytes must be at least maximum_bytes, or no body of that size is accepted")

    @property
    def thread_count(self) -> int:
        """Threads that decode and compute."""
        return self.threads or available_cores()

    @property
    def held_bytes_limit(self) -> int:
        """Bytes of bodies in memory at a time."""
        if self.maximum_held_bytes is None:
            return max(256_000_000, self.maximum_bytes)
        return self.maximum_held_bytes

    @property
    def large_pixels_limit(self) -> int:
        """Pixels of large pictures that all threads together read at a time."""
        return self.maximum_pixels if self.maximum_large_pixels is None else self.maximum_large_pixels

    @property
    def pictures_per_form(self) -> int:
        """Pictures that one form may hold: a form that could never fit into the queue is refused for good."""
        return min(self.maximum_pictures, self.maximum_queue)
