"""Start the service, and end it gracefully: what was begun is finished, what is new is sent elsewhere."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from fer_deploy.errors import UnavailableError
from fer_deploy.recognizer import Recognizer
from fer_deploy.serve.application import Service
from fer_deploy.serve.log import event, set_up_logs
from fer_deploy.serve.protocol import bounded_protocol
from fer_deploy.serve.settings import Settings


def serve(recognizer: Recognizer, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then end gracefully; a second signal ends at once.

    On the first signal `/ready` turns to 503 and, for `drain_seconds`, all goes on as before. Then no connection is
    taken any more, and requests under way have `stop_seconds` to end.

    Args:
        recognizer: the model; with `threads=1`, for the service has threads of its own.
        settings: the limits.

    Raises:
        UnavailableError: the port is taken, or may not be used.
    """
    set_up_logs(settings.log)
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


def address_of(listener: socket.socket) -> str:
    """The URL at which a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        UnavailableError: the port is taken, may not be used, or the host is none of this machine's.
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
    """uvicorn's server for a service: it drains first, and leaves with exit code 0 when it was asked to stop."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                service,
                http=bounded_protocol(settings),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
            )
        )
        self._service = service

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install the handlers for as long as it serves."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        before = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._asked)) for number in numbers
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self) -> None:
        """A signal asks for the end."""
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

    async def startup(self, sockets: Any = None) -> None:
        """Start, and say so."""
        await super().startup(sockets=sockets)
        event("ready")
