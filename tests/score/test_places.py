"""The same operations on a local folder and, through pyarrow, on a store; the store here is a local file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fer_deploy.errors import DataError
from fer_deploy.folders import LeftOut
from fer_deploy.score.places import Place


@pytest.fixture(params=["local", "pyarrow", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder, as a path, as an address that pyarrow opens, and in an S3 bucket."""
    folder = tmp_path / "data"
    folder.mkdir()
    if request.param == "s3":
        return Place(request.getfixturevalue("s3_bucket").format(f"{tmp_path.name}/data"))
    return Place(str(folder) if request.param == "local" else f"file://{folder}")


def inside(place: Place, name: str) -> Place:
    location, mark, options = place.address.partition("?")
    return Place(f"{location}/{name}{mark}{options}")


def test_a_file_is_written_read_and_deleted(place: Place) -> None:
    assert not place.exists("sub/a.bin")
    place.write("sub/a.bin", b"123")
    assert place.exists("sub/a.bin")
    assert place.stat(b"sub/a.bin").size == 3
    assert place.read(b"sub/a.bin", maximum_bytes=3) == b"123"
    with place.open("sub/a.bin") as stream:
        stream.seek(1)
        assert stream.read() == b"23"
    place.write("sub/a.bin", b"4")
    assert place.read(b"sub/a.bin", maximum_bytes=3) == b"4"
    assert place.kind() == "folder"
    assert inside(place, "sub").names("") == ["a.bin"], "no temporary file remains"
    place.delete("sub/a.bin")
    place.delete("sub/a.bin")
    assert not place.exists("sub/a.bin")


def test_a_file_is_written_whole_or_not_at_all(place: Place) -> None:
    def interrupted() -> None:
        with place.writing("a.bin") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert place.names("") == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: cannot be written: a folder"):
        Place.of(str(tmp_path)).write("folder", b"x")


def test_files_that_cannot_be_read_are_refused(place: Place) -> None:
    place.write("large.bin", bytes(11))
    place.write("empty.bin", b"")
    for name, words in (("absent.bin", "absent.bin: "), ("large.bin", "more than"), ("empty.bin", "empty")):
        with pytest.raises(DataError, match=words) as caught:
            place.read(name.encode(), maximum_bytes=10)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="absent"):
        place.stat(b"absent.bin")


@pytest.mark.parametrize(
    ("beginning", "name"),
    [("", "loop/a.bin"), ("", "x" * 300), ("file://", "x" * 300)],
    ids=["loop", "local", "pyarrow"],
)
def test_a_file_that_cannot_be_looked_for_is_not_taken_for_absent(beginning: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=f"{name}: ") as caught:
        Place(f"{beginning}{tmp_path}").exists(name)
    assert "\n" not in str(caught.value)


def test_both_kinds_of_place_are_searched_by_the_same_rule(place: Place) -> None:
    for name in ("b.png", "A.PNG", "_MG_1.png", "sub/_DSC1.png", "sub/deep/c.png", "_selects/d.png", "a.txt",
                 ".hidden.png", "@eaDir/b.png/THUMB.png", "__MACOSX/._b.png", "Thumbs.db", "noending", "_SUCCESS",
                 "_summary.json", "_metadata", "_plan/x.png", "sub/.git/e.png"):  # fmt: skip
        place.write(name, b"x")
    left_out = LeftOut()
    names = [os.fsdecode(entry.name) for entry in place.walk((b".png",), left_out)]
    assert names == ["A.PNG", "_MG_1.png", "b.png", "_selects/d.png", "sub/_DSC1.png", "sub/deep/c.png"]
    assert left_out.counts == {
        "hidden": 2, "@eaDir": 1, "__MACOSX": 1, "Thumbs.db": 1, "*.txt": 1, "without an ending": 1, "_SUCCESS": 1,
        "_summary.json": 1, "_metadata": 1, "_plan": 1,
    }  # fmt: skip
    assert left_out.problems == []


def test_names_of_a_folder_are_sorted_and_a_missing_folder_has_none(place: Place) -> None:
    for name in ("part-2", "part-1", "other"):
        place.write(name, b"x")
    assert place.names("part-") == ["part-1", "part-2"]
    assert inside(place, "absent").names("part-") == []


def test_a_place_contains_itself_and_what_lies_inside_it(place: Place) -> None:
    assert place.contains(place)
    assert place.contains(inside(place, "sub"))
    assert not inside(place, "sub").contains(place)
    assert not inside(place, "sub").contains(inside(place, "sub2"))
    assert not place.contains(Place("/elsewhere"))


def test_passwords_and_options_of_an_address_are_not_shown() -> None:
    place = Place.of("s3://user:secret@bucket/a/?region=us-east-1&scheme=http")
    assert str(place) == "s3://bucket/a"
    assert place.path("b.png") == "s3://bucket/a/b.png"
    assert place.public_address == "s3://bucket/a?region=us-east-1&scheme=http"
    with pytest.raises(DataError, match="gopher://host/x: not a known kind of address") as caught:
        Place.of("gopher://user:secret@host/x")
    assert "secret" not in str(caught.value)
