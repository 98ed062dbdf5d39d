"""Request bodies: read within the limits on bytes and time, and taken apart where they are forms."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fer_deploy.errors import one_line
from fer_deploy.files import shown
from fer_deploy.serve.batching import OverloadedError
from fer_deploy.serve.problems import RequestRefusedError
from fer_deploy.serve.settings import ServiceSettings

FIELD = "pictures"
"""The name of a form's fields."""

FORM_DEFAULT = "application/x-www-form-urlencoded"
"""The media type that curl and others send when their user chose none."""

FORM_HINT = ": send it unchanged, with curl's --data-binary and not with -d"
"""For a picture of that type that cannot be read: curl's -d removes line ends from it."""

_UNCHOSEN = frozenset(
    {
        "",
        "*/*",
        "application/octet-stream",
        FORM_DEFAULT,  # curl --data-binary, wget, PowerShell
        "binary/octet-stream",
        "text/plain",  # fetch with a string
    }
)
"""Media types that clients send when their user chose none."""


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
            RequestRefusedError: the announced length is over the limit, or the body is compressed.
            OverloadedError: the announced length does not fit beside the bodies in memory.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise RequestRefusedError(
                415,
                "Unsupported encoding",
                f"Content-Encoding {_printable(encoding)} is not read: send the body without it",
                reason="kind",
            )
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

    async def read_form(self, request: Request, share: _BodyShare, *, deadline: float) -> tuple[list[bytes], list[str]]:
        """The files of a multipart form, in order, and their names.

        Args:
            request: the request.
            share: given by `reserve`.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RequestRefusedError: it is too large, too slow, not a form, or has other fields.
            OverloadedError: it does not fit beside the bodies in memory.
            ClientDisconnect: the client is gone.
        """
        _check_form_type(request)
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
        contents: list[bytes] = []
        names: list[str] = []
        for field_name, value in form.multi_items():
            file = _as_file(field_name, value)
            contents.append(await file.read())
            names.append(_printable(file.filename) or f"picture {len(contents)}")
            await file.close()  # frees the parser's copy
        if not contents:
            raise RequestRefusedError(
                422, "No picture", f"send at least one file, in the field `{FIELD}`", reason="kind"
            )
        return contents, names

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


def check_picture_type(request: Request) -> None:
    """Refuse a body that declares to be something else than a picture, before it is read.

    Media types that clients send when their user chose none are accepted: the content decides.

    Raises:
        RequestRefusedError: the media type is for something else.
    """
    declared = media_type(request)
    if declared.startswith("image/") or declared in _UNCHOSEN:
        return
    if declared == "multipart/form-data":
        remedy = f"send forms to /v1/faces, in the field `{FIELD}`; here the body is the picture itself"
    elif declared == "application/json":
        remedy = "JSON is not read, nor base64 in it: the body is the picture itself"
    else:
        remedy = f"{_printable(declared)} is not read: the body is the picture itself"
    raise RequestRefusedError(
        415,
        "Unsupported media type",
        f"{remedy}, with a header such as Content-Type: image/jpeg (curl: --data-binary @face.jpg)",
        reason="kind",
    )


def _check_form_type(request: Request) -> None:
    if media_type(request) != "multipart/form-data":
        raise RequestRefusedError(
            415,
            "Unsupported media type",
            f"send the pictures as multipart/form-data, in the field `{FIELD}` (curl: -F {FIELD}=@face.jpg), or one "
            "picture as the body to /v1/face",
            reason="kind",
        )
    if not re.search(r";\s*boundary=", request.headers.get("content-type", ""), re.IGNORECASE):
        raise RequestRefusedError(
            400,
            "Malformed body",
            "the Content-Type header has no boundary: let your HTTP library set the header of the form",
            reason="kind",
        )


def _as_file(name: str, value: UploadFile | str) -> UploadFile:
    if isinstance(value, str):
        problem = f"the field `{_printable(name)}` is text"
    elif name != FIELD:
        problem = f"the file {_printable(value.filename) or 'without a name'} is in the field `{_printable(name)}`"
    else:
        return value
    raise RequestRefusedError(
        422,
        "Unknown field",
        f"{problem}: send each picture as a file in the field `{FIELD}` (curl: -F {FIELD}=@face.jpg)",
        reason="kind",
    )


def media_type(request: Request) -> str:
    """The media type that a request declares, lower case, without parameters; empty where it declares none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _printable(name: str | None) -> str:
    """A client's name for a file or field, fit for one line of an answer."""
    return one_line(shown(name), limit=100) if name else ""
