"""What Ray opens to others while `score` runs on one machine. Each test starts a Ray of its own in a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is absent: pip install 'fer-deploy[score]'")

_RUN = """
import json, os, subprocess, sys
from fer_deploy.score.options import WorkerOptions
from fer_deploy.score.workers import running_ray

with running_ray(WorkerOptions(workers=1), lambda text: None):
    import ray
    import psutil  # Ray brings it

    @ray.remote
    def process():
        return os.getpid()

    ray.get(process.remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == "LISTEN"]
    dashboard = ray._private.worker.global_worker.node.webui_url or ""
    address = ray.get_runtime_context().gcs_address
    ask = "import sys; from ray._raylet import GcsClient; print(GcsClient(sys.argv[1]).internal_kv_get(b'x', None, 5))"
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    answers = []
    for more in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, os.environ):
        try:
            done = subprocess.run([sys.executable, "-c", ask, address], env=others | dict(more), capture_output=True,
                                  text=True, timeout=20)
            answers.append(done.returncode == 0)
        except subprocess.TimeoutExpired:
            answers.append(False)
    print(json.dumps({"listening": listening, "dashboard": dashboard, "answers": answers}))
"""


def test_ray_on_one_machine_is_closed_to_others(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_ADDRESS": "192.0.2.1:6379"}  # a cluster that must not be used
    done = subprocess.run([sys.executable, "-c", _RUN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["listening"]) >= 5, "Ray listens, and the test sees where"
    addresses = {ip_address(text.removeprefix("::ffff:")) for text in report["listening"]}
    assert all(address.is_loopback for address in addresses), addresses
    assert report["dashboard"] == "", "Ray's dashboard is off"
    assert report["answers"] == [False, False, True], "without a token, with another token, with the run's own"
    assert list(tmp_path.iterdir()) == [], "no token and no usage statistics are stored in the home folder"
