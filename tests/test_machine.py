from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fer_deploy import machine


def test_facts_about_this_machine() -> None:
    assert machine.processor_name()
    assert set(machine.processor_features()) <= set(machine.INSTRUCTIONS)
    assert 1 <= machine.available_cores() <= (os.cpu_count() or 1)
    memory, peak = machine.memory_bytes(), machine.peak_memory_bytes()
    assert memory is not None
    assert peak is not None
    assert 1 << 20 < peak < memory


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 sse avx512f\n", "Some CPU", ["avx2", "avx512f"]),
        ("Model\t\t: Some Board\nFeatures\t: fp asimd sve\n", "Some Board", ["asimd", "sve"]),
    ],
)
def test_processors_of_both_kinds_are_read(
    text: str, name: str, features: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert machine.processor_name() == name
    assert machine.processor_features() == features


def test_a_system_that_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert machine.processor_name()
    assert machine.processor_features() == []


class TestCacheFolder:
    @pytest.fixture(autouse=True)
    def without_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("FERDEPLOY_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)

    def test_the_variable_of_ferdeploy_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FERDEPLOY_CACHE", "/x")
        monkeypatch.setenv("XDG_CACHE_HOME", "/y")
        assert machine.cache_folder() == Path("/x")

    @pytest.mark.parametrize(
        ("platform", "variable", "folder"),
        [
            ("linux", None, "/home/a/.cache/ferdeploy"),
            ("linux", "XDG_CACHE_HOME", "/named/ferdeploy"),
            ("darwin", None, "/home/a/Library/Caches/ferdeploy"),
            ("win32", None, "/home/a/AppData/Local/ferdeploy"),
            ("win32", "LOCALAPPDATA", "/named/ferdeploy"),
        ],
    )
    def test_each_system_has_its_own_place(
        self, platform: str, variable: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(Path, "home", lambda: Path("/home/a"))
        if variable:
            monkeypatch.setenv(variable, "/named")
        assert machine.cache_folder() == Path(folder)

    def test_a_user_without_a_home_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", fail)
        assert machine.cache_folder() is None
