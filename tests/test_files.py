from __future__ import annotations

import os
import socket
import stat
import tracemalloc
from pathlib import Path

import pytest

from fer_deploy.errors import DataError, RecipeError, RunError
from fer_deploy.files import open_regular, parse_json, read_file, read_json, read_text, read_toml, shown, write_text


class TestWriting:
    @pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
    def test_written_files_have_the_mode_of_the_users_other_files(self, tmp_path: Path, mask: int, mode: int) -> None:
        """The temporary file is the writer's alone (0600); a container's user must be able to read a model."""
        before = os.umask(mask)
        try:
            write_text(tmp_path / "a.txt", "a")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode

    @pytest.mark.parametrize("kind", ["folder", "named pipe"])
    def test_only_files_are_replaced(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        if kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
        with pytest.raises(FileExistsError, match=rf"a {kind}, which a file would replace: .*report\.json"):
            write_text(path, "{}")
        assert not path.is_file()
        assert [file.name for file in tmp_path.iterdir()] == ["report.json"]

    def test_devices_are_not_replaced(self) -> None:
        with pytest.raises(FileExistsError, match="a device, which a file would replace: '/dev/null'"):
            write_text(Path("/dev/null"), "{}")

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a.txt", "old")
        with pytest.raises(UnicodeEncodeError):
            write_text(tmp_path / "a.txt", "\ud800")
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
        assert read_text(tmp_path / "a.txt") == "old"


class TestOpening:
    def test_folders_pipes_devices_and_sockets_are_refused_without_waiting(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        os.mkfifo("pipe")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
            for path, words in (
                (".", "a folder, not a model"),
                ("/dev/zero", "a device, not a model"),
                ("pipe", "a named pipe, not a model"),
                ("socket", "a socket, not a file"),
            ):
                with pytest.raises(DataError, match=words):
                    open_regular(path, what="model")

    def test_links_are_followed_and_broken_ones_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        (tmp_path / "c").symlink_to("nothing")
        (tmp_path / "real").write_bytes(b"content")
        (tmp_path / "d").symlink_to("real")
        with pytest.raises(DataError, match="a symbolic link that leads back to itself"):
            open_regular(tmp_path / "a")
        with pytest.raises(DataError, match="a symbolic link to nothing"):
            open_regular(os.fsencode(tmp_path / "c"))
        with open_regular(tmp_path / "d") as file:
            assert file.read() == b"content"

    def test_the_class_of_error_is_the_callers(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"run\.json: no such file"):
            open_regular(tmp_path / "run.json", error=RunError)

    def test_permission_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(DataError, match=r"a\.jpg: cannot be read: permission denied"):
            open_regular(tmp_path / "a.jpg")

    @pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
    def test_impossible_names(self, name: str) -> None:
        with pytest.raises(DataError, match="cannot be read"):
            open_regular(name)


class TestReading:
    def test_empty_and_large_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"")
        with pytest.raises(DataError, match=r"a: the file is empty \(0 bytes\)"):
            read_file(tmp_path / "a", maximum_bytes=10)
        (tmp_path / "a").write_bytes(b"0123456789")
        assert read_file(tmp_path / "a", maximum_bytes=10) == b"0123456789"
        with pytest.raises(DataError, match="10 bytes, more than the 9 bytes that a list may have"):
            read_file(tmp_path / "a", maximum_bytes=9, what="list")

    def test_a_file_that_grows_is_not_read_beyond_the_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "growing"
        path.write_bytes(b"short")
        before = path.stat()

        def grow(_: int) -> os.stat_result:
            os.truncate(path, 64 << 20)
            return before

        monkeypatch.setattr(os, "fstat", grow)
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match="more than the 1,000 bytes that a file may have"):
                read_file(path, maximum_bytes=1000)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    def test_a_file_that_states_no_size_is_read_up_to_the_limit(self) -> None:
        assert b"[" in read_file("/proc/self/maps", maximum_bytes=1 << 20)
        with pytest.raises(DataError, match="more than the 100 bytes"):
            read_file("/proc/self/maps", maximum_bytes=100)


class TestJsonAndToml:
    def test_values_come_back(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, "\xc3\xbc"]}')  # with a byte order mark
        assert read_json(tmp_path / "a.json", what="record") == {"a": [1, "ü"]}
        (tmp_path / "b.json").write_text('{"a": "ü"}', encoding="utf-16")  # as PowerShell writes it
        assert read_json(tmp_path / "b.json", what="record") == {"a": "ü"}
        (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
        assert read_toml(tmp_path / "a.toml", what="recipe") == {"a": 1}

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"[" * 200_000, "nested too deep"),
            (b'{"a":' * 200_000, "nested too deep"),
            (b"{", "not JSON: "),
            (b"\xff{}", "not UTF-8 text: byte 0 is 0xff"),
            (b"\xff\xfe{", "not UTF-16 text: byte"),
            (b"NaN", "NaN is no JSON number"),
            (b'{"a": -Infinity}', "-Infinity is no JSON number"),
            (b"1" * 5000, "not JSON: "),
            (b"", "the file is empty"),
            (b" " * 101, "more than the 100 bytes that a record may have"),
        ],
    )
    def test_damaged_json_is_one_line(self, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(content)
        limit = 100 if "100 bytes" in words else 1 << 24
        with pytest.raises(RunError, match=words) as caught:
            read_json(path, what="record", maximum_bytes=limit)
        assert str(caught.value).startswith(str(path))
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"a = " + b"[" * 20_000, "nested too deep"),
            (b"a = ", "not a valid recipe in TOML: "),
            (b"\xff", "not UTF-8 text"),
            (b"a = " + b"1" * 5000, "not a valid recipe in TOML: "),
        ],
    )
    def test_damaged_toml_is_one_line(self, tmp_path: Path, content: bytes, words: str) -> None:
        (tmp_path / "a.toml").write_bytes(content)
        with pytest.raises(RecipeError, match=words) as caught:
            read_toml(tmp_path / "a.toml", what="recipe")
        assert len(str(caught.value).splitlines()) == 1

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "run.json")
        with pytest.raises(RunError, match="a named pipe, not a run record"):
            read_json(tmp_path / "run.json", what="run record")

    def test_json_in_memory(self) -> None:
        assert parse_json("[1]", source="metadata", what="list") == [1]
        with pytest.raises(DataError, match="metadata: damaged list: not JSON"):
            parse_json("[1", source="metadata", what="list", error=DataError)


def test_names_are_shown_on_one_line(tmp_path: Path) -> None:
    assert shown("Grüße 写真.jpg") == "Grüße 写真.jpg"
    assert shown("a\nb\x1b[31m\u202e.jpg") == "a\\x0ab\\x1b[31m\\x202e.jpg"
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with pytest.raises(DataError) as caught:
        open_regular(name)
    assert str(caught.value).endswith("caf\\xe9.jpg: no such file")
    str(caught.value).encode("utf-8")  # it can be printed
