"""HTTP requests, sent as bytes to a real service: it answers or closes, and goes on serving others."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any

from face_bytes import FACE
from harness import changed_bytes, search


def request(path: bytes, headers: bytes, body: bytes = b"", method: bytes = b"POST") -> bytes:
    head = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%s" % (method, path, headers)
    return head + (b"Content-Length: %d\r\n" % len(body) if body else b"") + b"\r\n" + body


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="pictures"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    + FACE
    + b"\r\n--x--\r\n"
)
CHUNKED = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (FACE[:100], FACE[100:])) + b"0\r\n\r\n"
REQUESTS = [
    request(b"/health", b"", method=b"GET"),
    request(b"/metrics", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n", method=b"GET"),
    request(b"/v1/face", b"Content-Type: image/png\r\n", FACE),
    request(b"/v1/face", b"Content-Type: application/octet-stream\r\nExpect: 100-continue\r\n", FACE),
    request(b"/v1/faces", b"Content-Type: multipart/form-data; boundary=x\r\n", FORM),
    request(b"/v1/face", b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n") + CHUNKED,
    request(b"/openapi.json", b"", method=b"GET") + request(b"/health", b"", method=b"HEAD"),
]
WORDS = [
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: 99999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"%00",
    b"GET ",
    b" HTTP/1.0",
    b"FFFFFFFFFFFFFFFF\r\n",
    b"--x--",
    b'filename="',
    b"Host: evil\r\n",
]


def test_requests() -> None:
    with _running()(maximum_seconds=2.0, header_seconds=2.0) as service:

        def check(content: bytes) -> None:
            with service.socket() as connection:
                connection.settimeout(15)
                answer = b""
                try:
                    connection.sendall(content)
                    connection.shutdown(socket.SHUT_WR)
                    while piece := connection.recv(65536):
                        answer += piece
                except (ConnectionResetError, BrokenPipeError):
                    pass  # closed before all was sent, as for a body that is too large
            assert not answer or answer.startswith(b"HTTP/1."), answer[:100]
            assert b" 500 " not in answer.partition(b"\r\n")[0], answer[:300]
            reply, _ = service.ask("POST", "/v1/face", FACE, {"Content-Type": "image/png"})
            assert reply.status == 200

        search(check, content=changed_bytes(REQUESTS, WORDS))


def _running() -> Any:
    """The helper of the service's own tests that starts a service in a thread."""
    path = Path(__file__).resolve().parents[1] / "tests" / "serve" / "conftest.py"
    specification = importlib.util.spec_from_file_location("serve_conftest", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["serve_conftest"] = module
    specification.loader.exec_module(module)
    return module.running
