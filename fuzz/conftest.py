"""Shares the time of `make fuzz` among the checks, and keeps what they write away from the user's folders."""

from __future__ import annotations

import os
from pathlib import Path

import harness
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    harness.share_time(len(items))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FERDEPLOY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    os.umask(0o022)
