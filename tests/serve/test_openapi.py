"""schemathesis, with its stock checks, against the running service: what OpenAPI says is what happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serve.conftest import running


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with running() as service:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--no-color", "--seed", "3"]
        command += ["--max-examples", "15", f"http://127.0.0.1:{service.port}/openapi.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:]
        assert "No issues found" in done.stdout
        assert "Tested: 6" in done.stdout
        assert service.metric('ferdeploy_requests_total{method="POST",route="/v1/face",status="200"}') > 0
        assert service.metric('ferdeploy_requests_total{method="POST",route="/v1/faces",status="200"}') > 0
