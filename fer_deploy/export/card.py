"""A Hugging Face model card, and the folder that `huggingface_hub` uploads: one repository a model.

`exports/hub/B+E/` holds README.md (the card), the model's files in every exported precision, and the manifest and
golden vectors with which anyone who downloads it can run `ferdeploy verify`. Nothing is uploaded from here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fer_deploy.ensemble import member_runs
from fer_deploy.errors import ExportError, RunError, UnavailableError, install
from fer_deploy.export.card_text import Card
from fer_deploy.export.golden import read_golden_input, write_golden_inputs
from fer_deploy.export.manifest import MANIFEST, read_manifest
from fer_deploy.files import replacing, write_json, write_text
from fer_deploy.model.contract import read_model_file
from fer_deploy.training.record import has_record, read_record

HUB = "hub"
"""The folder of upload folders, in the exports folder."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
"""An SPDX licence identifier, https://spdx.org/licenses."""


def write_card(name: str, *, folder: Path) -> Path:
    """Write the upload folder of the model `name`, with all its files of `folder`.

    Args:
        name: the model's name, as in `B+E`.
        folder: the exports folder, with its manifest. The runs' records, which describe the data, are expected in
            `training/` next to it.

    Returns:
        The upload folder.

    Raises:
        UnavailableError: huggingface_hub is not installed.
        ExportError: the manifest has no such model, or one of its files is missing.
    """
    try:
        from huggingface_hub import ModelCard
    except ModuleNotFoundError:
        raise UnavailableError(f"--card needs huggingface_hub: {install('train')}") from None
    manifest = read_manifest(folder)
    names = [file for file, entry in manifest.files.items() if entry.get("name") == name] if manifest else []
    missing = [file for file in names if not (folder / file).is_file()]
    if manifest is None or not names or missing:
        raise ExportError(f"{folder} has no file {missing[0] if missing else f'of {name}'}: export it first")
    records = {file: manifest.card(file) for file in names}
    contracts = {file: read_model_file(folder / file)[1] for file in names}
    first = min(names, key=lambda file: (contracts[file].is_static, records[file].precision != "fp32"))
    runs = _run_records(member_runs(contracts[first].members), folder.absolute().parent / "training")
    card = Card(name, first, records, contracts[first], runs)
    target = folder / HUB / name
    write_text(target / "README.md", str(ModelCard(f"---\n{_header(card)}\n---\n{card.text()}")))
    for old in target.glob("*.onnx"):
        if old.name not in names:
            old.unlink()
    for file in names:
        with replacing(target / file) as temporary:
            shutil.copyfile(folder / file, temporary)
    write_golden_inputs(target, [read_golden_input(folder, record) for record in manifest.golden])
    write_json(target / MANIFEST, {**manifest.content, "files": {file: manifest.files[file] for file in names}})
    return target


def _run_records(runs: Iterable[str], folder: Path) -> dict[str, Mapping[str, Any]]:
    """The records of these runs in `folder`, by run; without those that are absent or damaged."""
    records: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        with suppress(RunError):
            if has_record(folder / run):
                records[run] = read_record(folder / run / "run.json")
    return records


def _header(card: Card) -> str:
    """The card's metadata, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Facial expression recognition",
            dataset_type="fer2013" if record.accuracy_split == "PrivateTest" else "other",
            dataset_name="FER2013" if record.accuracy_split == "PrivateTest" else str(record.accuracy_split),
            dataset_split=str(record.accuracy_split),
            metric_type="accuracy",
            metric_name=f"accuracy ({record.precision})",
            metric_value=round(record.accuracy, 4),
        )
        for record in card.records.values()
        if record.accuracy is not None
    ]
    text = card.license or ""
    license: dict[str, Any] = {"license": text.lower()} if text else {}
    if not _IDENTIFIER.fullmatch(text) and text:
        license = {"license": "other", "license_name": re.sub("[^a-z0-9.]+", "-", text.lower()).strip("-") or "other"}
    data = ModelCardData(
        **license,
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=[
            *("facial-expression-recognition", "emotion", "onnx", "onnxruntime"),
            *(["fer2013"] if card.on_fer2013 else []),
        ],
        metrics=["accuracy"],
        model_name=card.name,
        eval_results=results or None,
    )
    return str(data.to_yaml())
