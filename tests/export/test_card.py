"""Model cards and upload folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from own_faces import own_dataset
from trained_runs import train_network, write_run

from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import STUDY_SOURCE
from fer_deploy.errors import ExportError
from fer_deploy.export.card import write_card
from fer_deploy.export.golden import draw_golden_inputs
from fer_deploy.export.metadata import ExportedFile
from fer_deploy.export.plan import FER2013_LICENSE, Plan, plan_run
from fer_deploy.export.write import export_plan
from fer_deploy.model.contract import check_model_file


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
    assert card.data.license is None  # the data is not FER2013: nothing is claimed
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


def _card(run_data: dict[str, object], tmp_path: Path, *, license: str | None = None, labels: tuple[str, ...]) -> str:
    """The card of a run with this record of its data, exported without faces."""
    pytest.importorskip("huggingface_hub")
    network = train_network(own_dataset(labels, training=2 * len(labels)), seed=0, epochs=1)
    run = write_run(tmp_path, "A", network, labels=labels)
    record = json.loads((run.folder / "run.json").read_text())
    record["data"] |= run_data
    record["initialisation"] = "weights of somebody"
    (run.folder / "run.json").write_text(json.dumps(record))
    plan = plan_run("A", workspace=tmp_path)
    export_plan(plan if license is None else plan.licensed(license), folder=tmp_path / "exports")
    return (write_card("A", folder=tmp_path / "exports") / "README.md").read_text()


def test_the_card_of_ones_own_data_claims_nothing_and_asks_its_owner(tmp_path: Path) -> None:
    summary = {
        "labels": ["good", "bad|worse"],
        "splits": [{"name": "training", "title": "training", "pictures": 1203, "classes": [1200, 3]}],
        "sizes": {"smallest": [64, 48], "largest": [200, 180]},
        "notes": ["labels were merged as good: 3 <b>fine</b>, 7 good"],
    }
    text = _card({"name": "photos", "summary": summary}, tmp_path, labels=("good", "bad|worse"))
    header, _, body = text.removeprefix("---").partition("---")
    assert "license" not in header
    assert "fer2013" not in text.lower()
    assert "Goodfellow" not in text
    assert "Not stated by the owner of the model." in body
    assert "float32 `[batch, 2]`" in body
    assert "| good | 1,200 |\n| bad\\|worse | 3 |\n| all | 1,203 |" in body
    assert "64x48 to 200x180 pixels" in body
    assert "3 &lt;b>fine" in body
    for advice in ("--license", "- Data: ", "- Labels: ", "- People: ", "- Use: ", "started from: weights of somebody"):
        assert advice in body.split("## What the owner should add")[1]


@pytest.mark.parametrize(
    ("stated", "identifier", "name"), [("MIT", "mit", None), ("Ours, 2026: ask first", "other", "ours-2026-ask-first")]
)
def test_a_stated_licence_is_in_the_file_and_on_the_card(
    stated: str, identifier: str, name: str | None, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    text = _card(
        {"name": "photos", "summary": {"labels": 3, "splits": "x"}}, tmp_path, license=stated, labels=("a", "b")
    )
    assert check_model_file(tmp_path / "exports" / "A.onnx").metadata["license"] == stated
    data = hub.ModelCard(text).data
    assert (data.license, data.get("license_name")) == (identifier, name)
    assert f"## Licence\n\n{stated}." in text
    assert "ferdeploy export --license" not in text


@pytest.mark.parametrize("name", ["FER2013, mine.csv (not the official FER2013)", "FER2013 with glasses"])
def test_data_whose_name_begins_as_fer2013s_has_not_its_licence(tmp_path: Path, name: str) -> None:
    _card({"name": name}, tmp_path, labels=EMOTIONS)
    assert "license" not in check_model_file(tmp_path / "exports" / "A.onnx").metadata


def test_fer2013s_terms_and_limits_are_on_the_cards_of_its_models_alone(tmp_path: Path) -> None:
    text = _card({"name": "FER2013", "training_rows": 28006, "validation_rows": 3589}, tmp_path, labels=EMOTIONS)
    assert check_model_file(tmp_path / "exports" / "A.onnx").metadata["license"] == FER2013_LICENSE
    for words in (FER2013_LICENSE, "license: other", "- fer2013", "28,006 training faces", "about two thirds of its"):
        assert words in text
    assert "should add" not in text


def test_a_card_shows_recall_by_class_and_calibration(exports: dict[str, ExportedFile], tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "exports"
    shutil.copytree(exports["B.onnx"].path.parent, folder)
    text = (write_card("B", folder=folder) / "README.md").read_text()
    quality = exports["B.onnx"].quality
    assert quality is not None
    for label, recall in zip(EMOTIONS, quality.recall, strict=True):
        assert f"| {label} | {recall:.4f} |" in text
    assert f"Expected calibration error: {quality.calibration_error:.4f} (15 bins)" in text


@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "a\x1b[2J", "x" * 201])
def test_a_licence_is_one_printable_line(text: str, plan: Plan) -> None:
    with pytest.raises(ExportError, match="a licence is one line"):
        plan.licensed(text)


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
