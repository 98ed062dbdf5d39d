"""The kill test with few rows: a worker and the driver are killed, and no row is lost or doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import score_kills

from fer_deploy import EMOTIONS, Recognizer
from score.conftest import read_output

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it finds processes in /proc")


@needs_proc
def test_each_row_is_written_once_after_kills_and_a_resume(tmp_path: Path, model: Path) -> None:
    command = [sys.executable, score_kills.__file__, "--model", str(model), "--rows", "4000"]
    command += ["--rows-per-part", "50", "--folder", str(tmp_path), "--json", str(tmp_path / "trial.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads((tmp_path / "trial.json").read_text())["killed"]
    assert figures["rows"] == 4000
    assert figures["lost"] == figures["doubled"] == figures["wrong"] == 0
    assert 0 < figures["parts_at_worker_kill"] < figures["parts_at_driver_kill"] < figures["parts"]
    assert sorted(read_output(tmp_path / "killed-out").column("number").to_pylist()) == list(range(4000))


@needs_proc
def test_whole_runs_are_timed(tmp_path: Path, model: Path) -> None:
    score_kills.write_input(tmp_path / "in", 300)
    command = [sys.executable, "-m", "fer_deploy", "score", str(tmp_path / "in"), str(tmp_path / "out")]
    timed = score_kills.time_run([*command, "--model", str(model)], workers=1)
    assert (timed.workers, timed.rows) == (1, 300)
    assert timed.rows_per_second == pytest.approx(300 / timed.seconds)


def test_what_is_lost_doubled_or_wrong_is_counted(tmp_path: Path, recognizer: Recognizer) -> None:
    contents = score_kills.write_input(tmp_path / "in", 40, different=5)
    expected = np.array([list(face.probabilities.values()) for face in recognizer.predict(contents)], np.float32)

    def write(numbers: list[int]) -> None:
        values = expected[np.array(numbers) % 5]
        columns = {label: values[:, i] for i, label in enumerate(EMOTIONS)}
        table = {"number": numbers, "label": [EMOTIONS[i] for i in values.argmax(axis=1)], **columns}
        pq.write_table(pa.table(table), tmp_path / "part-0.parquet")

    write(list(range(40)))
    assert score_kills.count_output(tmp_path, 40, expected, EMOTIONS) == score_kills.Counted(40, 0, 0, 0)
    write([*range(1, 40), 7, 7, 8])
    assert score_kills.count_output(tmp_path, 40, expected, EMOTIONS) == score_kills.Counted(42, 1, 3, 0)
    expected[3] = np.roll(expected[3], 1)
    write(list(range(40)))
    expected[3] = np.roll(expected[3], -1)
    assert score_kills.count_output(tmp_path, 40, expected, EMOTIONS) == score_kills.Counted(40, 0, 0, 8)
