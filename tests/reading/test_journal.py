from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fer_deploy.errors import DataError
from fer_deploy.reading.journal import Journal, unpack_faces

SETTINGS = {"model": "abc", "every": 2}


def filled(path: Path) -> Journal:
    journal = Journal(path, SETTINGS)
    journal.add("a", {"value": 1})
    journal.add("b", {"value": 0.1})
    journal.add("a", {"value": 3})
    return journal


def values(journal: Journal, key: str) -> list[object]:
    return [entry["value"] for entry in journal.entries(key)]


def test_entries_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.partial"
    filled(path).close()
    again = Journal(path, SETTINGS)
    assert again.discarded == ""
    assert "a" in again
    assert "c" not in again
    assert (values(again, "a"), values(again, "b"), values(again, "c")) == ([1, 3], [0.1], [])
    again.add("b", {"value": "ü"})
    assert values(again, "b") == [0.1, "ü"]
    again.close()


def test_an_open_journal_reads_what_it_wrote(tmp_path: Path) -> None:
    journal = filled(tmp_path / "out.partial")
    assert values(journal, "a") == [1, 3]
    journal.add("a", {"value": 4})
    assert values(journal, "a") == [1, 3, 4]


@pytest.mark.parametrize("cut", range(1, 30))
def test_an_entry_that_a_kill_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.partial"
    filled(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    last_lost = content[-cut:].count(b"\n")
    again = Journal(path, SETTINGS)
    assert values(again, "a") == ([1] if last_lost else [1, 3])
    again.add("c", {"value": 5})
    again.close()
    final = Journal(path, SETTINGS)
    assert values(final, "c") == [5]


def test_garbage_at_the_end_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    filled(path).close()
    with path.open("ab") as file:
        file.write(b"\0\0\0\n[1]\n")
    again = Journal(path, SETTINGS)
    assert values(again, "a") == [1, 3]
    assert path.read_bytes().count(b"\n") == 4


def test_other_settings_start_a_new_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    filled(path).close()
    other = Journal(path, SETTINGS | {"every": 3})
    assert "other settings" in other.discarded
    assert values(other, "a") == []
    other.close()
    assert "other settings" in Journal(path, SETTINGS).discarded


def test_restart_starts_a_new_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    filled(path).close()
    assert Journal(path, SETTINGS, restart=True).discarded == "--restart was given"
    assert Journal(tmp_path / "new.partial", SETTINGS, restart=True).discarded == ""


@pytest.mark.parametrize("content", ["something else\n", "{}\n", '{"json": 1}\n', " "])
def test_a_file_that_is_no_journal_is_never_touched(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out.partial"
    path.write_text(content)
    for restart in (False, True):
        with pytest.raises(DataError, match="this is not the journal of a stopped run: move it away"):
            Journal(path, SETTINGS, restart=restart)
    assert path.read_text() == content


@pytest.mark.parametrize("start", ["", '{"jour', '{"journal": 1, "sett'])
def test_a_first_line_that_a_kill_cut_short_is_a_journal(tmp_path: Path, start: str) -> None:
    path = tmp_path / "out.partial"
    path.write_text(start)
    Journal(path, SETTINGS).add("a", {"value": 1})
    assert values(Journal(path, SETTINGS), "a") == [1]


def test_a_journal_is_not_written_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    original = tmp_path / "original"
    filled(original).close()
    before = original.read_bytes()
    link, pipe = tmp_path / "link.partial", tmp_path / "pipe.partial"
    link.symlink_to(original)
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="a symbolic link, not the journal"):
        Journal(link, SETTINGS)
    with pytest.raises(DataError, match="this is not the journal"):
        Journal(pipe, SETTINGS)
    assert original.read_bytes() == before


def test_two_runs_do_not_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    first = filled(path)
    with pytest.raises(DataError, match="another run is writing"):
        Journal(path, SETTINGS)
    assert values(first, "a") == [1, 3]
    first.close()
    Journal(path, SETTINGS).close(remove=True)
    assert not path.exists()


def test_a_line_that_is_nested_too_deep_ends_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    filled(path).close()
    with path.open("ab") as file:
        file.write(b"[" * 100_000 + b"\n")
    assert values(Journal(path, SETTINGS), "a") == [1, 3]


@pytest.mark.parametrize(
    "faces", [1, [1], [[None, 1]], [[None, [0.5]]], [[[1, 2], [0.5, 0.5]]], [[[5, 0, 1, 9, 1], [0.5, 0.5]]]]
)
def test_faces_that_something_changed_are_refused(faces: Any) -> None:
    with pytest.raises(DataError, match="the journal of the stopped run is damaged"):
        unpack_faces(faces, ("happy", "sad"))
