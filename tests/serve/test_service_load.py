"""The load test with few requests: it measures what it reports, and the service holds."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import service_load
from drawn_faces import encoded_faces
from tiny_model import tiny_model, write_tiny_model

from fer_deploy import Recognizer
from fer_deploy.errors import MeasurementError
from serve.conftest import GatedRecognizer, running


def test_direct_calls_are_counted() -> None:
    row = service_load.measure_direct(
        Recognizer(tiny_model(), threads=1), encoded_faces(8), threads=2, batch=4, seconds=0.2
    )
    assert row.requests > 1
    assert row.faces_per_second == pytest.approx(row.requests * 4 / 0.2, rel=0.5)


def test_under_load_every_request_is_answered_and_overload_is_only_refused() -> None:
    requests = [service_load.post(content) for content in encoded_faces(32)]
    with running(GatedRecognizer(), maximum_queue=8, maximum_batch=4, threads=2) as service:
        few = asyncio.run(service_load.measure_service(service.port, requests, clients=4, seconds=0.4, what="few"))
        many = asyncio.run(service_load.measure_service(service.port, requests, clients=60, seconds=0.8, what="many"))
        faces = sum(
            service.metric(line.rpartition(" ")[0])
            for line in service.ask("GET", "/metrics")[1].decode().splitlines()
            if line.startswith("ferdeploy_faces_total{")
        )
        assert service.metric("ferdeploy_queue_faces") == 0
        assert service.metric("ferdeploy_held_bytes") == 0
    assert few.statuses == {"200": few.requests}
    assert set(many.statuses) == {"200", "503"}
    assert faces == few.statuses["200"] + many.statuses["200"], "an answer for each face, a face for each answer"


def test_several_faces_a_request() -> None:
    requests = [service_load.post_many(encoded_faces(6))]
    with running() as service:
        row = asyncio.run(
            service_load.measure_service(service.port, requests, clients=2, seconds=0.2, what="many", faces=6)
        )
    assert row.statuses == {"200": row.requests}


def test_a_hanging_service_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_load, "HANGS_AFTER_SECONDS", 0.3)
    model = GatedRecognizer()
    with running(model) as service:
        model.gate.clear()
        try:
            with pytest.raises(MeasurementError, match="gated: a request hangs"):
                asyncio.run(
                    service_load.measure_service(
                        service.port, [service_load.post(encoded_faces(1)[0])], clients=2, seconds=0.5, what="gated"
                    )
                )
        finally:
            model.gate.set()


def test_the_program_reports(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.onnx")
    command = [sys.executable, service_load.__file__, "--model", str(model), "--seconds", "0.2"]
    command += ["--soak", "1", "--threads", "1", "--json", str(tmp_path / "load.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "memory over 1 s" in done.stdout
    figures = json.loads((tmp_path / "load.json").read_text())
    assert len(figures["rows"]) == 10
    assert len(figures["memory_megabytes"]) >= 5
    for row in figures["rows"][3:8]:
        assert set(row["statuses"]) == {"200"}
    assert set(figures["rows"][9]["statuses"]) <= {"200", "422", "503"}


def test_memory_over_time_is_measured_with_all_kinds_of_requests_at_the_given_rate() -> None:
    requests = service_load.mixed(encoded_faces(40))
    with running(threads=2, maximum_queue=64) as service:
        row, samples = asyncio.run(service_load.measure_memory(service.port, requests, clients=4, seconds=1.5, rate=60))
    assert set(row.statuses) == {"200", "422"}
    assert 20 <= row.requests <= 96  # 90, less where the machine has other work
    assert len(samples) >= 10
    assert all(20 < sample < 5000 for sample in samples)
