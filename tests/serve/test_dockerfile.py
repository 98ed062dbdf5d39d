"""The Dockerfile, as far as it can be held to anything without an engine that builds it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from serve.conftest import running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instruction and the rest of its line, without comments, continued lines joined."""
    path = ROOT / "Dockerfile"
    if not path.exists():
        pytest.skip("the Dockerfile is in the repository alone")
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    start = max(number for number, (word, _rest) in enumerate(steps) if word == "FROM")
    return steps[start:]


def test_the_image_runs_unprivileged_and_contains_no_build_tools(steps: list[tuple[str, str]]) -> None:
    final = last_stage(steps)
    users = [rest for word, rest in final if word == "USER"]
    assert len(users) == 1
    assert all(int(number) > 0 for number in users[0].split(":"))
    assert all(rest.split()[0].endswith("-slim") for word, rest in steps if word == "FROM")
    assert not [rest for word, rest in final if word == "RUN"], "nothing is installed into the image that runs"
    after = [word for word, _rest in final[[word for word, _rest in final].index("USER") :]]
    assert "COPY" not in after, "what the user runs is not the user's to change"


def test_only_the_runtime_and_the_service_are_installed(steps: list[tuple[str, str]]) -> None:
    (install,) = [rest for word, rest in steps if word == "RUN"]
    assert re.findall(r"\[[\w,]+\]", install) == ["[serve]"]
    assert "--no-cache-dir" in install


def test_copied_files_exist_and_are_sent_to_the_builder(steps: list[tuple[str, str]]) -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert ignore[1] == "*", "everything stays out but what is named"
    copied: set[str] = set()
    for word, rest in steps:
        if word == "COPY" and not rest.startswith("--from"):
            copied |= set(rest.split()[:-1])
    assert copied == sent
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_program_accepts_the_command_of_the_image(steps: list[tuple[str, str]]) -> None:
    entry = json.loads(next(rest for word, rest in steps if word == "ENTRYPOINT"))
    more = json.loads(next(rest for word, rest in steps if word == "CMD"))
    assert entry[0] == "ferdeploy"
    command = [sys.executable, "-m", "fer_deploy", *entry[1:], *more, "--model", "absent.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "error: absent.onnx: no such file\n"
    port = entry[entry.index("--port") + 1]
    assert ("EXPOSE", port) in steps
    assert f"127.0.0.1:{port}/health" in next(rest for word, rest in steps if word == "HEALTHCHECK")


def test_the_health_check_fails_only_without_an_answer(steps: list[tuple[str, str]]) -> None:
    health = next(rest for word, rest in steps if word == "HEALTHCHECK")
    command = json.loads(health.partition("CMD ")[2])
    assert shlex.split(command[0]) == ["python"]
    with running() as service:
        code = command[2].replace("8000", str(service.port))
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 1
