from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import grey_face, level_of

from fer_deploy.errors import DataError
from fer_deploy.folders import LeftOut
from fer_deploy.pictures import read_picture
from fer_deploy.score.options import InputOptions
from fer_deploy.score.places import Place
from fer_deploy.score.sources import InputPart, InputSource, RowBlock, images, webdataset
from fer_deploy.score.sources.images import Images
from fer_deploy.score.sources.parquet import ParquetFiles, _pieces
from fer_deploy.score.sources.webdataset import WebDataset
from score.conftest import PICTURES, encoded, some_labels, write_parquet


def read_all(source: InputSource, left_out: LeftOut | None = None) -> list[RowBlock]:
    left_out = left_out or LeftOut()
    blocks = [block for part in list(source.parts(left_out)) for block in source.blocks(part)]
    for block in blocks:
        assert block.keys.num_rows == len(block.pictures)
        assert block.keys.schema == source.schema()
    return blocks


def rows_of(blocks: list[RowBlock]) -> list[tuple[dict[str, object], object]]:
    return [row for block in blocks for row in zip(block.keys.to_pylist(), block.pictures, strict=True)]


# Parquet


@given(
    groups=st.lists(st.integers(0, 40), max_size=12),
    rows_per_part=st.integers(1, 50),
)
def test_parts_hold_each_row_once_and_in_order(groups: list[int], rows_per_part: int) -> None:
    pieces = list(_pieces(groups, rows_per_part))
    rows = [row for first, count in pieces for row in range(first, first + count)]
    assert rows == list(range(sum(groups)))
    assert all(count > 0 for _first, count in pieces)
    if max(groups, default=0) <= rows_per_part:
        assert all(count <= rows_per_part for _first, count in pieces)


@pytest.mark.parametrize(("rows_per_part", "block_rows"), [(1000, 512), (70, 16), (13, 5), (1, 1)])
def test_parquet_rows_keep_their_order_for_every_split(tmp_path: Path, rows_per_part: int, block_rows: int) -> None:
    labels = some_labels(230)
    write_parquet(tmp_path / "b" / "2.parquet", labels[150:], group_rows=33, first=150)
    write_parquet(tmp_path / "a.parquet", labels[:150], group_rows=60)
    source = ParquetFiles(Place.of(str(tmp_path)), InputOptions(rows_per_part=rows_per_part, block_rows=block_rows))
    rows = rows_of(read_all(source))
    assert [row["number"] for row, _ in rows] == list(range(230))
    assert [row["input_label"] for row, _ in rows] == labels
    assert [picture for _, picture in rows] == [PICTURES[label] for label in labels]
    assert [(row["file"], row["row"]) for row, _ in rows] == [
        ("a.parquet", i) if i < 150 else ("b/2.parquet", i - 150) for i in range(230)
    ]


def columns() -> dict[str, pa.Array]:
    grey, rgb = grey_face("happy")[:, :, 0], grey_face("happy")
    tensor = pa.fixed_shape_tensor(pa.uint8(), (48, 48, 3))
    return {
        "binary": pa.array([PICTURES["happy"]], pa.binary()),
        "large binary": pa.array([PICTURES["happy"]], pa.large_binary()),
        "Hugging Face": pa.array([{"bytes": PICTURES["happy"], "path": "a.png"}]),
        "flat grey": pa.array([grey.ravel().tolist()], pa.list_(pa.uint8())),
        "flat RGB": pa.array([rgb.ravel().tolist()], pa.large_list(pa.int64())),
        "fixed size": pa.array([grey.ravel().tolist()], pa.list_(pa.uint8(), 48 * 48)),
        "rows": pa.array([grey.tolist()], pa.list_(pa.list_(pa.uint8()))),
        "rows of RGB": pa.array([rgb.tolist()], pa.list_(pa.list_(pa.list_(pa.int32())))),
        "tensor": pa.ExtensionArray.from_storage(tensor, pa.array([rgb.ravel().tolist()], tensor.storage_type)),
        "written out": pa.array([" ".join(map(str, grey.ravel()))], pa.string()),
    }


@pytest.mark.parametrize("kind", columns())
def test_pictures_in_every_kind_of_column(tmp_path: Path, kind: str) -> None:
    column = columns()[kind]
    pq.write_table(pa.table({"pixels": column, "id": [7]}), tmp_path / "a.parquet")
    ((row, picture),) = rows_of(read_all(ParquetFiles(Place.of(str(tmp_path / "a.parquet")), InputOptions())))
    assert row == {"file": "a.parquet", "row": 0, "id": 7}
    pixels = read_picture(picture).pixels  # type: ignore[arg-type]
    np.testing.assert_array_equal(pixels, grey_face("happy"))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([None], pa.binary()), "null"),
        (pa.array([{"bytes": None, "path": "elsewhere.jpg"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})),
         "null"),
        (pa.array([None], pa.list_(pa.uint8())), "null"),
        (pa.array([[1, 2, 3, 4, 5]], pa.list_(pa.uint8())), "5 values, which is not a square"),
        (pa.array([[]], pa.list_(pa.uint8())), "0 values"),
        (pa.array([[256] * 4], pa.list_(pa.int64())), "from 0 to 255"),
        (pa.array([[None, 1, 2, 3]], pa.list_(pa.int64())), "whole numbers"),
        (pa.array([[[1, 2], [3]]], pa.list_(pa.list_(pa.uint8()))), "unequal lengths"),
        (pa.array(["1 2 x 4"]), "not numbers"),
        (pa.array(["-1 2 3 4"]), "from 0 to 255"),
        (pa.array(["99999999999999999999999 1 1 1"]), "not numbers"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_a_row_with_an_error(tmp_path: Path, column: pa.Array, words: str) -> None:
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    ((_row, picture),) = rows_of(read_all(ParquetFiles(Place.of(str(tmp_path)), InputOptions(column="image"))))
    assert isinstance(picture, DataError)
    assert words in str(picture)


def test_the_column_of_pictures_is_found_or_asked_for(tmp_path: Path) -> None:
    def source(**options: object) -> ParquetFiles:
        return ParquetFiles(Place.of(str(tmp_path)), InputOptions(**options))  # type: ignore[arg-type]

    face = PICTURES["sad"]
    pq.write_table(pa.table({"image": [face], "thumbnail": [b"t"], "age": [3]}), tmp_path / "a.parquet")
    assert read_all(source())[0].pictures == [face]
    assert read_all(source(column="thumbnail"))[0].pictures == [b"t"]
    assert read_all(source(keep=()))[0].keys.column_names == ["file", "row"]
    assert read_all(source(keep=("age",)))[0].keys.column_names == ["file", "row", "age"]
    with pytest.raises(DataError, match=r"no column 'photo', only image, thumbnail, age"):
        read_all(source(column="photo"))
    with pytest.raises(DataError, match="'age' is int64, not pictures"):
        read_all(source(column="age"))
    with pytest.raises(DataError, match="no column height"):
        read_all(source(keep=("height",)))
    pq.write_table(pa.table({"left": [face], "right": [face]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="each of left, right may be the column of pictures: name it with --column"):
        read_all(source())
    pq.write_table(pa.table({"age": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="none of age seems to be"):
        read_all(source())


def test_columns_with_reserved_names_are_copied_under_others(tmp_path: Path) -> None:
    table = pa.table({"image": [PICTURES["sad"]], "label": ["x"], "input_label": ["y"], "happy": [1], "row": [2]})
    pq.write_table(table, tmp_path / "a.parquet")
    (block,) = read_all(ParquetFiles(Place.of(str(tmp_path)), InputOptions()))
    assert block.keys.to_pylist() == [
        {"file": "a.parquet", "row": 0, "input_input_label": "x", "input_label": "y", "input_happy": 1, "input_row": 2}
    ]


def test_unreadable_files_are_reported_and_the_others_are_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", some_labels(10))
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes(whole[:-100])
    (tmp_path / "3.parquet").write_text("not Parquet")
    (tmp_path / "4.parquet").write_bytes(b"")
    os.mkfifo(tmp_path / "5.parquet")
    (tmp_path / "6.parquet").symlink_to("6.parquet")
    pq.write_table(pa.table({"image": [b"x"], "age": [1]}), tmp_path / "7.parquet")
    write_parquet(tmp_path / "8.parquet", some_labels(5))
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "_SUCCESS").write_text("")
    left_out = LeftOut()
    rows = rows_of(read_all(ParquetFiles(Place.of(str(tmp_path)), InputOptions()), left_out))
    assert [row["file"] for row, _ in rows] == ["1.parquet"] * 10 + ["8.parquet"] * 5
    assert len(left_out.problems) == 5
    for problem, number in zip(left_out.problems, (2, 3, 4, 6, 7), strict=True):
        assert f"{number}.parquet: " in problem
        assert "\n" not in problem
    assert "its columns differ from those of" in left_out.problems[-1]
    assert left_out.counts == {"*.txt": 1, "_SUCCESS": 1, "named pipe": 1}


def test_damage_in_a_file_affects_only_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    noise = np.random.default_rng(0).integers(0, 256, (300, 4000), np.uint8)
    table = pa.table({"image": [row.tobytes() for row in noise], "number": range(300)})
    pq.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = group.data_page_offset
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(bytes(content))
    source = ParquetFiles(Place.of(str(path)), InputOptions(rows_per_part=150, block_rows=50))
    rows = rows_of(read_all(source))
    assert [row["row"] for row, _ in rows] == list(range(300)), "every row once, readable or not"
    good = [row["row"] for row, picture in rows if isinstance(picture, bytes)]
    assert good == [*range(100), *range(200, 300)]
    bad = [picture for _, picture in rows if isinstance(picture, DataError)]
    assert all(str(error).startswith("the file is damaged here: ") for error in bad)


def test_a_file_that_changed_since_the_plan_is_not_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", some_labels(10))
    source = ParquetFiles(Place.of(str(tmp_path)), InputOptions())
    (part,) = source.parts(LeftOut())
    write_parquet(tmp_path / "a.parquet", some_labels(12))
    with pytest.raises(DataError, match="has changed since the run began: start over with --restart"):
        list(source.blocks(part))
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(DataError, match="no such file"):
        list(source.blocks(part))


def test_a_parquet_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    noise = np.random.default_rng(0).integers(0, 256, (300, 4000), np.uint8)
    table = pa.table({"image": [row.tobytes() for row in noise]})
    pq.write_table(table, path, row_group_size=100, use_dictionary=False, compression="zstd")
    source = ParquetFiles(Place.of(str(path)), InputOptions(block_rows=100))
    (part,) = source.parts(LeftOut())
    blocks = source.blocks(part)
    assert next(blocks).keys.num_rows == 100
    path.write_bytes(bytes(path.stat().st_size + 1))
    with pytest.raises(DataError, match="has changed since the run began: start over with --restart"):
        list(blocks)


def varint(number: int) -> bytes:
    """A whole number as Thrift writes it: zigzag, seven bits to a byte."""
    number = number << 1 if number >= 0 else (-number << 1) - 1
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    return bytes([*coded, number])


@pytest.mark.parametrize("claim", [10**12, 2**62, 10**8, -5])
def test_a_parquet_file_that_claims_rows_which_it_cannot_hold_is_refused(tmp_path: Path, claim: int) -> None:
    honest = tmp_path / "honest.parquet"
    pq.write_table(pa.table({"image": pa.array([PICTURES["sad"]] * 123_457, pa.binary())}), honest)
    content = honest.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8].replace(varint(123_457), varint(claim))
    changed = content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    (tmp_path / "claims.parquet").write_bytes(changed)
    left_out = LeftOut()
    parts = list(ParquetFiles(Place.of(str(tmp_path)), InputOptions()).parts(left_out))
    assert {part.file for part in parts} == {b"honest.parquet"}
    assert sum(part.rows for part in parts) == 123_457
    (problem,) = left_out.problems
    assert "claims.parquet: " in problem
    assert "\n" not in problem


def test_an_empty_file_has_no_part(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [])
    source = ParquetFiles(Place.of(str(tmp_path)), InputOptions())
    assert list(source.parts(LeftOut())) == []
    assert "input_label" in source.schema().names


# Folders of pictures


def test_pictures_of_a_folder_keep_their_order_and_bad_ones_are_rows_too(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    (photos / "b" / "deep").mkdir(parents=True)
    (photos / "a.png").write_bytes(PICTURES["happy"])
    (photos / "b" / "1.JPG").write_bytes(encoded("sad", "JPEG"))
    (photos / "b" / "deep" / "2.webp").write_bytes(encoded("fear", "WEBP"))
    (photos / "c.jpg").write_text("a text file")
    (photos / "d.jpg").write_bytes(b"")
    os.mkfifo(photos / "e.jpg")
    (photos / "f.jpg").symlink_to("f.jpg")
    (photos / "g.jpg").symlink_to("nowhere.jpg")
    (photos / "h.png").symlink_to("a.png")
    Path(os.fsdecode(os.fsencode(photos) + b"/i\xe9.png")).write_bytes(PICTURES["angry"])
    (photos / "loop").symlink_to(photos)
    (photos / "notes.txt").write_text("x")
    (photos / "Makefile").write_text("x")
    (photos / ".hidden.png").write_bytes(PICTURES["happy"])
    (photos / "k.jpg").mkdir()
    source = Images(Place.of(str(photos)), Place.of(str(output)), InputOptions(rows_per_part=4, block_rows=3))
    left_out = LeftOut()
    rows = rows_of(read_all(source, left_out))
    assert [row["path"] for row, _ in rows] == [
        "a.png", "c.jpg", "d.jpg", "f.jpg", "g.jpg", "h.png", "i\\xe9.png", "b/1.JPG", "b/deep/2.webp",
    ]  # fmt: skip
    bad = {row["path"]: str(picture) for row, picture in rows if isinstance(picture, DataError)}
    assert set(bad) == {"d.jpg", "f.jpg", "g.jpg"}
    assert "0 bytes" in bad["d.jpg"]
    assert "leads back to itself" in bad["f.jpg"]
    assert "link to nothing" in bad["g.jpg"]
    assert left_out.counts == {
        "link to a folder that is read already": 1, "*.txt": 1, "without an ending": 1, "hidden": 1, "named pipe": 1,
    }  # fmt: skip
    assert left_out.problems == []


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "shut").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(PICTURES["happy"])
    really = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    left_out = LeftOut()
    source = Images(Place.of(str(tmp_path / "in")), Place.of(str(tmp_path / "out")), InputOptions())
    assert [row["path"] for row, _ in rows_of(read_all(source, left_out))] == ["a.png"]
    assert left_out.problems == [f"{tmp_path}/in/shut: cannot be searched: Permission denied"]


def test_large_pictures_end_a_block_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_HELD_BYTES", 64_000)
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.png").write_bytes(bytes(30_000))
    source = Images(Place.of(str(tmp_path / "in")), Place.of(str(tmp_path / "out")), InputOptions())
    assert [len(block.pictures) for block in read_all(source)] == [3, 2]


# WebDataset


def write_shard(path: Path, members: list[tuple[str, bytes]], *, mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_samples_of_shards_keep_their_order(tmp_path: Path) -> None:
    members = [("x/0001.png", PICTURES["happy"]), ("x/0001.json", b"{}"), ("x/0001.cls", b"3")]
    members += [("x/0002.txt", b""), ("x/0002.png", PICTURES["sad"]), ("x/0003.v1.jpeg", encoded("fear", "JPEG"))]
    write_shard(tmp_path / "a.tar", members)
    write_shard(tmp_path / "b.tar.gz", [(f"{i:03d}.png", PICTURES["angry"]) for i in range(7)], mode="w:gz")
    (tmp_path / "index.json").write_text("{}")
    left_out = LeftOut()
    source = WebDataset(Place.of(str(tmp_path)), InputOptions(block_rows=3))
    rows = rows_of(read_all(source, left_out))
    assert [tuple(row.values()) for row, _ in rows] == [
        ("a.tar", 0, "x/0001"), ("a.tar", 1, "x/0002"), ("a.tar", 2, "x/0003"),
        *(("b.tar.gz", i, f"{i:03d}") for i in range(7)),
    ]  # fmt: skip
    assert all(isinstance(picture, bytes) for _, picture in rows)
    assert left_out.counts == {"*.json": 1}


def test_a_sample_of_no_or_two_pictures_is_a_row_with_an_error(tmp_path: Path) -> None:
    members = [("1.json", b"{}"), ("2.left.png", b"l"), ("2.right.png", b"r"), ("3.png", PICTURES["happy"])]
    write_shard(tmp_path / "a.tar", members)

    def pictures(column: str) -> list[object]:
        source = WebDataset(Place.of(str(tmp_path / "a.tar")), InputOptions(column=column))
        return [picture if isinstance(picture, bytes) else str(picture) for _, picture in rows_of(read_all(source))]

    assert pictures("") == [
        "the sample has no member that is a picture",
        "the sample has 2 pictures, left.png, right.png: name one with --column",
        PICTURES["happy"],
    ]
    assert pictures("right.png")[1:] == [b"r", "the sample has no member that is a .right.png"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_truncated_shard_gives_its_samples_and_one_row_with_the_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    noise = np.random.default_rng(0).bytes
    write_shard(path, [(f"{i}.png", noise(3000)) for i in range(20)], mode="w" if kind == "tar" else "w:gz")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    rows = rows_of(read_all(WebDataset(Place.of(str(path)), InputOptions())))
    assert 5 < len(rows) < 15
    assert [row["key"] for row, _ in rows] == [*(str(i) for i in range(len(rows) - 1)), None]
    assert isinstance(rows[-1][1], DataError)
    assert "damaged or cut short after this point" in str(rows[-1][1])


@pytest.mark.parametrize("content", [b"", b"not a tar file at all" * 100, gzip.compress(b"nor this", mtime=0)])
def test_a_file_that_is_not_a_shard_is_one_row_with_the_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    ((row, picture),) = rows_of(read_all(WebDataset(Place.of(str(tmp_path / "a.tar")), InputOptions())))
    assert row["key"] is None
    assert isinstance(picture, DataError)


def test_a_shard_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = tarfile.XHDTYPE, 1 << 40
    path = tmp_path / "a.tgz"
    with gzip.open(path, "wb") as file:
        file.write(bomb.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(1 << 20))
    ((_row, picture),) = rows_of(read_all(WebDataset(Place.of(str(path)), InputOptions())))
    assert "a header of 1,099,511,627,776 bytes" in str(picture)
    monkeypatch.setattr(webdataset, "MAXIMUM_BYTES", 1000)
    write_shard(path, [("1.png", bytes(1001)), ("2.png", PICTURES["sad"])], mode="w:gz")
    (_row, picture), (_other, good) = rows_of(read_all(WebDataset(Place.of(str(path)), InputOptions())))
    assert "1,001 bytes, more than a picture may have" in str(picture)
    assert good == PICTURES["sad"]


def test_blocks_have_a_bounded_number_of_samples(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [(f"{i}.png", bytes([level_of("sad")])) for i in range(50)])
    source = WebDataset(Place.of(str(tmp_path)), InputOptions(block_rows=20))
    assert [len(block.pictures) for block in read_all(source)] == [20, 20, 10]


def test_parts_and_places_are_equal_by_value(tmp_path: Path) -> None:
    assert InputPart(b"a", 1, 2, 3, 4) == InputPart(b"a", 1, 2, 3, 4)
    assert Place.of(str(tmp_path)) == Place.of(f"file://{tmp_path}")


@pytest.mark.parametrize("name", ["huge.png", "huge.txt"])
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_member_that_claims_more_than_the_rest_of_the_shard_is_one_row_with_the_error(
    tmp_path: Path, kind: str, name: str
) -> None:
    claim = tarfile.TarInfo(name)
    claim.size = 1 << 40
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as archive:
        member = tarfile.TarInfo("1.png")
        member.size = len(PICTURES["sad"])
        archive.addfile(member, io.BytesIO(PICTURES["sad"]))
    content = shard.getvalue().rstrip(b"\0")
    content += bytes(-len(content) % 512) + claim.tobuf(tarfile.GNU_FORMAT) + bytes(5000)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(gzip.compress(content, mtime=0) if kind == "tar.gz" else content)
    (_row, good), *others = rows_of(read_all(WebDataset(Place.of(str(path)), InputOptions())))
    assert good == PICTURES["sad"]
    assert others[-1][0]["key"] is None
    assert "the shard is damaged or cut short after this point" in str(others[-1][1])
