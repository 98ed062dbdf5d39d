from __future__ import annotations

import io
import json
import logging
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_model import level_of, tiny_model, write_tiny_model

from fer_deploy import EMOTIONS, Recognizer
from fer_deploy.cli import cli
from fer_deploy.errors import UnavailableError
from fer_deploy.serve.log import JsonFormatter, TextFormatter, event
from fer_deploy.serve.server import listen
from fer_deploy.serve.settings import ServiceSettings
from serve.conftest import GatedRecognizer, Running, encoded, running, wait_for

JPEG = {"content-type": "image/jpeg"}


def multipart(*files: bytes, field: str = "pictures", filename: str | None = "a.jpg") -> tuple[bytes, dict[str, str]]:
    name = f'; filename="{filename}"' if filename is not None else ""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (field.encode(), name.encode(), file)
        for file in files
    ]
    return b"".join(parts) + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


def problem(answer: tuple[object, bytes], status: int) -> str:
    """Check that an answer is a problem of this status; its detail."""
    response, body = answer
    content = json.loads(body)
    assert response.status == status, content  # type: ignore[attr-defined]
    assert response.getheader("content-type") == "application/problem+json"  # type: ignore[attr-defined]
    assert set(content) == {"type", "title", "status", "detail"}
    assert content["status"] == status
    assert content["detail"]
    assert "\n" not in content["detail"]
    return content["detail"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("label", ["happy", "neutral"])
def test_a_face_is_read(plain: Running, label: str, kind: str) -> None:
    headers = {"content-type": f"image/{kind.lower()}"}
    response, body = plain.ask("POST", "/v1/face", encoded(label, kind, height=60, width=50), headers)
    content = json.loads(body)
    assert response.status == 200
    assert content["label"] == label
    assert content["model"] == "tiny"
    assert list(content["probabilities"]) == list(EMOTIONS)
    assert sum(content["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert content["probability"] == content["probabilities"][label]


def test_the_answer_equals_the_recognizers(plain: Running) -> None:
    generator = np.random.default_rng(1)
    picture = generator.integers(0, 256, (70, 90, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    expected = Recognizer(tiny_model(), threads=1).predict(picture)
    content = json.loads(plain.ask("POST", "/v1/face", buffer.getvalue())[1])
    assert content["label"] == expected.label
    assert content["probabilities"] == pytest.approx(dict(expected.probabilities), abs=2e-6)


def test_several_faces_keep_their_order_and_a_bad_one_affects_no_other(plain: Running) -> None:
    labels = ["happy", "sad", "fear", "angry"]
    pictures = [encoded(label, height=40 + 9 * i) for i, label in enumerate(labels)]
    body, headers = multipart(*pictures[:2], b"no picture", *pictures[2:])
    response, answer = plain.ask("POST", "/v1/faces", body, headers)
    results = json.loads(answer)["results"]
    assert response.status == 200
    assert [result["face"] and result["face"]["label"] for result in results] == ["happy", "sad", None, "fear", "angry"]
    assert [bool(result["error"]) for result in results] == [False, False, True, False, False]


def test_the_service_describes_its_model_and_state(plain: Running) -> None:
    content = json.loads(plain.ask("GET", "/v1/model")[1])
    assert content["labels"] == list(EMOTIONS)
    assert content["sha256"] == Recognizer(tiny_model()).contract.sha256
    for path in ("/health", "/ready"):
        response, body = plain.ask("GET", path)
        assert (response.status, json.loads(body)) == (200, {"status": "ok"})
        assert response.getheader("cache-control") == "no-store"
        assert response.getheader("x-content-type-options") == "nosniff"


def test_openapi_describes_every_route_and_every_error(plain: Running) -> None:
    content = json.loads(plain.ask("GET", "/openapi.json")[1])
    assert set(content["paths"]) == {"/v1/face", "/v1/faces", "/v1/model", "/health", "/ready", "/metrics"}
    for path in ("/v1/face", "/v1/faces"):
        responses = content["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "400", "408", "413", "415", "422", "500", "503"}
    assert "what a person feels" in content["info"]["description"]


# Bad input


def png_header(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.new("CMYK", (48, 48), (0, 0, 0, 255 - level_of("happy"))).save(buffer, "JPEG")
    return buffer.getvalue()


def deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 48), 257 * level_of("happy"), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (48, 48), level_of(label)) for label in ("happy", "angry", "sad")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "empty", id="zero bytes"),
        pytest.param(b"hello", "text file", id="text"),
        pytest.param(encoded("happy", "JPEG")[:-20], "damaged or truncated", id="truncated"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(2000), "damaged|not a picture", id="corrupt"),
        pytest.param(png_header(60_000, 60_000), "pixels", id="60,000-pixel header"),
        pytest.param(png_header(2_000, 600), "more than the 1,000,000", id="too many pixels"),
        pytest.param(b"%PDF-1.7\n", "PDF", id="pdf"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript", id="PostScript, which would start a program"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text", id="svg"),
    ],
)
def test_a_bad_picture_is_one_clear_line(plain: Running, content: bytes, words: str) -> None:
    assert re.search(words, problem(plain.ask("POST", "/v1/face", content, JPEG), 422))


@pytest.mark.parametrize("content", [cmyk(), deep(), animated()], ids=["CMYK", "16-bit", "animated"])
def test_an_unusual_picture_is_read(plain: Running, content: bytes) -> None:
    response, body = plain.ask("POST", "/v1/face", content, {"content-type": "application/octet-stream"})
    assert response.status == 200
    assert json.loads(body)["label"] == "happy"


def test_bodies_of_other_kinds_are_refused(plain: Running) -> None:
    problem(plain.ask("POST", "/v1/face", b"{}", {"content-type": "application/json"}), 415)
    problem(plain.ask("POST", "/v1/faces", encoded("happy"), {"content-type": "image/png"}), 415)
    problem(plain.ask("POST", "/v1/faces", b"--edge", {"content-type": "multipart/form-data"}), 400)
    problem(plain.ask("POST", "/v1/faces", b"rubbish", {"content-type": "multipart/form-data; boundary=x"}), 400)
    problem(plain.ask("POST", "/v1/faces", *multipart(encoded("happy"), field="photo")), 422)
    problem(plain.ask("POST", "/v1/faces", *multipart(encoded("happy"), filename=None)), 422)
    problem(plain.ask("POST", "/v1/faces", *multipart()), 422)
    problem(plain.ask("POST", "/v1/faces", *multipart(*[b"x"] * 65)), 400)


def test_unknown_routes_and_methods_are_problems_too(plain: Running) -> None:
    problem(plain.ask("GET", "/v2/face"), 404)
    answer = plain.ask("GET", "/v1/face")
    problem(answer, 405)
    assert answer[0].getheader("allow") == "POST"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(plain: Running) -> None:
    with plain.socket() as connection:  # declared: refused although not one byte of it is sent
        connection.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    with plain.socket() as connection:  # and the client gets no 100 Continue
        connection.sendall(
            b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    with plain.socket() as connection:  # not declared: refused as soon as it is too large
        connection.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            connection.sendall(b"%x\r\n%s\r\n" % (100_000, bytes(100_000)))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert plain.metric("ferdeploy_held_bytes") == 0


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: -4\r\n\r\n", id="negative length"),
        pytest.param(
            b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 9\r\n\r\n",
            id="two lengths",
        ),
        pytest.param(
            b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
            id="smuggle",
        ),
        pytest.param(
            b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk"
        ),
    ],
)
def test_malformed_http_is_refused(plain: Running, rubbish: bytes) -> None:
    with plain.socket() as connection:
        connection.sendall(rubbish)
        received = connection.recv(100)
        assert received.startswith(b"HTTP/1.1 400 ")
    assert plain.ask("GET", "/health")[0].status == 200


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", id="a header"),
        pytest.param(b"GET /", id="a target"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 8000, id="many headers"),
        pytest.param(
            b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", id="a trailer"
        ),
    ],
)
def test_an_endless_head_is_cut_off(plain: Running, endless: bytes) -> None:
    with plain.socket() as connection:
        received = b""
        try:
            connection.sendall(endless)
            for _ in range(200):
                connection.sendall(b"y" * 16_384)
            while more := connection.recv(1000):
                received += more
        except OSError:  # the service closed the connection while we were still sending
            return
        assert received.startswith(b"HTTP/1.1 400 ")


def test_pipelined_requests_are_answered_in_order(plain: Running) -> None:
    def request(label: str) -> bytes:
        picture = encoded(label)
        return b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(picture), picture)

    with plain.socket() as connection:
        connection.sendall(b"".join(map(request, EMOTIONS)))
        received = b""
        while received.count(b'"label"') < 7:
            received += connection.recv(10_000)
    assert re.findall(rb'"label":"(\w+)"', received) == [label.encode() for label in EMOTIONS]


# Overload, and clients that are slow


def test_a_full_queue_answers_503_at_once_and_nothing_is_lost() -> None:
    model = GatedRecognizer()
    with running(model, maximum_queue=4, maximum_batch=2) as service, ThreadPoolExecutor(8) as clients:
        model.gate.clear()
        model.entered.clear()
        waiting = [clients.submit(service.ask, "POST", "/v1/face", encoded("happy"), JPEG)]
        assert model.entered.wait(10)
        waiting += [clients.submit(service.ask, "POST", "/v1/face", encoded("sad"), JPEG) for _ in range(4)]
        wait_for(lambda: service.service.batcher.waiting == 4)
        for _ in range(3):
            answer = service.ask("POST", "/v1/face", encoded("fear"), JPEG)
            assert "try later" in problem(answer, 503)
            assert answer[0].getheader("retry-after") == "1"
        assert not any(one.done() for one in waiting), "the refusals were given while all others waited"
        with service.socket() as connection:  # no need to send a body to be refused
            connection.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
        problem(service.ask("POST", "/v1/faces", *multipart(encoded("happy"))), 503)
        assert service.ask("GET", "/health")[0].status == 200, "being busy is no illness"
        assert service.metric("ferdeploy_queue_faces") == 4
        model.gate.set()
        assert [json.loads(one.result()[1])["label"] for one in waiting] == ["happy"] + ["sad"] * 4
        assert service.metric('ferdeploy_refused_total{reason="full"}') == 5
        assert service.metric("ferdeploy_held_bytes") == 0


def test_held_bytes_are_bounded_over_all_requests() -> None:
    with running(maximum_bytes=1000, maximum_held_bytes=1500) as service, service.socket() as slow:
        slow.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + bytes(900))
        wait_for(lambda: service.metric("ferdeploy_held_bytes") == 900)
        problem(service.ask("POST", "/v1/face", bytes(601)), 503)
        problem(service.ask("POST", "/v1/face", bytes(600)), 422)
        with service.socket() as unsized:
            unsized.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            unsized.sendall(b"259\r\n" + bytes(601))
            assert unsized.recv(100).startswith(b"HTTP/1.1 503 ")
        wait_for(lambda: service.metric("ferdeploy_held_bytes") == 900)
        slow.close()  # a client that leaves gives its room back
        wait_for(lambda: service.metric("ferdeploy_held_bytes") == 0)


def test_announced_bytes_do_not_block_other_requests() -> None:
    limits = {"maximum_bytes": 1000, "maximum_held_bytes": 1500}
    with running(**limits) as service, service.socket() as one, service.socket() as two:
        for idle in (one, two):
            idle.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        wait_for(lambda: service.metric("ferdeploy_requests_under_way") == 3)  # this question among them
        problem(service.ask("POST", "/v1/face", bytes(1000)), 422)


def test_a_client_that_does_not_read_its_answers_is_disconnected() -> None:
    with running(maximum_seconds=0.5, maximum_connections=3) as service:
        deaf = [service.socket() for _ in range(3)]
        try:
            for connection in deaf:
                connection.settimeout(1)
                with suppress(OSError):  # its own side is full, or it was cut off already
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000)
            wait_for(lambda: service.ask("GET", "/health")[0].status == 200)
        finally:
            for connection in deaf:
                connection.close()


def test_a_form_larger_than_the_queue_is_refused_with_400() -> None:
    with running(maximum_queue=4) as service:
        body, headers = multipart(*[encoded("happy")] * 5)
        assert "4" in problem(service.ask("POST", "/v1/faces", body, headers), 400)
        schema = json.loads(service.ask("GET", "/openapi.json")[1])
        form = schema["paths"]["/v1/faces"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["properties"]["pictures"]["maxItems"] == 4


def test_a_request_that_takes_too_long_is_answered_503() -> None:
    model = GatedRecognizer()
    with running(model, maximum_seconds=0.3) as service:
        model.gate.clear()
        assert "time limit" in problem(service.ask("POST", "/v1/face", encoded("happy"), JPEG), 503)
        assert service.metric('ferdeploy_refused_total{reason="late"}') == 1
        model.gate.set()
        assert service.ask("POST", "/v1/face", encoded("happy"), JPEG)[0].status == 200


def test_the_faces_of_a_client_that_leaves_are_removed_from_the_queue() -> None:
    model = GatedRecognizer()
    with running(model) as service, ThreadPoolExecutor(2) as clients:
        model.gate.clear()
        model.entered.clear()
        first = clients.submit(service.ask, "POST", "/v1/face", encoded("happy"), JPEG)
        assert model.entered.wait(10)
        with service.socket() as connection:
            body = encoded("sad")
            connection.sendall(
                b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            wait_for(lambda: service.service.batcher.waiting == 1)
        wait_for(lambda: service.service.batcher.waiting == 0)
        model.gate.set()
        assert first.result()[0].status == 200
        assert model.batches == [1]
        assert service.metric("ferdeploy_held_bytes") == 0


def test_slow_clients_are_disconnected() -> None:
    with running(maximum_seconds=0.4, header_seconds=0.4) as service:
        with service.socket() as silent, service.socket() as slow_head, service.socket() as slow_body:
            slow_head.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
            slow_body.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
            assert silent.recv(100) == b""
            assert slow_head.recv(100) == b""
            assert slow_body.recv(100).startswith(b"HTTP/1.1 408 ")
        with service.socket() as trickle:  # empty lines between requests do not keep a connection either
            until = time.monotonic() + 15
            try:
                while time.monotonic() < until:
                    trickle.sendall(b"\r\n")
                    time.sleep(0.05)
            except OSError:
                return
            pytest.fail("a connection without a request was kept")


def test_connections_are_bounded_and_freed() -> None:
    with running(maximum_connections=3) as service:
        held = [service.socket() for _ in range(3)]
        wait_for(lambda: len(service.service.connections) == 3)
        with service.socket() as fourth:
            assert fourth.recv(100).startswith(b"HTTP/1.1 503 ")
        for connection in held:
            connection.close()
        wait_for(lambda: not service.service.connections)
        assert service.ask("GET", "/health")[0].status == 200


def test_a_fault_is_a_500_without_internal_details(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(GatedRecognizer):
        def probabilities_of(self, faces: object) -> np.ndarray:
            raise RuntimeError("secret path")

    with running(Broken()) as service, caplog.at_level(logging.INFO, "fer_deploy.serve"):
        answer = service.ask("POST", "/v1/face", encoded("happy"), {"x-request-id": "abc-1"})
        assert "secret" not in problem(answer, 500)
        assert answer[0].getheader("x-request-id") == "abc-1"
        wait_for(lambda: caplog.records)
    (record,) = caplog.records
    assert record.fields["id"] == "abc-1"  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert "secret path" in str(record.exc_info[1])


# Metrics, logs and settings


def test_requests_are_counted_by_route_and_never_by_path(plain: Running) -> None:
    before = plain.metric('ferdeploy_faces_total{label="surprise"}') if _has(plain, "surprise") else 0
    plain.ask("POST", "/v1/face", encoded("surprise"), JPEG)
    for number in range(5):
        plain.ask("GET", f"/nothing/{number}")
        plain.ask(f"ODD{number}", "/health")
    assert plain.metric('ferdeploy_faces_total{label="surprise"}') == before + 1
    text = plain.ask("GET", "/metrics")[1].decode()
    assert "/nothing" not in text
    assert "ODD" not in text
    assert plain.metric("ferdeploy_requests_under_way") == 1  # the one that asks


def _has(service: Running, label: str) -> bool:
    return f'ferdeploy_faces_total{{label="{label}"}}' in service.ask("GET", "/metrics")[1].decode()


def test_logs_describe_requests_and_identify_nobody(plain: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fer_deploy.serve"):
        plain.ask("POST", "/v1/faces", *multipart(encoded("happy"), filename="Jane Doe.jpg"))
        plain.ask("GET", "/health", headers={"x-request-id": 'two"lines'})
        wait_for(lambda: len(caplog.records) == 2)
    lines = [JsonFormatter().format(record) for record in caplog.records]
    first, second = map(json.loads, lines)
    assert (first["event"], first["level"], first["method"], first["route"], first["status"]) == (
        "request", "info", "POST", "/v1/faces", 200,
    )  # fmt: skip
    assert first["milliseconds"] > 0
    assert re.fullmatch("[0-9a-f]{32}", second["id"]), "an odd id is not taken over"
    assert not re.search("Jane|happy|127.0.0.1", "".join(lines))
    assert "status=200" in TextFormatter().format(caplog.records[0])


def test_a_log_line_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fer_deploy.serve"):
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            event("fault", error=error, what="a\nb")
    line = JsonFormatter().format(caplog.records[0])
    assert "\n" not in line
    assert json.loads(line)["what"] == "a\nb"


def test_a_taken_port_is_one_clear_line() -> None:
    first = listen(ServiceSettings(port=0))
    port = first.getsockname()[1]
    try:
        with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1:{port}: .*another --port"):
            listen(ServiceSettings(port=port))
    finally:
        first.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_of_another_machine_is_one_clear_line(host: str) -> None:
    with pytest.raises(UnavailableError, match=f"cannot listen on {host}:0: .*: give another --host"):
        listen(ServiceSettings(host=host, port=0))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="maximum_queue"):
        ServiceSettings(maximum_queue=0)
    with pytest.raises(ValueError, match="maximum_held_bytes"):
        ServiceSettings(maximum_bytes=2, maximum_held_bytes=1)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        ServiceSettings(threads=0)


@pytest.mark.parametrize(("megabytes", "limit"), [("1", 256_000_000), ("10", 256_000_000), ("300", 300_000_000)])
def test_the_limit_on_all_bodies_is_never_below_the_limit_on_one(
    megabytes: str, limit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[ServiceSettings] = []
    monkeypatch.setattr("fer_deploy.serve.server.serve", lambda _recognizer, settings: started.append(settings))
    model = write_tiny_model(tmp_path / "tiny.onnx")
    done = CliRunner().invoke(cli, ["serve", "--model", str(model), "--megabytes", megabytes])
    assert done.exit_code == 0, done.output
    assert started[0].maximum_bytes == int(megabytes) * 1_000_000
    assert started[0].held_bytes_limit == limit


def test_the_program_has_the_defaults_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[ServiceSettings] = []
    monkeypatch.setattr("fer_deploy.serve.server.serve", lambda _recognizer, settings: started.append(settings))
    model = write_tiny_model(tmp_path / "tiny.onnx")
    assert CliRunner().invoke(cli, ["serve", "--model", str(model)]).exit_code == 0
    assert started == [ServiceSettings()]


# The program


def test_the_program_serves_and_stops_gracefully(tmp_path: object) -> None:
    model = write_tiny_model(tmp_path / "tiny.onnx")  # type: ignore[operator]
    command = [sys.executable, "-m", "fer_deploy", "serve", "--model", str(model), "--port", "0", "--drain", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            assert first["event"] == "listening"
            service = Running(None, None, int(first["url"].rpartition(":")[2]))  # type: ignore[arg-type]
            assert json.loads(process.stdout.readline())["event"] == "ready"
            assert service.ask("POST", "/v1/face", encoded("happy"), JPEG)[0].status == 200
            with service.socket() as slow:  # begun before the signal, ended after it
                body = encoded("sad")
                slow.sendall(b"POST /v1/face HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
                time.sleep(0.1)
                process.terminate()
                wait_for(lambda: service.ask("GET", "/ready")[0].status == 503)
                slow.sendall(body)
                received = b""
                while b"}" not in received:
                    received += slow.recv(2000)
                assert received.startswith(b"HTTP/1.1 200 ")
                assert b'"label":"sad"' in received
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert errors == ""
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert events[-1] == "stopped"
    assert "stopping" in events


def test_the_runtime_behind_it_never_imports_torch(tmp_path: object) -> None:
    code = (
        "import sys, fer_deploy.serve.server, fer_deploy.serve.application\n"
        "print([name for name in ('torch', 'onnx', 'pandas', 'matplotlib', 'ray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_missing_model_is_one_line() -> None:
    command = [sys.executable, "-m", "fer_deploy", "serve", "--model", "absent.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: absent.onnx: no such file\n"


def test_concurrent_requests_each_get_their_own_answer(plain: Running) -> None:
    labels = [EMOTIONS[i] for i in np.random.default_rng(2).integers(0, 7, 60)]

    def one(label: str) -> str:
        return str(json.loads(plain.ask("POST", "/v1/face", encoded(label), JPEG)[1])["label"])

    with ThreadPoolExecutor(12) as clients:
        assert list(clients.map(one, labels)) == labels
    assert threading.active_count() < 60
