from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_deploy.errors import DataError
from fer_deploy.score.options import InputOptions
from fer_deploy.score.places import Place
from fer_deploy.score.plan import (
    PLAN,
    ScorePlan,
    check_same,
    find_kind,
    make_plan,
    open_plan,
    part_name,
    remove_run,
)
from score.conftest import PICTURES, some_labels, write_parquet


def plan_of(tmp_path: Path, *, kind: str = "parquet", **options: object) -> ScorePlan:
    return make_plan(
        Place.of(str(tmp_path / "in")), Place.of(str(tmp_path / "out")), kind=kind,
        options=InputOptions(**options), model="m.onnx", model_sha256="00",  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.parquet", "parquet"), ("b/c.PQ", "parquet"), ("a.tar", "webdataset"), ("a.tgz", "webdataset"),
     ("b/a.JPG", "images"), ("x.png", "images")],
)  # fmt: skip
def test_the_kind_is_found_by_the_first_known_file(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "README").write_text("x")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    assert find_kind(Place.of(str(tmp_path))) == kind
    assert find_kind(Place.of(str(tmp_path / name))) == kind
    assert find_kind(Place.of(str(tmp_path)), wanted="images") == "images"


def test_inputs_with_nothing_to_score_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such file or folder"):
        find_kind(Place.of(str(tmp_path / "absent")))
    with pytest.raises(DataError, match=r"holds no Parquet files, WebDataset shards .* or pictures"):
        find_kind(Place.of(str(tmp_path)))
    (tmp_path / "a.HEIC").touch()
    with pytest.raises(DataError, match=r"or pictures: left out: 1 \*\.heic \(save as JPEG\)$"):
        find_kind(Place.of(str(tmp_path)))
    with pytest.raises(DataError, match=r"a\.HEIC: is no Parquet file, .* or picture by its name"):
        find_kind(Place.of(str(tmp_path / "a.HEIC")))
    with pytest.raises(DataError, match="neither a file nor a folder"):
        find_kind(Place.of("/dev/null"))
    with pytest.raises(DataError, match="not a known kind of address"):
        Place.of("gopher://x/y")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_text("damaged")
    with pytest.raises(DataError, match=r"nothing to score as parquet: .*a\.parquet: not a Parquet file, or damaged"):
        plan_of(tmp_path)
    assert open_plan(Place.of(str(tmp_path / "out"))) is None, "a plan that failed is not stored"


def test_a_stored_plan_equals_the_one_that_was_made(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(250))
    (tmp_path / "in" / "b.parquet").write_text("damaged")
    plan = plan_of(tmp_path, rows_per_part=100, keep=("number",))
    again = open_plan(Place.of(str(tmp_path / "out")))
    assert again == plan
    assert (plan.parts, plan.rows) == (3, 250)
    assert len(plan.problems) == 1
    assert [(part.first, part.rows) for part in plan.list_parts()] == [(0, 100), (100, 100), (200, 50)]


def test_rows_are_unknown_before_shards_are_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.tar", "b.tar"):
        (tmp_path / "in" / name).write_bytes(bytes(1024))
    plan = plan_of(tmp_path, kind="webdataset")
    assert (plan.parts, plan.rows) == (2, -1)


def test_a_list_of_pictures_is_split_without_holding_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(25):
        (tmp_path / "in" / f"{number:02d}.png").write_bytes(PICTURES["happy"])
    plan = plan_of(tmp_path, kind="images", rows_per_part=10)
    assert (plan.parts, plan.rows) == (3, 25)
    assert pq.ParquetFile(tmp_path / "out" / "_plan" / "pictures.parquet").metadata.num_row_groups == 3
    (tmp_path / "in" / "00a.png").write_bytes(PICTURES["sad"])  # too late: the list is stored already
    source = plan.source()
    names = [
        row["path"] for part in plan.list_parts() for block in source.blocks(part) for row in block.keys.to_pylist()
    ]
    assert names == [f"{number:02d}.png" for number in range(25)]


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    plan = plan_of(tmp_path)
    check_same(plan, input=plan.input, kind="parquet", model_sha256="00", options=InputOptions(block_rows=7))
    with pytest.raises(DataError, match=r"out holds a run with another model sha256 \(00, not 11\).*--restart"):
        check_same(plan, model_sha256="11")
    with pytest.raises(DataError, match=r"another rows per part \(10000, not 5\)"):
        check_same(plan, options=InputOptions(rows_per_part=5))


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    plan_of(tmp_path)
    path = tmp_path / "out" / PLAN
    content = json.loads(path.read_text())
    changes: list[dict[str, object]] = [
        {"format": 99}, {"format": None}, {"parts": "3"}, {"parts": 0}, {"parts": 1e300}, {"parts": True}, {"rows": -7},
        {"rows": None}, {"kind": "zip"}, {"kind": ["parquet"]}, {"input": 7}, {"problems": [1]}, {"problems": None},
        {"left_out": []}, {"left_out": {"x": "y"}}, {"folders": [[]]}, {"options": []}, {"options": {}},
        {"options": content["options"] | {"rows_per_part": 0}}, {"options": content["options"] | {"keep": 5}},
        {"options": content["options"] | {"column": None}}, {"unknown": 1},
    ]  # fmt: skip
    texts = ["{", "[]", "null", "[" * 100_000, '{"format": NaN}', "\x00", json.dumps({"format": 1})]
    for text in [*texts, *(json.dumps(content | change) for change in changes)]:
        path.write_text(text)
        with pytest.raises(DataError, match=r"cannot be read: .*--restart"):
            open_plan(Place.of(str(tmp_path / "out")))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="a named pipe"):
        open_plan(Place.of(str(tmp_path / "out")))


def test_a_damaged_list_of_parts_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    plan = plan_of(tmp_path)
    path = tmp_path / "out" / "_plan" / "parts.parquet"
    table = pq.read_table(path)
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="is damaged: start over with --restart"):
        plan.list_parts()
    for changed in (
        table.slice(0, 0),
        pa.concat_tables([table, table]),
        table.drop_columns(["rows"]),
        table.set_column(1, "first", pa.array(["x"])),
        table.set_column(1, "first", pa.array([-1], pa.int64())),
        table.set_column(2, "rows", pa.array([None], pa.int64())),
    ):
        pq.write_table(changed, path)
        with pytest.raises(DataError, match="is damaged: start over with --restart"):
            plan.list_parts()


def test_removing_a_run_leaves_other_files_alone(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    plan = plan_of(tmp_path)
    out = tmp_path / "out"
    pq.write_table(pa.table({"x": [1]}), out / part_name(0))
    (out / f".{part_name(1)}.abc.partial").write_bytes(b"half")
    (out / ".attempts-00000001").write_text("2")
    (out / "mine.txt").write_text("keep")
    remove_run(Place.of(plan.output))
    assert sorted(path.name for path in out.rglob("*")) == ["_plan", "mine.txt"]
