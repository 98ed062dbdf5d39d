"""Whole runs on a real Ray: every kind of input, resumed runs, workers that die."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_deploy import EMOTIONS
from fer_deploy.errors import DataError, ModelFileError, UnavailableError
from fer_deploy.score.options import InputOptions, ScoreJob, WorkerOptions
from fer_deploy.score.part import PartResult
from fer_deploy.score.places import Place
from fer_deploy.score.plan import ScorePlan, part_name
from fer_deploy.score.run import run
from fer_deploy.score.watcher import ScoreWatcher
from fer_deploy.score.workers import plan_workers
from score.conftest import PICTURES, read_output, some_labels, write_parquet

pytestmark = pytest.mark.usefixtures("local_ray")


def job(folder: Path, model: Path, **changes: Any) -> ScoreJob:
    options = InputOptions(**{"rows_per_part": 50, "block_rows": 20} | changes.pop("options", {}))
    workers = WorkerOptions(**changes.pop("workers", {}))
    return ScoreJob(str(folder / "in"), str(folder / "out"), str(model), options=options, workers=workers, **changes)


class Recording(ScoreWatcher):
    """Keeps what a run reports."""

    def __init__(self) -> None:
        self.done: int | None = None
        self.parts: list[PartResult] = []
        self.messages: list[str] = []

    def planned(self, plan: ScorePlan, *, done: int) -> None:
        self.done = done

    def part(self, result: PartResult) -> None:
        self.parts.append(result)

    def message(self, text: str) -> None:
        self.messages.append(text)


def write_pictures(folder: Path, labels: list[str]) -> None:
    for number, label in enumerate(labels):
        path = folder / f"{number % 3}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURES[label])


def write_shards(folder: Path, labels: list[str]) -> None:
    folder.mkdir()
    for shard in range(3):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as file:
            for number in range(shard, len(labels), 3):
                member = tarfile.TarInfo(f"{number:04d}.png")
                member.size = len(PICTURES[labels[number]])
                file.addfile(member, io.BytesIO(PICTURES[labels[number]]))


def write_input(kind: str, folder: Path, labels: list[str]) -> None:
    """One input of each kind that `score` reads."""
    if kind == "parquet":
        write_parquet(folder / "a.parquet", labels)
    elif kind == "images":
        write_pictures(folder, labels)
    else:
        write_shards(folder, labels)


@pytest.mark.parametrize("kind", ["parquet", "images", "webdataset"])
def test_every_row_of_each_kind_of_input_is_in_the_output_once(tmp_path: Path, model: Path, kind: str) -> None:
    labels = some_labels(240)
    write_input(kind, tmp_path / "in", labels)
    watcher = Recording()
    summary = run(job(tmp_path, model, workers={"workers": 2}), watcher=watcher)
    assert summary.is_whole
    assert (summary.rows, summary.rows_now, summary.bad_rows) == (240, 240, 0)
    assert summary.labels == Counter(labels)
    assert len(watcher.parts) == summary.parts >= 3
    rows = read_output(tmp_path / "out").to_pylist()
    if kind == "parquet":
        found = {row["number"]: row["label"] for row in rows}
    else:
        name = "path" if kind == "images" else "key"
        found = {int(Path(row[name]).stem): row["label"] for row in rows}
    assert len(rows) == 240
    assert [found[number] for number in range(240)] == labels
    summary_file = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary_file["whole"] is True
    assert summary_file["rows"] == 240
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]  # noqa: PTH208


def test_a_complete_run_is_not_computed_again(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(100))
    first = run(job(tmp_path, model))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    again = run(job(tmp_path, model))
    assert (again.rows, again.rows_now, again.labels) == (100, 0, first.labels)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")} == times


def test_only_missing_and_damaged_parts_are_computed(tmp_path: Path, model: Path) -> None:
    labels = some_labels(300)
    write_parquet(tmp_path / "in" / "a.parquet", labels)
    run(job(tmp_path, model))
    for number in (1, 4):
        (tmp_path / "out" / part_name(number)).unlink()
    damaged = tmp_path / "out" / part_name(2)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (tmp_path / "out" / ".part-00000001.parquet.x.partial").write_bytes(b"left by a dead worker")
    watcher = Recording()
    summary = run(job(tmp_path, model), watcher=watcher)
    assert watcher.done == summary.parts - 3
    assert sorted(part.number for part in watcher.parts) == [1, 2, 4]
    assert summary.rows_now == 150
    assert read_output(tmp_path / "out").column("number").to_pylist() == list(range(300))
    assert not list((tmp_path / "out").glob(".part-*"))


def test_a_worker_that_dies_loses_no_row(tmp_path: Path, model: Path) -> None:
    labels = some_labels(600)
    write_parquet(tmp_path / "in" / "a.parquet", labels)

    class Killer(Recording):
        killed: int | None = None

        def part(self, result: PartResult) -> None:
            super().part(result)
            if self.killed is None:
                self.killed = int(result.worker.rpartition(":")[2])
                os.kill(self.killed, signal.SIGKILL)

    watcher = Killer()
    summary = run(job(tmp_path, model, workers={"workers": 1}, options={"rows_per_part": 10}), watcher=watcher)
    assert watcher.killed is not None
    others = {result.worker for result in watcher.parts if result.worker} - {watcher.parts[0].worker}
    assert others, "another worker continued"
    assert summary.is_whole
    table = read_output(tmp_path / "out")
    assert sorted(table.column("number").to_pylist()) == list(range(600))
    assert table.column("label").to_pylist() == labels


def test_bad_pictures_are_rows_with_an_error(tmp_path: Path, model: Path) -> None:
    write_pictures(tmp_path / "in", some_labels(30))
    bomb = io.BytesIO()
    Image.new("L", (3000, 3000)).save(bomb, "PNG")
    bad = {
        "cut.png": PICTURES["happy"][:60],
        "empty.jpg": b"",
        "text.jpg": b"not a picture at all",
        "huge.png": bomb.getvalue(),
    }
    for name, content in bad.items():
        (tmp_path / "in" / name).write_bytes(content)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "in" / "loop.png").symlink_to(tmp_path / "in" / "loop.png")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes(PICTURES["sad"])
    summary = run(job(tmp_path, model, options={"maximum_pixels": 1_000_000}))
    rows = {row["path"]: row for row in read_output(tmp_path / "out").to_pylist()}
    assert (summary.rows, summary.bad_rows) == (37, 6)
    assert summary.is_whole
    for name in (*bad, "nowhere.png", "loop.png"):
        assert rows[name]["error"], name
        assert "\n" not in rows[name]["error"]
        assert rows[name]["label"] is None
    (odd,) = (row for name, row in rows.items() if name.startswith("caf"))
    assert (odd["label"], odd["error"]) == ("sad", None)


def test_a_part_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(100))
    write_parquet(tmp_path / "in" / "b.parquet", some_labels(100), first=100)
    first = run(job(tmp_path, model))
    assert first.is_whole
    for path in (tmp_path / "out").glob("part-*"):
        path.unlink()
    write_parquet(tmp_path / "in" / "b.parquet", some_labels(50), first=100)  # changed since the plan was made
    summary = run(job(tmp_path, model))
    assert not summary.is_whole
    assert summary.rows == 100
    assert any("b.parquet" in problem and "changed" in problem for problem in summary.problems)


def test_folder_names_need_not_be_utf_8(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "cafe" / "in" / "a.parquet", some_labels(50))
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        (tmp_path / "cafe").rename(folder)
    except OSError:
        pytest.skip("this file system accepts UTF-8 only")
    assert run(ScoreJob(str(folder / "in" / "a.parquet"), str(tmp_path / "one"), str(model))).rows == 50
    assert run(job(folder, model)).rows == 50
    assert json.loads((folder / "out" / "_summary.json").read_text())["input"].endswith("caf\udce9/in")


def test_a_run_with_another_model_is_refused(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(60))
    run(job(tmp_path, model))
    from tiny_model import tiny_model

    other = tmp_path / "other.onnx"
    other.write_bytes(tiny_model(metadata={"name": "other"}))
    with pytest.raises(DataError, match="holds a run with another model sha256"):
        run(job(tmp_path, other))
    with pytest.raises(DataError, match="is inside the input"):
        run(ScoreJob(str(tmp_path), str(tmp_path / "out"), str(model)))
    assert run(job(tmp_path, other, restart=True)).rows_now == 60


def test_unusable_models_inputs_and_providers_are_refused(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    with pytest.raises(ModelFileError, match="absent"):
        run(job(tmp_path, tmp_path / "absent.onnx"))
    with pytest.raises(DataError, match="no such file or folder"):
        run(ScoreJob(str(tmp_path / "nothing"), str(tmp_path / "out"), str(model)))
    with pytest.raises(UnavailableError, match="no qnn, only"):
        run(job(tmp_path, model, workers={"providers": ("qnn",)}))


def test_workers_that_fit_on_no_machine_are_refused(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(10))
    with pytest.raises(UnavailableError, match="a worker needs 64 cores, and Ray has no such machine"):
        run(job(tmp_path, model, workers={"threads": 64}))
    with pytest.raises(UnavailableError, match="a worker needs 1 core and a GPU, and Ray has no such machine"):
        run(job(tmp_path, model, workers={"providers": ("cuda",), "address": "auto"}))


def test_ray_is_never_asked_for_more_workers_than_fit(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    sizes: list[int] = []
    pool = ray.data.ActorPoolStrategy

    def recording_pool(*, size: int, **options: Any) -> Any:
        sizes.append(size)
        return pool(size=size, **options)

    monkeypatch.setattr(ray.data, "ActorPoolStrategy", recording_pool)
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(300))
    assert run(job(tmp_path, model, workers={"workers": 64})).is_whole
    assert sizes == [2], "the tests' Ray has two cores, and the plan more than two parts"


@pytest.mark.parametrize(
    ("options", "machines", "parts", "expected"),
    [
        ({}, [{"CPU": 4.0}, {"CPU": 2.0}], 100, (6, False)),
        ({"workers": 3}, [{"CPU": 4.0}], 100, (3, False)),
        ({"workers": 64}, [{"CPU": 4.0}], 100, (4, False)),
        ({}, [{"CPU": 4.0}], 2, (2, False)),
        ({"threads": 3}, [{"CPU": 4.0}, {"CPU": 7.0}], 100, (3, False)),
        ({"providers": ("cuda", "cpu")}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], 100, (2, True)),
        ({"providers": ("cuda",)}, [{"CPU": 2.0, "GPU": 8.0}], 100, (2, True)),
        ({"providers": ("coreml",)}, [{"CPU": 8.0}], 100, (8, False)),
    ],
)
def test_workers_are_as_many_as_have_room_and_work(
    options: dict[str, Any], machines: list[dict[str, float]], parts: int, expected: tuple[int, bool]
) -> None:
    assert plan_workers(WorkerOptions(**options), machines, parts) == expected


def test_a_part_that_takes_too_long_is_given_up_and_the_others_are_computed(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "in" / "quick.parquet", some_labels(5))
    write_parquet(tmp_path / "in" / "slow.parquet", some_labels(20_000), first=5)
    workers = {"workers": 1, "part_minutes": 0.0125}
    summary = run(job(tmp_path, model, workers=workers, options={"rows_per_part": 20_000}))
    assert not summary.is_whole
    assert (summary.parts, summary.parts_done, summary.rows) == (2, 1, 5)
    assert summary.problems == ("part 1: not finished within 0.0125 minutes: see --part-minutes",)


@pytest.mark.parametrize("kind", ["parquet", "images", "webdataset"])
def test_an_object_store_holds_input_and_output(tmp_path: Path, model: Path, s3_bucket: str, kind: str) -> None:
    labels = some_labels(60)
    write_input(kind, tmp_path / "in", labels)
    source, output = s3_bucket.format(f"{kind}/in"), s3_bucket.format(f"{kind}/out")
    store, path = pyarrow.fs.FileSystem.from_uri(source)
    pyarrow.fs.copy_files(str(tmp_path / "in"), path, destination_filesystem=store)
    scoring = ScoreJob(source, output, str(model), options=InputOptions(rows_per_part=25, block_rows=20))
    summary = run(scoring)
    assert summary.is_whole
    assert (summary.rows, summary.bad_rows, summary.labels) == (60, 0, Counter(labels))
    assert run(scoring).rows_now == 0
    place = Place.of(output)
    place.delete(part_name(0))
    assert run(scoring).rows_now > 0
    assert b"secret" not in place.read(b"_plan/plan.json", maximum_bytes=10_000)
    assert b"secret" not in place.read(b"_summary.json", maximum_bytes=10_000)


def test_the_output_has_the_columns_of_the_input_and_of_the_model(tmp_path: Path, model: Path) -> None:
    write_parquet(tmp_path / "in" / "a.parquet", some_labels(60))
    run(job(tmp_path, model, options={"keep": ("number",)}))
    schema = pq.read_schema(tmp_path / "out" / part_name(0))
    assert schema.names == ["file", "row", "number", "label", "probability", *EMOTIONS, "error"]
