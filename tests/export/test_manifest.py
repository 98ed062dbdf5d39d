"""The manifest, when several exports write to it, and its golden inputs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fer_deploy.errors import ModelFileError
from fer_deploy.export.golden import draw_golden_inputs
from fer_deploy.export.manifest import publish, read_manifest
from fer_deploy.export.metadata import ExportedFile


def test_entries_of_other_files_are_kept_until_the_golden_inputs_change(
    exports: dict[str, ExportedFile], tmp_path: Path
) -> None:
    publish(tmp_path, "B.onnx", b"one", {"name": "B"})
    publish(tmp_path, "E.onnx", b"two", {"name": "E"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["files"] == {"B.onnx": {"name": "B"}, "E.onnx": {"name": "E"}}
    manifest["golden"][0]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    publish(tmp_path, "E.onnx", b"two", {"name": "E"})
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["E.onnx"]


def test_simultaneous_exports_into_one_folder_lose_no_entry(tmp_path: Path) -> None:
    names = [f"{number}.onnx" for number in range(40)]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda name: publish(tmp_path, name, name.encode(), {"name": name}), names))
    assert sorted(json.loads((tmp_path / "manifest.json").read_text())["files"]) == sorted(names)
    assert all((tmp_path / name).read_bytes() == name.encode() for name in names)


def test_simultaneous_exports_of_one_file_record_the_file_that_is_there(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda number: publish(tmp_path, "B.onnx", b"%d" % number, {"sha256": number}), range(40)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (tmp_path / "B.onnx").read_bytes() == b"%d" % manifest["files"]["B.onnx"]["sha256"]


def test_the_next_export_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    publish(tmp_path, "B.onnx", b"one", {})
    left = [
        tmp_path / ".E.onnx.abc.partial",
        tmp_path / ".manifest.json.x.partial",
        tmp_path / "golden/.a.bin.z.partial",
    ]
    other = tmp_path / ".notes.partial"
    for path in (*left, other):
        path.write_bytes(b"half")
    publish(tmp_path, "E.onnx", b"two", {})
    assert not any(path.exists() for path in left)
    assert other.exists()


def test_a_damaged_manifest_stops_an_export_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ModelFileError, match=r"manifest\.json: damaged: must be an object, got a list"):
        publish(tmp_path, "B.onnx", b"one", {})
    assert not (tmp_path / "B.onnx").exists()
    assert (tmp_path / "manifest.json").read_text() == "[]"


@pytest.mark.parametrize("name", ["../B.onnx", "a/B.onnx", "/B.onnx", ".."])
def test_a_manifest_lists_files_of_its_own_folder_alone(name: str, tmp_path: Path) -> None:
    """A card copies the listed files: a name with a path in it would write outside the upload folder."""
    publish(tmp_path, "B.onnx", b"one", {})
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**content, "files": {name: {}}}))
    with pytest.raises(ModelFileError, match="is not the name of a file in its folder"):
        read_manifest(tmp_path)


def test_golden_inputs_have_grey_and_colour_ones() -> None:
    inputs = {golden.file: golden.pictures for golden in draw_golden_inputs()}
    for file, pictures in inputs.items():
        grey = bool((pictures == pictures[..., :1]).all())
        assert grey == ("grey" in file)
    assert sum(pictures.nbytes for pictures in inputs.values()) < 500_000  # they are committed
