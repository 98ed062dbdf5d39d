"""Start the service, and stop it gracefully: running requests are finished, new ones are sent elsewhere."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import sys
from contextlib import suppress
from types import FrameType

import uvicorn

from fer_deploy.errors import UnavailableError
from fer_deploy.recognizer import Recognizer
from fer_deploy.serve.application import Service
from fer_deploy.serve.log import event, set_up_logs
from fer_deploy.serve.settings import ServiceSettings

_M_MMAP_THRESHOLD = -3  # of malloc.h


def serve(recognizer: Recognizer, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then stop gracefully; a second signal stops at once.

    After the first signal `/ready` reports 503 and, for `drain_seconds`, requests are answered as before. Then no
    connection is accepted any more, and running requests have `stop_seconds` to finish.

    Args:
        recognizer: the model, opened with `threads=1`, because the service starts its own threads.
        settings: the limits.

    Raises:
        UnavailableError: the port is taken or may not be used, or the host is not an address of this machine.
    """
    set_up_logs(settings.log)
    _return_freed_memory()
    listener = listen(settings)
    service = Service(recognizer, settings)
    try:
        service.warm_up()
        contract = recognizer.contract
        event(
            "listening",
            url=address_of(listener),
            model=contract.name,
            precision=contract.precision,
            sha256=contract.sha256,
            threads=settings.thread_count,
        )
        Server(service).run(sockets=[listener])
    finally:
        service.close()
        listener.close()
    event("stopped")


def _return_freed_memory() -> None:
    """Let glibc return every large block to the system when it is freed.

    By default its threshold grows to 32 MB with the first large blocks. Pillow's blocks of 16 MB then stay with the
    process after a large picture, once for each thread.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library, such as musl
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(settings: ServiceSettings) -> socket.socket:
    """A socket that listens on the host and port of the settings.

    Raises:
        UnavailableError: the port is taken or may not be used, or the host is not an address of this machine.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, number, _name, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        try:
            if hasattr(socket, "SO_REUSEADDR"):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        option = "--port" if getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise UnavailableError(f"cannot listen on {where}: {why}: give another {option}") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn's server for a service: it drains before it stops, and a requested stop ends with exit code 0.

    It uses only what uvicorn offers publicly: options of `Config`, the protocol class that `Config.load` finds, and the
    methods `serve`, `startup` and `handle_exit`.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        config = uvicorn.Config(
            service,
            http="h11",  # the parser that bounds heads, and that reads the body of a request that offers an upgrade
            h11_max_incomplete_event_size=settings.maximum_head_bytes,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        )
        config.load()
        config.http_protocol_class = service.connections.guarded(config.http_protocol_class)  # type: ignore[assignment]
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests until a signal or `should_exit` ends it."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and log that the service is ready."""
        await super().startup(sockets=sockets)
        event("ready")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to stop at the first signal, and stop at once at the second."""
        # A signal handler may run between any two instructions: the event loop does the work.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        settings = self._service.settings
        if self._service.draining:
            event("stopping at once")
            self.force_exit = self.should_exit = True
            return
        self._service.draining = True
        event("stopping", drain_seconds=settings.drain_seconds)
        asyncio.get_running_loop().call_later(settings.drain_seconds, self._end)

    def _end(self) -> None:
        self.should_exit = True
