"""The cache: quick when it is right, made again when it is not, done without when it cannot be."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_deploy.errors import DataError
from fer_deploy.faces import cache
from fer_deploy.faces.cache import Kept, Write, stored
from fer_deploy.machine import cache_folder


class Builder:
    """Writes 3,000 bytes in three parts, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, write: Write) -> dict[str, np.ndarray[Any, Any]]:
        self.asked += 1
        for value in (1, 2, 3):
            write(np.full((10, 10, 10), value, np.uint8))
        return {"labels": np.array([4, 5]), "names": np.frombuffer("zwölf".encode(), np.uint8)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "faces"


@pytest.fixture
def builder() -> Builder:
    return Builder()


def is_right(entry: Kept) -> bool:
    wanted = np.repeat(np.array([1, 2, 3], np.uint8), 1000)
    return np.array_equal(entry.pixels, wanted) and entry.arrays["labels"].tolist() == [4, 5]


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_the_second_time_is_not_built_and_is_the_same(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY", in_memory)
    first, second = stored("key", builder), stored("key", builder)
    assert builder.asked == 1
    assert is_right(first)
    assert is_right(second)
    assert isinstance(second.pixels, np.memmap) == (in_memory == 0)
    assert first.notes == second.notes == ()


def test_another_key_is_built(builder: Builder) -> None:
    stored("key", builder)
    stored("other key", builder)
    assert builder.asked == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_at_the_front(path: Path) -> None:
    path.write_bytes(path.read_bytes()[100:])


def flip_a_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1234] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_the_arrays(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(np.array([4, 5]).tobytes())] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("not a cache")


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path, str]]:
        return Path.write_text, (self.path, "caught")


def pickled(path: Path) -> None:
    trap = np.array([Trap(path.parent / "trap")], dtype=object)
    content = io.BytesIO()
    np.savez(content, **{"labels": trap, "pixel bytes": trap, "checksum": trap})  # type: ignore[arg-type]
    path.write_bytes(content.getvalue() + b"ferfaces" + content.tell().to_bytes(8, "little"))


@pytest.mark.parametrize(
    "damage", [cut, cut_at_the_front, flip_a_pixel, flip_a_bit_of_the_arrays, emptied, text, pickled]
)
def test_a_damaged_file_is_made_again(builder: Builder, folder: Path, damage: Callable[[Path], None]) -> None:
    stored("key", builder)
    (path,) = folder.glob("*.faces")
    damage(path)
    assert is_right(stored("key", builder))
    assert is_right(stored("key", builder))
    assert builder.asked == 2
    assert not (folder / "trap").exists()


@pytest.mark.parametrize("damage", [cut, cut_at_the_front, flip_a_bit_of_the_arrays])
def test_a_damaged_mapped_file_is_made_again(
    builder: Builder, folder: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY", 0)
    test_a_damaged_file_is_made_again(builder, folder, damage)


def test_a_new_format_builds_again(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    stored("key", builder)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    stored("key", builder)
    assert builder.asked == 2


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_a_folder_that_cannot_be_written_is_done_without_and_named(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY", in_memory)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        entry = stored("key", builder)
        assert is_right(entry)
        assert "the cache cannot be written (Not a directory)" in entry.notes[0]
    assert builder.asked == 2


def full_disk(monkeypatch: pytest.MonkeyPatch, *, room: int) -> None:
    """Files of the cache can be written up to `room` bytes in all; temporary ones cannot be made."""
    left = [room]
    write = cache._PixelWriter._write

    def limited(self: cache._PixelWriter, content: memoryview) -> None:
        if len(content) > left[0]:

            class Full(io.RawIOBase):
                def write(self, _content: object, /) -> int:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            file, self._file = self._file, Full()
            room_made = self._make_room

            def make_room() -> bool:
                self._file = file if (made := room_made()) else self._file
                left[0] += room if made else 0
                return made

            self._make_room = make_room
        left[0] -= len(content)
        write(self, content)

    monkeypatch.setattr(cache._PixelWriter, "_write", limited)

    def none(**_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", none)


def test_on_a_full_disk_memory_holds_the_pictures(
    builder: Builder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, room=2500)
    entry = stored("key", builder)
    assert is_right(entry)
    assert "No space left on device" in entry.notes[0]
    assert not list(folder.glob("*.faces"))
    assert not list(folder.glob(".*.partial"))


def test_where_memory_is_short_too_it_is_an_error(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, room=2500)
    monkeypatch.setattr(cache, "memory_bytes", lambda: 5000)
    with pytest.raises(DataError, match=r"fit neither on the disk of the cache.*FERDEPLOY_CACHE"):
        stored("key", builder)


def test_on_a_full_disk_old_files_of_the_cache_make_room(
    builder: Builder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored("old", builder)
    full_disk(monkeypatch, room=2500)
    entry = stored("key", builder)
    assert is_right(entry)
    assert entry.notes == ()
    assert len(list(folder.glob("*.faces"))) == 1


@pytest.mark.parametrize("error", [DataError("row 7"), OSError(errno.EIO, "the source"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing_behind(folder: Path, error: BaseException) -> None:
    def fail(write: Write) -> dict[str, np.ndarray[Any, Any]]:
        write(np.zeros(1000, np.uint8))
        raise error

    with pytest.raises(type(error)) as caught:
        stored("key", fail)
    assert caught.value is error
    assert not [path for path in folder.glob("*") if path.suffix != ".lock"]
    assert not list(folder.glob(".*"))


def test_the_least_used_goes_when_there_is_too_much(
    builder: Builder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored("first", builder)
    (first,) = folder.glob("*.faces")
    monkeypatch.setattr(cache, "LEAST", first.stat().st_size * 5 // 2)
    monkeypatch.setattr(cache, "SHARE_OF_DISK", 1 << 60)
    os.utime(first, (1, 1))
    stored("second", builder)
    (second,) = set(folder.glob("*.faces")) - {first}
    os.utime(second, (2, 2))
    stored("first", builder)  # used again, so that the second is the oldest
    stored("third", builder)
    assert first.exists()
    assert not second.exists()
    assert len(list(folder.glob("*.faces"))) == 2


def test_files_of_earlier_versions_go_first(builder: Builder, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    old = folder / "old.npz"
    old.write_bytes(bytes(5000))
    os.utime(old, (1, 1))
    monkeypatch.setattr(cache, "LEAST", 5000)
    monkeypatch.setattr(cache, "SHARE_OF_DISK", 1 << 60)
    stored("key", builder)
    assert not old.exists()


def test_two_that_need_the_same_build_it_once(folder: Path) -> None:
    both_here = threading.Barrier(2, timeout=20)
    asked = []

    def slow(write: Write) -> dict[str, np.ndarray[Any, Any]]:
        asked.append(1)
        time.sleep(0.2)
        write(np.zeros(10, np.uint8))
        return {}

    def need() -> None:
        both_here.wait()
        assert len(stored("key", slow).pixels) == 10

    threads = [threading.Thread(target=need) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed in another way")
def test_what_a_killed_process_left_is_removed(builder: Builder, folder: Path) -> None:
    code = (
        "import sys, numpy as np, time\n"
        "from fer_deploy.faces.cache import stored\n"
        "def build(write):\n"
        "    write(np.zeros(500, np.uint8)); print('writing', flush=True); time.sleep(60)\n"
        "stored('key', build)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(list(folder.glob(".*.partial"))) == 1
    assert is_right(stored("key", builder))
    assert not list(folder.glob(".*.partial"))


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")
def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERDEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/ferdeploy")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ferdeploy"
