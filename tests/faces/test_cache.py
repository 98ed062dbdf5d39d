"""The cache: quick when it is right, made again when it is not, done without when it cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_deploy.errors import DataError
from fer_deploy.faces import cache
from fer_deploy.faces.cache import cached
from fer_deploy.faces.dataset import SPLITS, Faces
from fer_deploy.faces.source import SourceFaces
from fer_deploy.machine import cache_folder


class Reader:
    """Counts how often it is asked."""

    def __init__(self, splits: dict[str, Faces]) -> None:
        self.asked = 0
        self.splits = splits

    def __call__(self) -> SourceFaces:
        self.asked += 1
        return SourceFaces(self.splits, ("read by hand",))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "faces"


@pytest.fixture
def reader(small_splits: dict[str, Faces]) -> Reader:
    training = small_splits["training"]
    votes = np.arange(len(training) * 10, dtype=np.int64).reshape(-1, 10).astype(np.uint8)
    return Reader(small_splits | {"training": Faces(training.images, training.labels, training.rows, votes)})


def same(found: SourceFaces, wanted: SourceFaces) -> bool:
    def parts(faces: Faces) -> list[bytes | None]:
        return [
            None if part is None else part.tobytes() for part in (faces.images, faces.labels, faces.rows, faces.votes)
        ]

    return found.notes == wanted.notes and all(parts(found.splits[s]) == parts(wanted.splits[s]) for s in SPLITS)


def test_the_second_time_is_not_read_and_is_the_same(reader: Reader) -> None:
    first, second = cached("key", reader), cached("key", reader)
    assert reader.asked == 1
    assert same(second, first)
    assert second.splits["test"].votes is None


def test_another_source_is_read(reader: Reader) -> None:
    cached("key", reader)
    cached("other key", reader)
    assert reader.asked == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("not a cache")


def other_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, something=np.zeros(3))


def wrong_shape(path: Path) -> None:
    with np.load(path) as arrays:
        content = dict(arrays)
    content["test.labels"] = content["test.labels"] + 7
    with path.open("wb") as file:
        np.savez(file, **content)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path, str]]:
        return Path.write_text, (self.path, "caught")


def pickled(path: Path) -> None:
    trap = np.array([Trap(path.parent / "trap")], dtype=object)
    with path.open("wb") as file:
        np.savez(
            file, **{f"{split}.{part}": trap for split in SPLITS for part in ("images", "labels", "rows", "votes")}
        )


@pytest.mark.parametrize("damage", [cut, flip_a_pixel, emptied, text, other_arrays, wrong_shape, pickled])
def test_a_damaged_file_is_made_again(reader: Reader, folder: Path, damage: Callable[[Path], None]) -> None:
    whole = cached("key", reader)
    (path,) = folder.glob("*.npz")
    damage(path)
    assert same(cached("key", reader), whole)
    assert same(cached("key", reader), whole)
    assert reader.asked == 2
    assert not (folder / "trap").exists()


def test_a_new_format_reads_anew(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    cached("key", reader)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    cached("key", reader)
    assert reader.asked == 2


def test_a_folder_that_cannot_be_written_is_done_without(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "file" / "cache"))
    assert same(cached("key", reader), reader())
    assert cached("key", reader).splits.keys() == set(SPLITS)
    assert reader.asked == 3


def test_what_fails_leaves_nothing_behind(folder: Path) -> None:
    def fail() -> SourceFaces:
        raise DataError("row 7")

    with pytest.raises(DataError, match="row 7"):
        cached("key", fail)
    assert not list(folder.glob("*"))


def test_the_least_used_goes_when_there_is_too_much(
    reader: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    cached("first", reader)
    (first,) = folder.glob("*.npz")
    monkeypatch.setattr(cache, "LARGEST", first.stat().st_size * 5 // 2)
    os.utime(first, (1, 1))
    cached("second", reader)
    (second,) = set(folder.glob("*.npz")) - {first}
    os.utime(second, (2, 2))
    cached("first", reader)  # used again, so that the second is the oldest
    cached("third", reader)
    assert first.exists()
    assert not second.exists()
    assert len(list(folder.glob("*.npz"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")
def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERDEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/ferdeploy")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ferdeploy"
