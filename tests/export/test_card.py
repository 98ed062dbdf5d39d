"""Model cards and upload folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from fer_deploy.ensemble import STUDY_SOURCE
from fer_deploy.errors import ExportError
from fer_deploy.export.card import write_card
from fer_deploy.export.golden import draw_golden_inputs
from fer_deploy.export.metadata import ExportedFile


def test_the_upload_folder_is_complete_and_the_hub_reads_the_card(
    exports: dict[str, ExportedFile], tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = tmp_path / "exports"
    shutil.copytree(exports["B.onnx"].path.parent, folder)
    target = write_card("B", folder=folder)
    assert target == folder / "hub" / "B"
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {"README.md", "manifest.json", "B.onnx", "B.fp16.onnx"} <= names
    assert not any("E" in name.removesuffix("README.md") for name in names)
    card = hub.ModelCard.load(target / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "onnx"
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["accuracy (fp32)"] == pytest.approx(exports["B.onnx"].accuracy, abs=1e-4)
    assert all(result.dataset_type == "other" for result in card.data.eval_results)  # drawn faces are not FER2013
    for heading in ("Use", "Evaluation", "Training data", "Intended use and limits", "Licence"):
        assert f"\n## {heading}\n" in card.text
    assert "B.onnx" in card.text.split("```python\n")[1]  # and not a file of fixed size, where there is one
    (target / "B.int8.onnx").write_bytes(b"of an earlier upload")
    assert write_card("B", folder=folder) == target
    assert not (target / "B.int8.onnx").exists()
    assert {path.name for path in (target / "golden").iterdir()} == {
        Path(golden.file).name for golden in draw_golden_inputs()
    }


def test_the_cards_code_runs(exports: dict[str, ExportedFile], tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    from PIL import Image

    folder = tmp_path / "exports"
    shutil.copytree(exports["B.onnx"].path.parent, folder)
    target = write_card("B", folder=folder)
    code = (target / "README.md").read_text().split("```python\n")[1].split("```")[0]
    picture = draw_golden_inputs()[1].pictures[0]
    Image.fromarray(picture).save(tmp_path / "face.png")
    code = code.replace("face.jpg", str(tmp_path / "face.png")).replace('"B.onnx"', f"{str(target / 'B.onnx')!r}")
    printed: list[np.ndarray] = []
    exec(code, {"print": printed.append})
    manifest = json.loads((target / "manifest.json").read_text())
    recorded = manifest["files"]["B.onnx"]["golden"]["outputs"]["golden/colour-48x48.bin"][0]
    np.testing.assert_allclose(printed[0], recorded, atol=1e-6)


def test_the_studys_weights_come_with_a_warning(exports: dict[str, ExportedFile], tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "exports"
    shutil.copytree(exports["B.onnx"].path.parent, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["B+B~mirror+E.rrf.onnx"]["weights_source"] = STUDY_SOURCE
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = (write_card("B+B~mirror+E.rrf", folder=folder) / "README.md").read_text()
    assert "that figure is optimistic" in text
    assert "reciprocal rank fusion" in text


def test_a_file_that_records_no_gflops_has_a_card_without_them(
    exports: dict[str, ExportedFile], tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "exports"
    shutil.copytree(exports["B.onnx"].path.parent, folder)
    model = onnx.load(folder / "B.onnx")
    (entry,) = (entry for entry in model.metadata_props if entry.key == "gflops")
    model.metadata_props.remove(entry)
    onnx.save(model, folder / "B.onnx")
    text = (write_card("B", folder=folder) / "README.md").read_text()
    assert "## Evaluation" in text
    assert "GFLOPs" not in text


def test_a_card_for_a_model_that_was_not_exported_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ExportError, match="no file of B"):
        write_card("B", folder=tmp_path)
