"""Tables: what is read is what was written, and every fault is named with its row."""

from __future__ import annotations

import io
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_deploy.errors import DataError
from fer_deploy.faces import csv_table
from fer_deploy.faces.containers import open_content
from fer_deploy.faces.csv_table import FaceTable, read_table
from fer_deploy.faces.dataset import SPLITS, Faces
from fer_deploy.faces.pixel_text import PIXELS, parse_pixels

PLAIN = re.compile(rb"[0-9]{1,3}(\.0*)?|\.0+")
GOOD = " ".join(["7"] * PIXELS)


def table_of(text: str | bytes) -> FaceTable:
    content = text.encode() if isinstance(text, str) else text
    if not content:
        return read_table(lambda: nullcontext((io.BytesIO(), "faces.csv")))
    return read_table(lambda: open_content(content, "faces.csv"))


def read(text: str | bytes) -> dict[str, Faces]:
    """The faces of each split of a table with numbers as labels."""
    table = table_of(text)
    assert table.pixels is not None
    labels, splits = np.array([int(float(label)) for label in table.labels]), np.array(table.splits)
    rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
    return {split: Faces(table.pixels[here], labels[here], here) for split, here in rows.items()}


def three(row: str = f"3,{GOOD},PublicTest", header: str = "emotion,pixels,Usage") -> str:
    return f"{header}\n0,{GOOD},Training\n{row}\n6,{GOOD},PrivateTest\n"


def test_what_is_read_is_what_was_written(small_table: Path, small_splits: dict[str, Faces]) -> None:
    found = read(small_table.read_bytes())
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
        three().replace(",", ";"),
        three().replace(",", "\t"),
        three().replace(",", "|"),
        three(header="label,pixels,split"),
        three("3.0," + GOOD + ",val"),
        three(f'3,"{GOOD.replace(" ", ", ")}",PublicTest'),
        three(f'3,"[{GOOD.replace(" ", ", ")}]",PublicTest'),
        three(f"3,[{GOOD}],PublicTest"),
        three(f"3,{GOOD.replace('7 7', '7.0 7', 1)},PublicTest"),
        three().replace("Training", 'Training,"a, b"').replace("Test\n", 'Test,"c\nd"\n').replace("age", "age,note"),
        "Usage,emotion," + ",".join(f"pixel{n}" for n in range(PIXELS)) + "\n" + "\n".join(
            f"{u},{e}," + GOOD.replace(" ", ",") for u, e in zip(
                ("Training", "PublicTest", "PrivateTest"), (0, 3, 6), strict=True)),
    ],
    ids=["carriage returns", "byte order mark", "empty lines at the end", "no newline at the end", "quoted", "spaces",
         "two spaces", "icml_face_data", "more columns", "semicolons", "tabs", "bars", "label and split", "3.0",
         "commas in quotes", "list in quotes", "list", "7.0", "quoted comma and line break", "a column each"],
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
            three(header="emotion,grey,Usage"),
            "has no column of pixels or files: its columns are 'emotion', 'grey', 'Usage': expected are a label",
        ),
        (three(header="what,pixels,Usage"), "has no column of labels: its columns are 'what', 'pixels', 'Usage'"),
        ("name\tcount\n1\t2\n", "has no column of labels: its columns are 'name', 'count'"),
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
        (three(f"3,{GOOD},Secret"), r"row 1 .*: the split 'Secret' is not train, validation or test \(or Training, Pu"),
        (three(f"3,0.5{GOOD[1:]},PublicTest"), r"row 1 .*: pixel 0 is '0.5', not a whole number"),
        (three("3,0.5 " + "1 " * 2303 + ",PublicTest"), r"row 0 .* has pixels from 0 to 255, and row 1 from 0 to 1"),
        (three(f'3,"{GOOD},PublicTest,x'), r"row 1 \(line 3\) has 2 columns, not 3: is the file cut short, or a field"),
        ("a.png,happy,1,2\n", "has no line of column names, and its first row .* is not a file, a label"),
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
    assert np.array_equal(parse_pixels(texts, "faces.csv").reshape(rows, PIXELS), values)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_text_that_is_changed_anywhere_is_read_as_python_reads_it_or_refused(data: st.DataObject) -> None:
    """Python's own split and int are the oracle for whatever a changed byte makes of a row."""
    good = b" ".join([b"200", b"31", b"4"] * (PIXELS // 3))
    text = bytearray(good)
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.sampled_from(b"0123456789 .-,+e_\x00\xff"))
    try:
        words = bytes(text).replace(b",", b" ").split()  # commas separate as spaces do
        expected: list[int] | None = [int(float(word)) for word in words if PLAIN.fullmatch(word)]
        expected = expected if len(expected) == len(words) == PIXELS and max(expected) <= 255 else None
    except ValueError:
        expected = None
    try:
        found = parse_pixels([good, bytes(text).strip()], "faces.csv")[1:].ravel().tolist()
    except DataError:
        found = None
    assert found == expected


def test_pixels_from_0_to_1_are_multiplied() -> None:
    rows = "".join(f"0,{' '.join(['0', '1.0', '0.5', '1'] * 576)},{usage}\n" for usage in ("train", "val", "test"))
    table = table_of(f"emotion,pixels,Usage\n{rows}4,{' '.join(['1', '0'] * 1152)},train\n")
    assert table.pixels is not None
    assert table.pixels.reshape(4, -1)[:, :4].tolist() == [[0, 255, 128, 255]] * 3 + [[255, 0, 255, 0]]
    assert table.notes == ("pixels from 0 to 1 were multiplied by 255",)


@pytest.mark.parametrize("side", [8, 28, 64, 100])
def test_pictures_may_have_any_size(side: int) -> None:
    table = table_of("label,pixels\n" + f"happy,{' '.join(['9'] * side**2)}\n" * 3)
    assert table.pixels is not None
    assert table.pixels.shape == (3, side, side)
    assert table.splits == [None] * 3
    assert table.notes == ("the table's columns were read as labels from 'label', pixels from 'pixels'",)


def test_only_fer2013s_own_columns_have_its_numbers() -> None:
    for header, own in (("emotion,pixels,Usage", True), ("emotion,pixels,split", False), ("label,pixels,Usage", False)):
        assert table_of(three(header=header)).listing().fer2013_numbers == own
    assert table_of(f"emotion,pixels\n0,{GOOD}\n").listing().fer2013_numbers
    assert not table_of("emotion,pixels\n0," + "7 " * 64 + "\n").listing().fer2013_numbers


def test_words_come_before_numbers_and_persons_are_read() -> None:
    table = table_of(
        "id;path;label;label_name;subject;age\n1;a.jpg;3;froh;anna;20\n2;b.jpg;4;böse;bert;30\n".encode("cp1252")
    )
    assert table.labels == ["froh", "böse"]
    assert (table.paths, table.people, table.pixels) == (["a.jpg", "b.jpg"], ["anna", "bert"], None)
    assert table.others["age"] == ["20", "30"]
    assert any("not UTF-8: it was read as Windows-1252, such as 'böse'" in note for note in table.notes)


def test_line_breaks_in_quotes_belong_to_their_field() -> None:
    table = table_of('path,label\n"a.jpg","very\nhappy, so"\n"b.jpg","sad"\n')
    assert (table.paths, table.labels) == (["a.jpg", "b.jpg"], ["very\nhappy, so", "sad"])


def test_json_lines() -> None:
    table = table_of('{"file_name": "a.png", "label": "froh", "pixels": null}\n\n{"file_name": "b.png", "label": 3}\n')
    assert (table.paths, table.labels) == (["a.png", "b.png"], ["froh", "3"])
    with pytest.raises(DataError, match="is not an object: expected JSON Lines"):
        table_of('{"label": "a", "path": "a.png"}\n[1]\n')
    with pytest.raises(DataError, match=r"faces\.csv, row 1"):
        table_of('{"label": "a", "path": "a.png"}\n{"label":\n')


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_one_line(content: bytes) -> None:
    try:
        table_of(b"label,path\n" + content)
    except DataError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
