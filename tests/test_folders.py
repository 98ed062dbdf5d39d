from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fer_deploy.folders import LeftOut, walk


def names(folder: Path, left_out: LeftOut | None = None, **options: object) -> list[str]:
    return [file.name for file in walk(folder, LeftOut() if left_out is None else left_out, **options)]  # type: ignore[arg-type]


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_one_rule_for_hidden_files_underscores_links_and_litter(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    fill(tmp_path, "elsewhere/x.jpg")
    fill(
        folder,
        "a.jpg",
        ".b.jpg",
        "_c.jpg",
        "._e.jpg",
        "sub/d.jpg",
        "Thumbs.db",
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    )
    fill(
        folder,
        "__MACOSX/._a.jpg",
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "$RECYCLE.BIN/z.jpg",
        "notes.TXT",
        "README",
    )
    fill(folder, "b.HEIC", "c.heic")
    (folder / "link").symlink_to("../elsewhere")
    left_out = LeftOut()
    assert names(folder, left_out, suffixes={".jpg"}) == ["_c.jpg", "a.jpg", "sub/d.jpg", "link/x.jpg"]
    assert str(left_out) == (
        "left out: 3 hidden, 2 *.heic (save as JPEG), 1 $RECYCLE.BIN, 1 *.txt, 1 @eaDir, 1 Thumbs.db, 1 __MACOSX, "
        "1 without an ending"
    )


def test_files_come_before_subfolders_in_the_order_of_their_names(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.jpg", "b/10.jpg", "a/1.jpg", "z.jpg", "B.jpg", "ü.jpg", "a/c/3.jpg")
    assert names(tmp_path) == ["B.jpg", "z.jpg", "ü.jpg", "a/1.jpg", "a/c/3.jpg", "b/10.jpg", "b/2.jpg"]


def test_loops_of_links_end_and_real_folders_keep_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    fill(folder, "m/a.jpg", "z/b.jpg")
    (folder / "a-link").symlink_to("z")  # comes first by name, but the real folder's name counts
    (folder / "m" / "loop").symlink_to("..")
    (folder / "up").symlink_to("../..")
    (tmp_path / "beside.jpg").write_bytes(b"x")
    left_out = LeftOut()
    assert names(folder, left_out) == ["m/a.jpg", "z/b.jpg"]
    assert left_out.counts == {"link to a folder that is read already": 2, "link to a folder above": 1}


def test_a_loop_between_linked_folders_ends(tmp_path: Path) -> None:
    fill(tmp_path, "one/a.jpg", "two/b.jpg", "photos/c.jpg")
    (tmp_path / "one" / "to-two").symlink_to("../two")
    (tmp_path / "two" / "to-one").symlink_to("../one")
    (tmp_path / "photos" / "link").symlink_to("../one")
    assert names(tmp_path / "photos") == ["c.jpg", "link/a.jpg", "link/to-two/b.jpg"]


def test_folders_of_results_are_not_entered(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "out/b.jpg")
    (tmp_path / "same").symlink_to("out")
    left_out = LeftOut()
    assert names(tmp_path, left_out, except_in=[tmp_path / "out", tmp_path / "absent"]) == ["a.jpg"]
    assert left_out.counts == {"folder of results": 2}


def test_pipes_and_sockets_are_counted_and_broken_links_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jpg")
    Path("loop.jpg").symlink_to("loop.jpg")
    Path("none.jpg").symlink_to("nothing")
    fill(tmp_path, "a.jpg")
    left_out = LeftOut()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        found = list(walk(".", left_out))
    assert [file.name for file in found] == ["a.jpg", "loop.jpg", "none.jpg"]
    assert [file.status() is None for file in found] == [False, True, True]
    assert found[0].path == Path("a.jpg")
    assert left_out.counts == {"named pipe": 1, "socket": 1}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102  a path of bytes
    with open(folder + b"/\xff.jpg", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    (found,) = walk(folder, LeftOut())
    assert os.fsencode(found.name) == b"\xff.jpg"
    assert found.path.read_bytes() == b"x"
    (found,) = walk(tmp_path, LeftOut())
    assert os.fsencode(found.name) == b"caf\xe9/\xff.jpg"


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    list_folder = os.scandir

    def refuse(place: str) -> object:
        if place.endswith("a"):
            raise PermissionError(13, "Permission denied")
        return list_folder(place)

    monkeypatch.setattr(os, "scandir", refuse)
    left_out = LeftOut()
    assert names(tmp_path, left_out) == ["b/2.jpg"]
    assert left_out.problems == [f"{tmp_path}/a: cannot be searched: Permission denied"]


def test_a_long_list_of_reasons_is_cut() -> None:
    left_out = LeftOut()
    assert str(left_out) == ""
    for number in range(20):
        left_out.add_file(f"a.{number:02}")
    left_out.add_file("evil.\x1b[2J")
    assert str(left_out).count(",") == 12
    assert str(left_out).endswith("1 *.11, 9 of 9 other kinds")
    assert str(left_out).isprintable()
