from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest

from fer_deploy.errors import DataError
from fer_deploy.reading.inputs import find_inputs, read_names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/er/c.webp", "deep/clip.MP4", "deep/README"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(*words: str) -> list[str]:
    return [source.name for source in find_inputs(words).sources]


def test_a_folder_is_searched_with_its_subfolders_in_order(folder: Path) -> None:
    found = find_inputs(["."])
    assert [source.name for source in found.sources] == ["a.PNG", "b.jpg", "deep/clip.MP4", "deep/er/c.webp"]
    assert str(found.left_out) == "left out: 1 *.txt, 1 without an ending"
    assert [source.is_video for source in found.sources] == [False, False, True, False]
    assert [str(source.place) for source in find_inputs(["deep"]).sources] == ["clip.MP4", "er/c.webp"]


def test_a_file_that_is_named_is_taken_whatever_its_ending(folder: Path) -> None:
    assert names("notes.txt", "absent.jpg") == ["notes.txt", "absent.jpg"]


def test_each_file_comes_once(folder: Path) -> None:
    assert names("b.jpg", "./b.jpg", ".", "*.jpg") == ["b.jpg", "a.PNG", "deep/clip.MP4", "deep/er/c.webp"]


def test_patterns_are_expanded(folder: Path) -> None:
    assert names("*.jpg") == ["b.jpg"]
    assert names("**/*.webp") == ["deep/er/c.webp"]
    assert names(f"{folder}/[ab].*") == [f"{folder}/a.PNG", f"{folder}/b.jpg"]
    (folder / "[x].jpg").write_bytes(b"x")  # a name that looks like a pattern is a name when it is there
    assert names("[x].jpg") == ["[x].jpg"]


def test_words_that_name_nothing_give_one_line_each(folder: Path) -> None:
    (folder / "empty").mkdir()
    found = find_inputs(["empty", "*.tiff", "b.jpg"])
    assert found.problems == (
        "empty: no picture or video in this folder",
        "*.tiff: no file matches this pattern",
    )
    assert [source.name for source in found.sources] == ["b.jpg"]


def test_a_folder_to_leave_out_is_left_out_of_a_folder_that_is_searched(folder: Path) -> None:
    def found(*words: str, except_in: str) -> list[str]:
        return [source.name for source in find_inputs(words, except_in=[Path(except_in)]).sources]

    assert found(".", except_in="deep/er") == ["a.PNG", "b.jpg", "deep/clip.MP4"]
    assert found(".", except_in=str(folder / "deep")) == ["a.PNG", "b.jpg"]
    assert found(".", except_in="er") == names(".")
    assert found("deep/er", except_in="deep/er") == ["deep/er/c.webp"], "named, it is read"


def test_loops_of_links_end(folder: Path) -> None:
    (folder / "deep" / "loop").symlink_to(folder)
    (folder / "x.jpg").symlink_to("x.jpg")
    assert names(".") == ["a.PNG", "b.jpg", "x.jpg", "deep/clip.MP4", "deep/er/c.webp"]


def test_standard_input_is_a_source(folder: Path) -> None:
    (source,) = find_inputs(["-"]).sources
    assert source.is_standard_input
    assert not find_inputs(["./-"]).sources[0].path.is_dir()


def test_a_folder_whose_files_were_named_before_is_no_problem(folder: Path) -> None:
    found = find_inputs(["deep/er/c.webp", "deep/er"])
    assert (len(found.sources), found.problems) == (1, ())


def test_a_pattern_that_matches_a_folder_searches_it_as_shells_would_have_it(folder: Path) -> None:
    (folder / "Thumbs.db").touch()
    found = find_inputs(["[adT]*"])
    assert [source.name for source in found.sources] == ["a.PNG", "deep/clip.MP4", "deep/er/c.webp"]
    assert str(found.left_out) == "left out: 1 Thumbs.db, 1 without an ending"


def test_an_unreadable_folder_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_inputs(["."])
    assert [source.name for source in found.sources] == ["a.PNG", "b.jpg"]
    assert found.problems == ("./deep: cannot be searched: Permission denied",)


def test_names_too_long_or_in_a_locked_folder_are_reported_when_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def refuse(path: str, **options: object) -> os.stat_result:
        if "locked" in os.fspath(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuse)
    words = ["x" * 300, "locked/a.jpg", "b.jpg"]
    assert names(*words) == words


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(raw, "wb") as file:  # noqa: PTH123  (a name of bytes)
        file.write(b"x")
    (source,) = find_inputs([tmp_path]).sources
    assert source.name.endswith("caf\\xe9.jpg")
    assert source.path.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\n\r\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"a\nb.jpg\0c.jpg\0", ["a\nb.jpg", "c.jpg"]),
        (b"caf\xe9.jpg\n", [os.fsdecode(b"caf\xe9.jpg")]),
        ("me.png\r\nGrüße 😀.jpg\r\n".encode("utf-8-sig"), ["me.png", "Grüße 😀.jpg"]),
        ("me.png\r\nGrüße 😀.jpg\r\n".encode("utf-16"), ["me.png", "Grüße 😀.jpg"]),
        (codecs.BOM_UTF16_BE + "me.png\r\nb.png".encode("utf-16-be"), ["me.png", "b.png"]),
        ("me.png\r\nb.png".encode("utf-32"), ["me.png", "b.png"]),
        ("me.png\r\nb.png\r\n".encode("utf-16-le"), ["me.png", "b.png"]),
        ("me.png\r\nb.png\r\n".encode("utf-16-be"), ["me.png", "b.png"]),
        (codecs.BOM_UTF8 + b"a\nb.png\0c.png\0", ["a\nb.png", "c.png"]),
        (b"a\0", ["a"]),
    ],
)
def test_lists_of_names(content: bytes, expected: list[str]) -> None:
    assert read_names(content) == expected


def test_a_list_that_is_not_in_the_encoding_of_its_mark_is_an_error() -> None:
    with pytest.raises(DataError, match="the list of files: not UTF-16 text"):
        read_names(codecs.BOM_UTF16_LE + b"abc")


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("https://host/a.jpg", "download it"),
        ("HTTP://host/*.jpg", "download it"),
        ("rtsp://camera/stream", "download it"),
        ("s3://bucket/photos", "download it"),
        ("https:/host/a.jpg", "download it"),
        ("file:///home/me/a.jpg", "name the file by its path"),
    ],
)
def test_addresses_are_no_files(folder: Path, word: str, remedy: str) -> None:
    found = find_inputs([word])
    assert found.sources == ()
    (problem,) = found.problems
    assert problem.startswith(f"{word}: addresses are not read: {remedy}")


def test_a_name_that_looks_like_an_address_is_a_name_where_it_exists(folder: Path) -> None:
    (folder / "http:").mkdir()
    (folder / "http:" / "a.jpg").write_bytes(b"x")
    assert names("http:/a.jpg") == ["http:/a.jpg"]
    assert names("c:/a.jpg") == ["c:/a.jpg"]


def test_an_empty_list_is_an_error() -> None:
    with pytest.raises(DataError, match="empty"):
        read_names(b"\n\n")
