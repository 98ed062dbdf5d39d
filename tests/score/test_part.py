from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model

from fer_deploy import EMOTIONS, Recognizer
from fer_deploy.errors import DataError
from fer_deploy.score import part as module
from fer_deploy.score.options import InputOptions
from fer_deploy.score.part import PartResult, read_result, score_block, score_part
from fer_deploy.score.places import Place
from fer_deploy.score.plan import ScorePlan, make_plan, open_plan, part_name
from fer_deploy.score.sources import InputPicture, RowBlock
from score.conftest import PICTURES, encoded, read_output, some_labels, write_parquet


def keys(count: int) -> pa.Table:
    return pa.table({"number": range(count)})


def score_all(recognizer: Recognizer, plan: ScorePlan) -> list[PartResult]:
    source, output = plan.source(), Place(plan.output)
    return [
        score_part(recognizer, plan, source, part, number=number, output=output)
        for number, part in enumerate(plan.list_parts())
    ]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def plan_of(folder: Path, *, kind: str = "parquet", **options: object) -> ScorePlan:
    return make_plan(
        Place.of(str(folder / "in")), Place.of(str(folder / "out")), kind=kind,
        options=InputOptions(**options), model="m.onnx", model_sha256="00",  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_block_has_the_answers_of_the_recognizer(recognizer: Recognizer) -> None:
    generator = np.random.default_rng(3)
    pictures: list[InputPicture] = [
        generator.integers(0, 256, (size, size + 1, 3), np.uint8) for size in (20, 48, 20, 70)
    ]
    pictures.insert(1, DataError("no such file"))
    pictures.insert(3, b"rubbish")
    table = score_block(recognizer, RowBlock(keys(6), pictures), maximum_pixels=10_000)
    assert table.column_names == ["number", "label", "probability", *EMOTIONS, "error"]
    assert table.column("error").to_pylist()[1] == "no such file"
    assert "not a picture" in table.column("error").to_pylist()[3]
    for row, picture in zip(table.to_pylist(), pictures, strict=True):
        if not isinstance(picture, np.ndarray):
            assert row["error"]
            assert all(row[name] is None for name in ("label", "probability", *EMOTIONS))
            continue
        expected = recognizer.predict(picture)
        assert row["error"] is None
        assert row["label"] == expected.label
        assert row["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert {label: row[label] for label in EMOTIONS} == pytest.approx(dict(expected.probabilities), abs=1e-6)


def test_a_picture_that_is_too_large_is_a_bad_row(recognizer: Recognizer) -> None:
    table = score_block(recognizer, RowBlock(keys(2), [encoded("sad", height=101, width=100), PICTURES["sad"]]),
                        maximum_pixels=10_000)  # fmt: skip
    first, second = table.column("error").to_pylist()
    assert "100x101 pixels, more than the 10,000" in first
    assert second is None


def test_a_model_of_fixed_size_reads_the_pictures_that_fit() -> None:
    fixed = Recognizer(tiny_model(shape=("batch", 48, 48, 3)), threads=1)
    pictures: list[InputPicture] = [PICTURES["happy"], encoded("sad", height=50), PICTURES["fear"]]
    table = score_block(fixed, RowBlock(keys(3), pictures), maximum_pixels=10_000)
    assert table.column("label").to_pylist() == ["happy", None, "fear"]
    assert "height 48 only" in table.column("error").to_pylist()[1]


def test_decoded_pictures_are_bounded(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DECODED_BYTES", 3 * 48 * 48 * 3)
    seen: list[int] = []

    class Counting(Recognizer):
        def probabilities_of(self, faces: object) -> np.ndarray:
            seen.append(len(faces))  # type: ignore[arg-type]
            return super().probabilities_of(faces)  # type: ignore[arg-type]

    labels = some_labels(8)
    pictures: list[InputPicture] = [PICTURES[label] for label in labels]
    table = score_block(Counting(tiny_model(), threads=1), RowBlock(keys(8), pictures), maximum_pixels=10_000)
    assert table.column("label").to_pylist() == labels
    assert seen == [3, 3, 2]


def test_every_row_is_in_the_output_once(tmp_path: Path, recognizer: Recognizer) -> None:
    labels = some_labels(300)
    write_parquet(tmp_path / "in" / "a.parquet", labels[:140])
    write_parquet(tmp_path / "in" / "b.parquet", labels[140:], first=140)
    results = score_all(recognizer, plan_of(tmp_path, rows_per_part=60, block_rows=25))
    table = read_output(tmp_path / "out")
    assert table.column("number").to_pylist() == list(range(300))
    assert table.column("label").to_pylist() == labels
    assert sum(result.rows for result in results) == 300
    counted = {label: sum((result.labels or {}).get(label, 0) for result in results) for label in EMOTIONS}
    assert counted == {label: labels.count(label) for label in EMOTIONS}


def test_finished_parts_are_kept_and_damaged_ones_computed_again(tmp_path: Path, recognizer: Recognizer) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(50))
    plan = plan_of(tmp_path, rows_per_part=10)
    first = score_all(recognizer, plan)
    path = tmp_path / "out" / part_name(1)
    before = {number: (tmp_path / "out" / part_name(number)).stat().st_mtime_ns for number in (0, 1)}
    path.write_bytes(path.read_bytes()[:-30])
    second = score_all(recognizer, plan)
    after = {number: (tmp_path / "out" / part_name(number)).stat().st_mtime_ns for number in (0, 1)}
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert [result.seconds > 0 for result in second] == [False, True, False, False, False]
    assert [(r.rows, r.labels) for r in first] == [(r.rows, r.labels) for r in second]
    assert read_output(tmp_path / "out").column("number").to_pylist() == list(range(50))


def test_the_file_of_another_plan_does_not_count(tmp_path: Path, recognizer: Recognizer) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    plan = plan_of(tmp_path)
    score_all(recognizer, plan)
    output = Place(plan.output)
    assert read_result(output, plan, 0) is not None
    other = plan_of(tmp_path)
    assert other.identity != plan.identity
    assert read_result(output, other, 0) is None
    content = {"plan": plan.identity, "rows": 1, "bad_rows": 0, "labels": {}}
    for text in ("", "[]", "null", "[" * 100_000, '{"plan": 1}', json.dumps(content | {"labels": []}),
                 json.dumps(content | {"bad_rows": None}), json.dumps(content | {"labels": {"sad": "x"}})):  # fmt: skip
        table = pa.table({"x": [1]}).replace_schema_metadata({"ferdeploy": text})
        pq.write_table(table, tmp_path / "out" / part_name(0))
        assert read_result(output, plan, 0) is None, text[:40]
    (tmp_path / "out" / part_name(0)).unlink()
    os.mkfifo(tmp_path / "out" / part_name(0))
    assert read_result(output, plan, 0) is None


@pytest.mark.parametrize("kind", ["parquet", "images", "webdataset"])
def test_values_in_the_names_of_folders_become_columns(tmp_path: Path, recognizer: Recognizer, kind: str) -> None:
    for folder in ("label=happy/year=2024", "label=very%20sad", "label=__HIVE_DEFAULT_PARTITION__", "plain"):
        path = tmp_path / "in" / folder
        path.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(pa.table({"image": [PICTURES["sad"]]}), path / "a.parquet")
        elif kind == "images":
            (path / "a.png").write_bytes(PICTURES["sad"])
        else:
            with tarfile.open(path / "a.tar", "w") as archive:
                archive.add(write(tmp_path / "a.png", PICTURES["sad"]), "a.png")
    plan = plan_of(tmp_path, kind=kind)
    assert set(plan.folders) == {"label", "year"}
    assert open_plan(Place.of(plan.output)) == plan
    score_all(recognizer, plan)
    rows = read_output(tmp_path / "out").to_pylist()
    assert {(row["input_label"], row["year"], row["label"]) for row in rows} == {
        ("happy", "2024", "sad"), ("very sad", None, "sad"), (None, None, "sad"),
    }  # fmt: skip
    assert len(rows) == 4


def test_a_part_without_rows_gives_a_file_without_rows(tmp_path: Path, recognizer: Recognizer) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(bytes(10_240))
    (result,) = score_all(recognizer, plan_of(tmp_path, kind="webdataset"))
    assert (result.rows, result.bad_rows) == (0, 0)
    assert read_output(tmp_path / "out").column_names == ["shard", "row", "key", "label", "probability", *EMOTIONS,
                                                          "error"]  # fmt: skip


def test_a_part_that_kills_its_workers_is_refused(tmp_path: Path, recognizer: Recognizer) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    plan = plan_of(tmp_path)
    output = Place(plan.output)

    class DyingError(Exception):
        """Stands for `kill -9`."""

    class Deadly:
        def blocks(self, _part: object) -> object:
            raise DyingError

        schema = plan.source().schema

    for _ in range(module.RETRIES + 1):
        with pytest.raises(DyingError):
            score_part(recognizer, plan, Deadly(), plan.list_parts()[0], number=0, output=output)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="part 0: 4 workers in a row died while computing it"):
        score_part(recognizer, plan, Deadly(), plan.list_parts()[0], number=0, output=output)  # type: ignore[arg-type]
    assert not (tmp_path / "out" / part_name(0)).exists()
    assert not list((tmp_path / "out").glob(".part-*")), "no half-written file remains"


def test_a_finished_part_leaves_no_count_of_attempts(tmp_path: Path, recognizer: Recognizer) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    score_all(recognizer, plan_of(tmp_path))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_plan", part_name(0)]


_MEMORY = """
import sys
from fer_deploy.recognizer import Recognizer
from fer_deploy.score.part import score_part
from fer_deploy.score.places import Place
from fer_deploy.score.plan import open_plan

def peak():
    with open("/proc/self/status") as status:  # ru_maxrss would be that of the process which started this one
        return [int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")][0]

folder, model = sys.argv[1:]
plan, output = open_plan(Place.of(folder + "/out")), Place.of(folder + "/out")
recognizer, source, (part,) = Recognizer(model, threads=1), plan.source(), plan.list_parts()
before = peak()
result = score_part(recognizer, plan, source, part, number=0, output=output)
print(result.rows, result.bad_rows, before, peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured with /proc")
def test_memory_is_bounded_by_the_block_and_not_by_the_input(tmp_path: Path, model: Path) -> None:
    """One part of one row group: 300 MB of pictures, of which a block holds 6."""
    heavy = PICTURES["happy"] + np.random.default_rng(0).bytes(300_000)  # decoders ignore what follows the end of a PNG
    (tmp_path / "in").mkdir()
    table = pa.table({"image": pa.array([heavy] * 1000, pa.binary())})
    path = tmp_path / "in" / "a.parquet"
    # A page is the smallest unit that is read; pyarrow writes 1024 rows to a page unless `write_batch_size` is smaller.
    pq.write_table(table, path, row_group_size=1000, use_dictionary=False, compression="none", write_batch_size=8)
    del table
    plan = plan_of(tmp_path, block_rows=20)
    assert (plan.parts, plan.rows) == (1, 1000)
    command = [sys.executable, "-c", _MEMORY, str(tmp_path), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, bad_rows, before, after = map(int, done.stdout.split())
    assert (rows, bad_rows) == (1000, 0)
    assert after - before < 150, f"{before} MB before, {after} MB at most"


WORDS = ("happy", "row", "input_x", "probability_row", "سعيد")


@pytest.mark.parametrize("kind", ["parquet", "images"])
def test_the_columns_follow_the_models_labels(tmp_path: Path, kind: str) -> None:
    """A label named as another column has a column of another name; input columns give way to the labels'."""
    recognizer = Recognizer(tiny_model(labels=WORDS), threads=1)
    pictures = [encoded(label) for label in ("angry", "neutral")]
    source = tmp_path / "in"
    if kind == "parquet":
        source.mkdir()
        table = {"image": pa.array(pictures, pa.binary()), "happy": [1, 2], "sad": [3, 4], "سعيد": [5, 6], "x": [7, 8]}
        pq.write_table(pa.table(table), source / "a.parquet")
    else:
        (source / "happy=yes").mkdir(parents=True)
        for number, content in enumerate(pictures):
            write(source / "happy=yes" / f"{number}.png", content)
    plan = make_plan(
        Place.of(str(source)), Place.of(str(tmp_path / "out")), kind=kind, options=InputOptions(), model="m.onnx",
        model_sha256="00", labels=WORDS,
    )  # fmt: skip
    assert open_plan(Place(plan.output)) == plan
    score_all(recognizer, plan)
    table = read_output(tmp_path / "out")
    columns = ["happy", "probability_probability_row", "input_x", "probability_row", "سعيد"]
    labels = ["label", "probability", *columns, "error"]
    if kind == "parquet":
        assert table.column_names == ["file", "row", "input_happy", "sad", "input_سعيد", "x", *labels]
        assert table.column("input_happy").to_pylist() == [1, 2]
    else:
        assert table.column_names == ["path", "input_happy", *labels]
        assert table.column("input_happy").to_pylist() == ["yes", "yes"]
    assert table.column("label").to_pylist() == ["happy", "سعيد"]
    for name in columns:
        assert table.column(name).type == pa.float32()
    np.testing.assert_allclose(sum(table.column(name).to_numpy() for name in columns), 1, atol=1e-5)


def test_a_plan_without_labels_has_the_seven(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", ["sad"])
    plan = plan_of(tmp_path)
    path = tmp_path / "out" / "_plan" / "plan.json"
    table = json.loads(path.read_text("utf-8"))
    assert table.pop("labels") == list(EMOTIONS)
    path.write_text(json.dumps(table))
    assert open_plan(Place(plan.output)) == plan
