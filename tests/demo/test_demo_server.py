from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fer_deploy.demo.server import HEADERS, PageServer
from fer_deploy.demo.site import MEDIA_TYPES, POLICY, Site
from fer_deploy.errors import UnavailableError
from fer_deploy.model.contract import check_model_file

FILES = {"index.html": b"<!doctype html>", "page.js": b"let x;", "model.onnx": b"\x08\x08" * 5000}


@contextmanager
def running(tiny_file: Path, *, files: dict[str, bytes] = FILES, **options: Any) -> Iterator[PageServer]:
    server = PageServer(Site(MappingProxyType(files), check_model_file(tiny_file)), **options)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(tiny_file: Path) -> Iterator[PageServer]:
    with running(tiny_file) as server:
        yield server


def connect(server: PageServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=10)


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionError):
        while more := connection.recv(1_000_000):
            received += more
    return received


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
def test_files_are_served(server: PageServer, path: str, name: str) -> None:
    response, content = ask(server, path)
    assert (response.status, content) == (200, FILES[name])
    assert response.getheader("Content-Type") == MEDIA_TYPES[Path(name).suffix]
    for header, value in HEADERS:
        assert response.getheader(header) == value


def test_head_sends_headers_only(server: PageServer) -> None:
    response, content = ask(server, "/model.onnx", method="HEAD")
    assert (response.status, content) == (200, b"")
    assert response.getheader("Content-Length") == "10000"


@pytest.mark.parametrize(
    "path", ["/absent", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/page.js/", "/page.js%00", "/."]
)
def test_other_paths_are_not_found(server: PageServer, path: str) -> None:
    response, content = ask(server, path)
    assert (response.status, content) == (404, b"not a file of this page\n")
    assert response.getheader("Content-Security-Policy", "").startswith(POLICY)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: PageServer, method: str) -> None:
    assert ask(server, "/", method=method)[0].status == 501


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1:1", "127.1.2.3", "[::1]:8765"])
def test_names_of_this_machine_are_answered(server: PageServer, host: str) -> None:
    assert ask(server, "/", headers={"Host": host})[0].status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "[", "", "a@localhost"])
def test_another_name_pointed_at_this_machine_gets_nothing(server: PageServer, host: str) -> None:
    response, content = ask(server, "/", headers={"Host": host})
    assert response.status == 421
    assert content.decode() == f"open the page as {server.address}, or start it with --allow-host NAME\n"


def test_allowed_names_are_answered(tiny_file: Path) -> None:
    with running(tiny_file, allowed_hosts=["page.example"]) as server:
        for host, status in [("page.example:8765", 200), ("localhost", 200), ("evil.example", 421)]:
            assert ask(server, "/", headers={"Host": host})[0].status == status


def test_a_body_never_passes_for_a_second_request(server: PageServer) -> None:
    inner = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(inner), inner))
        assert read_to_the_end(connection).count(b"HTTP/1.1 ") == 1


# Clients that are slow, endless or many


def test_a_dripped_head_has_a_deadline_as_a_whole(tiny_file: Path) -> None:
    with running(tiny_file, head_seconds=0.5) as server, connect(server) as connection:
        started = time.monotonic()
        with suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - started < 5
        assert read_to_the_end(connection) == b""


def test_a_silent_connection_and_a_half_second_head_are_closed_too(tiny_file: Path) -> None:
    with running(tiny_file, head_seconds=0.3) as server, connect(server) as silent, connect(server) as second:
        second.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\nGET /pa")
        assert read_to_the_end(second).endswith(FILES["page.js"])
        assert read_to_the_end(silent) == b""


@pytest.mark.parametrize("piece", [b"X: " + b"y" * 60_000 + b"\r\n", b"A: b\r\n" * 2000, b"y" * 100_000])
def test_an_endless_head_is_cut_off(server: PageServer, piece: bytes) -> None:
    with connect(server) as connection, suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(50):
            connection.sendall(piece)
        assert b"HTTP/1.1 200" not in read_to_the_end(connection)
    assert ask(server, "/")[0].status == 200


def test_many_dripping_clients_cost_a_bounded_number_of_threads(tiny_file: Path) -> None:
    before = threading.active_count()
    with running(tiny_file, head_seconds=2.0, maximum_connections=4) as server:
        clients = [connect(server) for _ in range(30)]
        try:
            for client in clients[:4]:
                client.sendall(b"GET / HT")
            assert threading.active_count() <= before + 1 + 4
            refused = [client for client in clients if read_to_the_end(client).startswith(b"HTTP/1.1 503 ")]
            assert len(refused) >= 20
        finally:
            for client in clients:
                client.close()
        until = time.monotonic() + 10
        while ask(server, "/")[0].status != 200:  # the places come back
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_large_file_is_not_cut_by_the_deadline_of_heads(tiny_file: Path) -> None:
    files = {"model.onnx": bytes(30_000_000)}
    with running(tiny_file, head_seconds=0.3, files=files) as server, connect(server) as connection:
        connection.sendall(b"GET /model.onnx HTTP/1.0\r\n\r\n")
        time.sleep(0.8)  # the server waits for the browser, longer than for a head
        assert len(read_to_the_end(connection)) > 30_000_000


def test_a_port_in_use(tiny_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"port {port}: .*--port 0"):
            PageServer(Site(MappingProxyType(FILES), check_model_file(tiny_file)), port=port)


def test_an_address_of_another_machine(tiny_file: Path) -> None:
    with pytest.raises(UnavailableError, match=r"cannot serve on 192\.0\.2\.1"):  # kept for documentation, RFC 5737
        PageServer(Site(MappingProxyType(FILES), check_model_file(tiny_file)), host="192.0.2.1")


def test_all_addresses_are_not_the_loopback(tiny_file: Path) -> None:
    server = PageServer(Site(MappingProxyType(FILES), check_model_file(tiny_file)), host="0.0.0.0")
    assert not server.loopback
    server.server_close()


def test_browsers_that_disconnect_print_nothing(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    import struct

    assert ask(server, "/", headers={"Host": "["})[0].status == 421
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(15).startswith(b"HTTP/1.1 200")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    assert ask(server, "/")[0].status == 200
    time.sleep(0.2)
    assert capfd.readouterr().err == ""
