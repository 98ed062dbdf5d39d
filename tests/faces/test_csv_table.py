"""Tables: what is read is what was written, and every fault is named with its row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_deploy.errors import DataError
from fer_deploy.faces import csv_table
from fer_deploy.faces.csv_table import PIXELS, parse_pixels, read_table
from fer_deploy.faces.dataset import SPLITS, Faces

GOOD = " ".join(["7"] * PIXELS)


def read(text: str | bytes) -> dict[str, Faces]:
    content = text.encode() if isinstance(text, str) else text
    return dict(read_table(io.BytesIO(content), "faces.csv").splits)


def three(row: str = f"3,{GOOD},PublicTest", header: str = "emotion,pixels,Usage") -> str:
    return f"{header}\n0,{GOOD},Training\n{row}\n6,{GOOD},PrivateTest\n"


def test_what_is_read_is_what_was_written(small_table: Path, small_splits: dict[str, Faces]) -> None:
    with small_table.open("rb") as stream:
        found = read_table(stream, "faces.csv").splits
    for split in SPLITS:
        assert np.array_equal(found[split].images, small_splits[split].images)
        assert found[split].labels.tolist() == small_splits[split].labels.tolist()
        assert found[split].rows.tolist() == small_splits[split].rows.tolist()


def test_rows_may_come_in_any_order_of_splits() -> None:
    found = read(
        f"emotion,pixels,Usage\n1,{GOOD},PrivateTest\n2,{GOOD},Training\n3,{GOOD},PublicTest\n4,{GOOD},Training\n"
    )
    assert {split: faces.rows.tolist() for split, faces in found.items()} == {
        "training": [1, 3], "validation": [2], "test": [0],
    }  # fmt: skip
    assert found["training"].labels.tolist() == [2, 4]


@pytest.mark.parametrize(
    "text",
    [
        three().replace("\n", "\r\n"),
        "\ufeff" + three(),
        three() + "\n\r\n\n",
        three().rstrip("\n"),
        three(f'"3","{GOOD}","PublicTest"', header='"emotion","pixels","Usage"'),
        three(f"3, {GOOD} ,PublicTest "),
        three(f"3,{GOOD.replace('7 7', '7  7', 1)},PublicTest"),
        f"emotion, Usage, pixels\n0, Training, {GOOD}\n3, PublicTest, {GOOD}\n6, PrivateTest, {GOOD}\n",
        "id,Usage,emotion,pixels\n" + "\n".join(f"9,{u},{e},{GOOD}" for u, e in zip(
            ("Training", "PublicTest", "PrivateTest"), (0, 3, 6), strict=True)),
    ],
    ids=["carriage returns", "byte order mark", "empty lines at the end", "no newline at the end", "quoted", "spaces",
         "two spaces", "icml_face_data", "more columns"],
)  # fmt: skip
def test_the_ways_of_writing_it_that_people_have(text: str) -> None:
    found = read(text)
    assert [found[split].labels.tolist() for split in SPLITS] == [[0], [3], [6]]
    assert all((faces.images == 7).all() for faces in found.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "faces.csv is empty"),
        ("\n\n", "faces.csv is empty or begins with an empty line"),
        ("emotion,pixels,Usage\n", "faces.csv has a header and no rows"),
        (
            three(header="emotion,pixel,Usage"),
            "has no column 'pixels' in its first line, only 'emotion', 'pixel', 'usage'",
        ),
        (three(header="label,pixels,Usage"), "has no column 'emotion'"),
        (f"emotion,pixels\n0,{GOOD}\n", "has no column 'usage'"),
        (three(header="emotion,pixels,pixels"), "has two columns 'pixels'"),
        (three(f"3,{GOOD[2:]},PublicTest"), r"row 1 \(line 3\) has 2,303 pixels, not 2,304"),
        (three(f"3,{GOOD} 7,PublicTest"), r"row 1 \(line 3\) has 2,305 pixels, not 2,304"),
        (three(f"3,{GOOD[:-1]}300,PublicTest"), r"row 1 \(line 3\): pixel 2303 is '300', not a whole number 0 to 255"),
        (three(f"3,256{GOOD[1:]},PublicTest"), r"row 1 .*: pixel 0 is '256'"),
        (three(f"3,1000{GOOD[1:]},PublicTest"), r"row 1 .*: pixel 0 is '1000'"),
        (three(f"3,-7{GOOD[1:]},PublicTest"), r"row 1 .*: pixel 0 is '-7'"),
        (three(f"3,7.5{GOOD[1:]},PublicTest"), r"row 1 .*: pixel 0 is '7.5'"),
        (three(f"3,nan{GOOD[1:]},PublicTest"), r"row 1 .*: pixel 0 is 'nan'"),
        (three("3,,PublicTest"), r"row 1 .* has 0 pixels"),
        (three(f"7,{GOOD},PublicTest"), r"row 1 \(line 3\): the label '7' is not 0 to 6"),
        (three(f"contempt,{GOOD},PublicTest"), r"row 1 .*: the label 'contempt'"),
        (three(f"-1,{GOOD},PublicTest"), r"row 1 .*: the label '-1'"),
        (three(f",{GOOD},PublicTest"), r"row 1 .*: the label ''"),
        (three(f"3,{GOOD},Secret"), r"row 1 .*: the split 'Secret' is not Training, PublicTest or PrivateTest"),
        (three(f"3,{GOOD}"), r"row 1 .* has 2 columns, not 3: is the file cut short"),
        (three("\n"), r"row 1 .* is empty: remove the line"),
        (three()[:-1000], r"row 2 \(line 4\) has 2 columns, not 3: is the file cut short"),
        ("emotion,pixels,Usage\n" + "7 " * 600_000, "has a line of over 1,048,576 bytes"),
    ],
)
def test_every_fault_is_one_line_that_names_the_row(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(text)
    assert str(caught.value).startswith("faces.csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_fault_far_down_is_named_with_its_own_row() -> None:
    rows = [f"{number % 7},{GOOD},Training" for number in range(600)]
    rows[599] = f"0,{GOOD[:-1]}999,Training"
    with pytest.raises(DataError, match=r"row 599 \(line 601\): pixel 2303 is '999'"):
        read("emotion,pixels,Usage\n" + "\n".join(rows))


def test_a_number_cannot_move_from_one_row_to_the_next() -> None:
    """Rows are parsed many at a time: one too many here and one too few there must not even out."""
    with pytest.raises(DataError, match=r"row 0 .* has 2,305 pixels"):
        read(f"emotion,pixels,Usage\n0,{GOOD} 7,Training\n1,{GOOD[2:]},PublicTest\n2,{GOOD},PrivateTest\n")


def test_the_number_of_rows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "MOST_ROWS", 2)
    with pytest.raises(DataError, match="more than 2 rows"):
        read(three())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([10, 100, 256]))
def test_numbers_of_every_length_are_read_as_python_reads_them(seed: int, rows: int, end: int) -> None:
    values = np.random.default_rng(seed).integers(0, end, (rows, PIXELS))
    texts = [" ".join(map(str, row)).encode() for row in values.tolist()]
    assert np.array_equal(parse_pixels(texts, "faces.csv", first_row=0).reshape(rows, PIXELS), values)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_text_that_is_changed_anywhere_is_read_as_python_reads_it_or_refused(data: st.DataObject) -> None:
    """Python's own split and int are the oracle for whatever a changed byte makes of a row."""
    text = bytearray((" ".join(["200", "31", "4"] * (PIXELS // 3))).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.sampled_from(b"0123456789 .-,+e_\x00\xff"))
    try:
        expected: list[int] | None = [int(word) for word in bytes(text).split() if word.isdigit()]
        expected = expected if len(expected) == len(bytes(text).split()) == PIXELS and max(expected) <= 255 else None
    except ValueError:
        expected = None
    try:
        found = parse_pixels([bytes(text).strip()], "faces.csv", first_row=0).ravel().tolist()
    except DataError:
        found = None
    assert found == expected
