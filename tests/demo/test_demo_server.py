from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from fer_deploy.demo.server import HEADERS, PageServer
from fer_deploy.demo.site import MEDIA_TYPES, POLICY, Site
from fer_deploy.errors import UnavailableError
from fer_deploy.model.contract import check_model_file

FILES = {"index.html": b"<!doctype html>", "page.js": b"let x;", "model.onnx": b"\x08\x08" * 5000}


@pytest.fixture
def server(tiny_file: Path) -> Iterator[PageServer]:
    server = PageServer(Site(MappingProxyType(FILES), check_model_file(tiny_file)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(
    server: PageServer, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize(
    ("path", "name"),
    [("/", "index.html"), ("/index.html", "index.html"), ("/page.js?x=1", "page.js"), ("/model%2Eonnx", "model.onnx")],
)
def test_files_are_given_out(server: PageServer, path: str, name: str) -> None:
    response, content = ask(server, path)
    assert (response.status, content) == (200, FILES[name])
    assert response.getheader("Content-Type") == MEDIA_TYPES[Path(name).suffix]
    for header, value in HEADERS:
        assert response.getheader(header) == value


def test_headers_alone(server: PageServer) -> None:
    response, content = ask(server, "/model.onnx", method="HEAD")
    assert (response.status, content) == (200, b"")
    assert response.getheader("Content-Length") == "10000"


@pytest.mark.parametrize(
    "path", ["/absent", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/page.js/", "/page.js%00", "/."]
)
def test_nothing_else_is(server: PageServer, path: str) -> None:
    response, content = ask(server, path)
    assert (response.status, content) == (404, b"not a file of this page\n")
    assert response.getheader("Content-Security-Policy", "").startswith(POLICY)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(server: PageServer, method: str) -> None:
    assert ask(server, "/", method=method)[0].status == 501


def test_another_name_pointed_at_this_machine_gets_nothing(server: PageServer) -> None:
    for host, status in [("evil.example", 404), (f"localhost:{server.server_port}", 200), ("127.0.0.1", 200)]:
        assert ask(server, "/", headers={"Host": host})[0].status == status


def test_a_port_in_use(tiny_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"port {port}: .*--port 0"):
            PageServer(Site(MappingProxyType(FILES), check_model_file(tiny_file)), port=port)


def test_an_address_of_another_machine(tiny_file: Path) -> None:
    with pytest.raises(UnavailableError, match=r"can't serve on 192\.0\.2\.1"):  # kept for documentation, RFC 5737
        PageServer(Site(MappingProxyType(FILES), check_model_file(tiny_file)), host="192.0.2.1")


def test_every_address_is_not_the_loopback(tiny_file: Path) -> None:
    server = PageServer(Site(MappingProxyType(FILES), check_model_file(tiny_file)), host="0.0.0.0")
    assert not server.loopback
    server.server_close()


def test_what_browsers_do_prints_nothing(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    import struct

    assert ask(server, "/", headers={"Host": "["})[0].status == 404
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(15).startswith(b"HTTP/1.1 200")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    assert ask(server, "/")[0].status == 200  # and whoever came before was seen off
    time.sleep(0.2)
    assert capfd.readouterr().err == ""
