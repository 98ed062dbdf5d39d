"""Create a peer's environment: a virtual environment or a folder of Node packages in the user's cache folder.

Nothing is installed unless a peer is requested. A complete environment gets a mark, so that an interrupted installation
is not mistaken for a finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fer_deploy.bench.peers import Peer
from fer_deploy.errors import UnavailableError, one_line
from fer_deploy.machine import cache_folder

NEEDED_BYTES = 8_000_000_000
"""Free disk space needed for an environment: TensorFlow and PyTorch take 2 to 6 GB unpacked."""

COMPLETE = "complete.json"
"""Written into an environment last; without it the environment is created again."""


def environment_folder(peer: Peer) -> Path:
    """The folder of a peer's environment; its name depends on the peer's packages and on this Python."""
    content = json.dumps(
        [peer.packages, peer.requirements, sys.version_info[:2] if peer.language == "python" else None]
    )
    cache = cache_folder()
    if cache is None:
        raise UnavailableError("there is no folder for peers' environments: name one with FERDEPLOY_CACHE")
    return cache / "peers" / f"{peer.name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def prepare(peer: Peer, *, tell: Callable[[str], None] | None = None) -> list[str]:
    """Create the peer's environment unless it exists; returns the command that runs its worker.

    Raises:
        UnavailableError: there is no Node or too little disk space, or the installation failed; the message has the
            reason.
    """
    folder = environment_folder(peer)
    if not (folder / COMPLETE).is_file():
        if tell:
            tell(f"installing {peer.name} {peer.version} into {folder} (once)")
        _make(peer, folder)
    worker = Path(__file__).parent / "workers" / peer.worker
    return [*_runner(peer, folder), str(worker), str(folder)]


def _make(peer: Peer, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if peer.language == "python" and free < NEEDED_BYTES:
        raise UnavailableError(
            f"absent: {peer.name} needs {NEEDED_BYTES / 1e9:.0f} GB in {folder.parent}, {free / 1e9:.1f} GB are free"
        )
    shutil.rmtree(folder, ignore_errors=True)  # remains of an interrupted installation
    # a virtual environment contains its own path, so it cannot be moved into place: the mark shows that it is complete
    folder.mkdir()
    try:
        if peer.language == "python":
            _make_python(peer, folder)
        else:
            _make_node(peer, folder)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(folder)
        raise
    (folder / COMPLETE).write_text(json.dumps({"peer": peer.name, "version": peer.version}), encoding="utf-8")


def _make_python(peer: Peer, folder: Path) -> None:
    _install(peer, [sys.executable, "-m", "venv", str(folder)])
    pip = [str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    _install(peer, [*pip, *peer.requirements])
    _install(peer, [*pip, "--no-deps", *peer.packages])


def _make_node(peer: Peer, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise UnavailableError(f"absent: {peer.name} needs Node with npm")
    (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
    options = ["--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    _install(peer, [npm, "install", *options, *peer.packages, *peer.requirements])


def _install(peer: Peer, command: Sequence[str]) -> None:
    with tempfile.TemporaryFile() as errors:
        code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=errors, check=False).returncode
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if code != 0:
        reason = next(
            (line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no message"
        )
        raise UnavailableError(f"absent: {peer.name} could not be installed: {one_line(reason)}")


def _runner(peer: Peer, folder: Path) -> list[str]:
    if peer.language == "python":
        return [str(_python(folder)), "-I"]
    node = shutil.which("node")
    if node is None:
        raise UnavailableError(f"absent: {peer.name} needs Node")
    return [node]


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
