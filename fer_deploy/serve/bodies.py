"""Request bodies: read within the limits on bytes and time, and taken apart where they are forms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fer_deploy.errors import one_line
from fer_deploy.serve.batching import OverloadedError
from fer_deploy.serve.problems import RequestRefusedError
from fer_deploy.serve.settings import ServiceSettings

FIELD = "pictures"
"""The name of a form's fields."""


@dataclass
class _BodyShare:
    """The bytes in memory that belong to one request."""

    size: int = 0


@dataclass
class BodyReader:
    """Reads the bodies of all requests of a service, and counts the bytes in memory."""

    settings: ServiceSettings
    held_bytes: int = field(default=0, init=False)
    """Bytes of bodies in memory, over all requests."""

    @contextmanager
    def reserve(self, request: Request) -> Iterator[_BodyShare]:
        """Count the bytes of a request's body for as long as the block lasts.

        Bytes count when they arrive: a request that only announces many bytes keeps no other request out.

        Raises:
            RequestRefusedError: the announced length is over the limit.
            OverloadedError: the announced length does not fit beside the bodies in memory.
        """
        length = request.headers.get("content-length")
        announced = int(length) if length and length.isascii() and length.isdigit() else 0
        if announced > self.settings.maximum_bytes:
            raise self._too_large()
        self._check_room(announced)
        share = _BodyShare()
        try:
            yield share
        finally:
            self.held_bytes -= share.size

    async def read(self, request: Request, share: _BodyShare, *, deadline: float) -> bytes:
        """The whole body.

        Args:
            request: the request.
            share: given by `reserve`.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RequestRefusedError: it is too large or too slow.
            OverloadedError: it does not fit beside the bodies in memory.
            ClientDisconnect: the client is gone.
        """
        async with self._limit_time(deadline):
            return b"".join([part async for part in self._stream(request, share)])

    async def read_form(self, request: Request, share: _BodyShare, *, deadline: float) -> list[bytes]:
        """The files of a multipart form, in order.

        Args:
            request: the request.
            share: given by `reserve`.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RequestRefusedError: it is too large, too slow, not a form, or has other fields.
            OverloadedError: it does not fit beside the bodies in memory.
            ClientDisconnect: the client is gone.
        """
        if media_type(request) != "multipart/form-data":
            raise RequestRefusedError(
                415, "Unsupported media type", "send the pictures as multipart/form-data", reason="kind"
            )
        maximum = self.settings.pictures_per_form
        parser = MultiPartParser(request.headers, self._stream(request, share), max_files=maximum, max_fields=maximum)
        parser.spool_max_size = self.settings.maximum_bytes + 1  # never to disk: bodies are bounded, and private
        try:
            async with self._limit_time(deadline):
                form = await parser.parse()
        except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
            raise RequestRefusedError(
                400, "Malformed body", f"not multipart/form-data: {one_line(error)}", reason="kind"
            ) from None
        pictures: list[bytes] = []
        for name, value in form.multi_items():
            if name != FIELD or not isinstance(value, UploadFile):
                raise RequestRefusedError(
                    422, "Unknown field", f"each part must be a file, under the name `{FIELD}`", reason="kind"
                )
            pictures.append(await value.read())
            await value.close()  # frees the parser's copy
        if not pictures:
            raise RequestRefusedError(
                422, "No picture", f"send at least one file, under the name `{FIELD}`", reason="kind"
            )
        return pictures

    async def _stream(self, request: Request, share: _BodyShare) -> AsyncGenerator[bytes, None]:
        """The parts of a body as they arrive, counted."""
        async for part in request.stream():
            if share.size + len(part) > self.settings.maximum_bytes:
                raise self._too_large()
            self._check_room(len(part))
            share.size += len(part)
            self.held_bytes += len(part)
            yield part

    @asynccontextmanager
    async def _limit_time(self, deadline: float) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                yield
        except TimeoutError:
            limit = f"{self.settings.maximum_seconds:g} s"
            raise RequestRefusedError(
                408, "Request timeout", f"the body did not arrive within {limit}", reason="slow body"
            ) from None

    def _check_room(self, more: int) -> None:
        if self.held_bytes + more > self.settings.held_bytes_limit:
            raise OverloadedError("too many bytes are in memory already: try later")

    def _too_large(self) -> RequestRefusedError:
        limit = f"{self.settings.maximum_bytes:,} bytes"
        return RequestRefusedError(
            413, "Content too large", f"a body may have at most {limit}: send a smaller one", reason="bytes"
        )


def media_type(request: Request) -> str:
    """The media type that a request declares, lower case, without parameters; empty where it declares none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
