"""The manifest, when several exports write to it, and its golden inputs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fer_deploy.export.golden import draw_golden_inputs
from fer_deploy.export.manifest import record_file
from fer_deploy.export.metadata import ExportedFile


def test_entries_of_other_files_are_kept_until_the_golden_inputs_change(
    exports: dict[str, ExportedFile], tmp_path: Path
) -> None:
    record_file(tmp_path, "B.onnx", {"name": "B"})
    record_file(tmp_path, "E.onnx", {"name": "E"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["files"] == {"B.onnx": {"name": "B"}, "E.onnx": {"name": "E"}}
    manifest["golden"][0]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    record_file(tmp_path, "E.onnx", {"name": "E"})
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["E.onnx"]


def test_simultaneous_exports_into_one_folder_lose_no_entry(tmp_path: Path) -> None:
    names = [f"{number}.onnx" for number in range(40)]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda name: record_file(tmp_path, name, {"name": name}), names))
    assert sorted(json.loads((tmp_path / "manifest.json").read_text())["files"]) == sorted(names)


def test_golden_inputs_have_grey_and_colour_ones() -> None:
    inputs = {golden.file: golden.pictures for golden in draw_golden_inputs()}
    for file, pictures in inputs.items():
        grey = bool((pictures == pictures[..., :1]).all())
        assert grey == ("grey" in file)
    assert sum(pictures.nbytes for pictures in inputs.values()) < 500_000  # they are committed
