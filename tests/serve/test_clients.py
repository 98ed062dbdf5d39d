"""What clients of all kinds send: monitors, browsers, curl's defaults, foreign hosts, and the usual mistakes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from fer_deploy.serve.settings import ServiceSettings
from serve.conftest import Running, encoded, running
from serve.test_service import JPEG, multipart, problem

PAGE = "http://localhost:3000"


def exchange(service: Running, request: bytes) -> bytes:
    """Send raw bytes; the answer until the connection ends or is silent."""
    with service.socket() as connection:
        connection.settimeout(5)
        connection.sendall(request)
        return connection.recv(4000)


# Hosts


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:8000", "127.9.8.7:1", "[::1]", "[::1]:8000"],
)
def test_the_loopback_answers_to_names_of_this_machine(plain: Running, host: str) -> None:
    for method, path, body in (("GET", "/health", None), ("POST", "/v1/face", encoded("happy"))):
        assert plain.ask(method, path, body, {"host": host})[0].status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.7", "[::2]",
     "0.0.0.0", "user@localhost", "localhost:8000:9", "localhost/x", "128.0.0.1", "", "[::1", "local host"],
)  # fmt: skip
def test_the_loopback_answers_to_no_other_name(plain: Running, host: str) -> None:
    for method, path, body in (("GET", "/v1/model", None), ("POST", "/v1/face", encoded("happy"))):
        answer = plain.ask(method, path, body, {"host": host})
        assert "--allow-host" in problem(answer, 421)
        assert b"tiny" not in answer[1]


def test_a_request_without_a_host_is_answered_only_in_http_1_0(plain: Running) -> None:
    assert exchange(plain, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert exchange(plain, b"GET /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert exchange(plain, b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n").startswith(
        b"HTTP/1.1 400 "
    )


def test_a_whole_url_as_the_target_counts_as_the_host(plain: Running) -> None:
    for target, status in [("localhost/health", 200), ("127.0.0.1:80/v1/model?x", 200), ("evil.example/health", 421),
                           ("localhost", 404)]:  # fmt: skip
        request = f"GET http://{target} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert exchange(plain, request.encode()).startswith(b"HTTP/1.1 %d " % status), target


def test_allowed_names_are_answered() -> None:
    with running(allowed_hosts=("Faces.example", "[fd00::1]")) as service:
        for host, status in [("faces.example:8000", 200), ("[fd00::1]", 200), ("localhost", 200), ("x.example", 421)]:
            assert service.ask("GET", "/health", headers={"host": host})[0].status == status
    with running(allowed_hosts=("*",)) as service:
        assert service.ask("GET", "/health", headers={"host": "evil.example"})[0].status == 200


def test_a_service_for_other_machines_checks_the_host_only_where_names_are_given() -> None:
    with running(host="0.0.0.0") as service:
        assert service.ask("GET", "/health", headers={"host": "faces.example"})[0].status == 200
    with running(host="0.0.0.0", allowed_hosts=("faces.example",)) as service:
        assert service.ask("GET", "/health", headers={"host": "faces.example"})[0].status == 200
        problem(service.ask("GET", "/health", headers={"host": "evil.example"}), 421)


@pytest.mark.parametrize("host", ["http://faces.example", "faces.example:80", "faces.example/x", "a b", ""])
def test_allowed_hosts_are_names(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        ServiceSettings(allowed_hosts=(host,))


# Monitors


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/model", "/openapi.json"])
def test_head_is_get_without_the_body(plain: Running, path: str) -> None:
    response, body = plain.ask("HEAD", path)
    full, content = plain.ask("GET", path)
    assert (response.status, body) == (200, b"")
    assert response.getheader("content-type") == full.getheader("content-type")
    if path != "/metrics":  # which changes with every request
        assert int(response.getheader("content-length", "")) == len(content)


def test_head_keeps_the_connection_usable(plain: Running) -> None:
    connection = plain.connect()
    for method in ("HEAD", "GET", "HEAD", "GET"):
        connection.request(method, "/health")
        response = connection.getresponse()
        assert response.status == 200
        assert response.read() == (b"" if method == "HEAD" else b'{"status":"ok"}')
    connection.close()


def test_wrong_methods_name_the_right_ones(plain: Running) -> None:
    answer, _ = plain.ask("POST", "/health")
    assert (answer.status, set(answer.getheader("allow", "").split(", "))) == (405, {"GET", "HEAD"})
    answer, _ = plain.ask("HEAD", "/v1/face")
    assert (answer.status, answer.getheader("allow")) == (405, "POST")


# Browsers


@pytest.fixture(scope="module")
def open_to_a_page() -> Iterator[Running]:
    with running(allowed_origins=(PAGE, "HTTPS://App.example:443"), maximum_bytes=100_000) as service:
        yield service


def preflight(service: Running, origin: str, path: str = "/v1/face") -> tuple[int, dict[str, str]]:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-request-id",
    }
    answer = service.ask("OPTIONS", path, headers=headers)[0]
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def test_no_page_may_call_by_default(plain: Running) -> None:
    status, headers = preflight(plain, PAGE)
    assert status == 405
    answer = plain.ask("POST", "/v1/face", encoded("happy"), {"origin": PAGE})[0]
    names = {*headers, *(name.lower() for name, _ in answer.getheaders())}
    assert not [name for name in names if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [PAGE, "https://app.example"])
@pytest.mark.parametrize("path", ["/v1/face", "/v1/faces", "/v1/model"])
def test_an_allowed_page_may_call(open_to_a_page: Running, origin: str, path: str) -> None:
    status, headers = preflight(open_to_a_page, origin, path)
    assert status == 200
    assert headers["access-control-allow-origin"] == origin
    assert "POST" in headers["access-control-allow-methods"]
    assert "content-type" in headers["access-control-allow-headers"].lower()
    answer = open_to_a_page.ask("POST", "/v1/face", encoded("happy"), {"origin": origin})[0]
    assert (answer.status, answer.getheader("access-control-allow-origin")) == (200, origin)
    assert "origin" in answer.getheader("vary", "").lower()


@pytest.mark.parametrize(("path", "content", "status"), [("/v1/face", b"x", 422), ("/v1/face", bytes(100_001), 413),
                                                         ("/v2", b"", 404), ("/v1/model", b"", 405)])  # fmt: skip
def test_an_allowed_page_can_read_errors(open_to_a_page: Running, path: str, content: bytes, status: int) -> None:
    answer = open_to_a_page.ask("POST", path, content, {"origin": PAGE, **JPEG})
    problem(answer, status)
    assert answer[0].getheader("access-control-allow-origin") == PAGE


@pytest.mark.parametrize("origin", ["http://localhost:3001", "https://localhost:3000", "null", "http://evil.example"])
def test_other_pages_may_not_call(open_to_a_page: Running, origin: str) -> None:
    status, headers = preflight(open_to_a_page, origin)
    assert (status, headers.get("access-control-allow-origin")) == (400, None)
    answer = open_to_a_page.ask("GET", "/v1/model", headers={"origin": origin})[0]
    assert answer.getheader("access-control-allow-origin") is None


def test_a_star_allows_every_page() -> None:
    with running(allowed_origins=("*",)) as service:
        assert preflight(service, "http://evil.example")[0] == 200
        answer = service.ask("GET", "/health", headers={"origin": "http://evil.example"})[0]
        assert answer.getheader("access-control-allow-origin") == "*"


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://localhost:3000/", "http://a/b", "http://", "*.example", ""]
)
def test_origins_are_checked(origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        ServiceSettings(allowed_origins=(origin,))


# Content without a useful type


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize(
    "declared",
    [None, "", "application/x-www-form-urlencoded", "application/octet-stream", "binary/octet-stream",
     "text/plain;charset=UTF-8", "*/*", "image/png", "image/*"],
)  # fmt: skip
def test_the_content_decides(plain: Running, declared: str | None, kind: str) -> None:
    headers = {} if declared is None else {"content-type": declared}
    response, body = plain.ask("POST", "/v1/face", encoded("sad", kind), headers)
    assert (response.status, json.loads(body)["label"]) == (200, "sad")


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("application/json", "JSON is not read, nor base64 in it"),
        ("multipart/form-data; boundary=x", "send forms to /v1/faces, in the field `pictures`"),
        ("text/html", "text/html is not read"),
        ("video/mp4", "video/mp4 is not read"),
    ],
)
def test_a_type_for_something_else_names_the_header_to_send(plain: Running, declared: str, words: str) -> None:
    detail = problem(plain.ask("POST", "/v1/face", encoded("happy"), {"content-type": declared}), 415)
    assert words in detail
    assert "Content-Type: image/jpeg" in detail


@pytest.mark.parametrize("path", ["/v1/face", "/v1/faces"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_refused_with_the_reason(plain: Running, path: str, encoding: str) -> None:
    detail = problem(plain.ask("POST", path, encoded("happy"), {"content-encoding": encoding}), 415)
    assert f"Content-Encoding {encoding} is not read" in detail
    assert plain.ask("POST", "/v1/face", encoded("happy"), {"content-encoding": "identity"})[0].status == 200


ENCODED = [base64.b64encode(encoded("happy", kind)) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("content", "declared", "words"),
    [
        *[pytest.param(text, "", "base64 text: decode it", id=f"base64 {i}") for i, text in enumerate(ENCODED)],
        *[pytest.param(b"data:image/png;base64," + text, "text/plain", "data: URL", id=f"data {i}")
          for i, text in enumerate(ENCODED)],
        pytest.param(b"DATA:,x", "image/png", "data: URL", id="any data: URL"),
        pytest.param(b"\n  " + ENCODED[0], "image/png", "base64 text", id="base64 after white space"),
        pytest.param(b"image=" + ENCODED[1].replace(b"/", b"%2F"), FORM, "base64 text", id="base64 in a form"),
        pytest.param(b'"' + ENCODED[1] + b'"', "text/plain", "base64 text", id="base64 in quotes"),
        pytest.param(b'{"image": "x"}', "", "JSON, not a picture", id="JSON"),
        pytest.param(multipart(b"x")[0], "", "a form without its Content-Type", id="a form"),
        pytest.param(encoded("happy").translate(None, b"\r\n"), FORM, "curl's --data-binary", id="curl -d"),
        pytest.param(b"a=1&b=2", FORM, "the picture: a text file, not a picture", id="a form's fields"),
    ],
)  # fmt: skip
def test_wrapped_pictures_are_explained(plain: Running, content: bytes, declared: str, words: str) -> None:
    assert words in problem(plain.ask("POST", "/v1/face", content, {"content-type": declared}), 422)


# Forms


def test_errors_in_a_form_name_the_file(plain: Running) -> None:
    parts = [(b"a.png", encoded("happy")), (b"b.txt", b"hello"), (b"c.jpg", ENCODED[1]), (b"", b"hello")]
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="pictures"; filename="%s"\r\n\r\n%s\r\n' % part
        for part in parts
    )
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    response, answer = plain.ask("POST", "/v1/faces", body + b"--edge--\r\n", headers)
    assert response.status == 200
    errors = [result["error"] for result in json.loads(answer)["results"]]
    assert errors[0] is None
    assert errors[1].startswith("b.txt: a text file")
    assert errors[2].startswith("c.jpg: base64 text")
    assert errors[3].startswith("picture 4: ")


@pytest.mark.parametrize("field", ["file", "files", "image", "images", "pictures[]", "picture", "Pictures"])
def test_the_error_for_another_field_names_the_file_and_the_right_field(plain: Running, field: str) -> None:
    body, headers = multipart(encoded("happy"), field=field, filename="face one.jpg")
    detail = problem(plain.ask("POST", "/v1/faces", body, headers), 422)
    assert "face one.jpg" in detail
    assert f"`{field}`" in detail
    assert "in the field `pictures`" in detail


def test_the_error_for_text_shows_how_to_send_a_file(plain: Running) -> None:
    body, headers = multipart(b"a.jpg", filename=None)  # curl -F pictures=a.jpg, without the @
    detail = problem(plain.ask("POST", "/v1/faces", body, headers), 422)
    assert "the field `pictures` is text" in detail
    assert "-F pictures=@face.jpg" in detail


def test_file_names_cannot_break_the_line_or_fill_the_answer(plain: Running) -> None:
    body, headers = multipart(b"hello", filename="é\u202e\u2028" + "x" * 3000)
    error = json.loads(plain.ask("POST", "/v1/faces", body, headers)[1])["results"][0]["error"]
    assert len(error) < 250
    assert error.isprintable()


@pytest.mark.parametrize(
    ("declared", "status", "words"),
    [
        ("multipart/form-data", 400, "no boundary: let your HTTP library set the header"),
        ("image/png", 415, "in the field `pictures`"),
        (FORM, 415, "curl: -F pictures=@face.jpg"),
        ("", 415, "one picture as the body to /v1/face"),
        ("application/json", 415, "multipart/form-data"),
    ],
)
def test_the_error_for_another_type_names_the_right_one(plain: Running, declared: str, status: int, words: str) -> None:
    body, _headers = multipart(encoded("happy"))
    assert words in problem(plain.ask("POST", "/v1/faces", body, {"content-type": declared}), status)


# Requests that two parsers could read in two ways, and offers of other protocols


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n", 505),
        (b"GET /health HTTP/0.9\r\n\r\n", 505),
        (b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 9\r\n\r\n", 400),
        (b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: -4\r\n\r\n", 400),
        (b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length : 4\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded: yes\r\n\r\n", 200),
    ],
)
def test_ambiguous_requests_are_refused(plain: Running, head: bytes, status: int) -> None:
    with plain.socket() as connection:
        connection.sendall(head + (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" if status != 200 else b""))
        received = connection.recv(4000)
        assert received.startswith(b"HTTP/1.1 %d " % status), received
        if status != 200:
            assert received.count(b"HTTP/1.1") == 1, "what follows is not read as a second request"
            assert connection.recv(4000) == b""


OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAA\r\n",
    "websocket": b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
    "several": b"Upgrade: h2c, TLS/1.3\r\nConnection: upgrade\r\n",
    "lower case": b"connection: upgrade\r\nupgrade: foo/2\r\n",
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("cut", ["whole", "in the offer", "in its name", "before the body", "every 7 bytes"])
def test_offers_of_other_protocols_are_ignored_however_they_arrive(plain: Running, offer: bytes, cut: str) -> None:
    picture = encoded("happy")
    head = b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\n" + offer + b"Content-Length: %d\r\n\r\n" % len(picture)
    message = head + picture
    inside = message.index(offer)
    cuts = {
        "whole": [],
        "in the offer": [inside + len(offer) // 2],
        "in its name": [message.lower().index(b"upgrade") + 3],
        "before the body": [len(head)],
        "every 7 bytes": list(range(7, len(head), 7)),
    }[cut]
    with plain.socket() as connection:
        connection.setsockopt(6, 1, 1)  # TCP_NODELAY: each piece is a packet
        for _ in range(2):  # the second on the same connection
            for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True):
                connection.sendall(message[start:end])
            received = b""
            while b'"probabilities"' not in received:
                more = connection.recv(4000)
                assert more, received
                received += more
            assert received.startswith(b"HTTP/1.1 200 ")
            assert b'"label":"happy"' in received


def test_pipelined_offers_are_ignored_too(plain: Running) -> None:
    picture = encoded("sad")
    head = b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n" % (OFFERS["h2c"], len(picture))
    with plain.socket() as connection:
        connection.sendall((head + picture) * 3)
        received = b""
        while received.count(b'"label":"sad"') < 3:
            more = connection.recv(4000)
            assert more, received
            received += more
