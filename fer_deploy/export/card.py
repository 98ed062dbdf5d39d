"""A Hugging Face model card, and the folder that `huggingface_hub` uploads: one repository a model.

`exports/hub/B+E/` holds README.md (the card), the model's files in every exported precision, and the manifest and
golden vectors with which anyone who downloads it can run `ferdeploy verify`. Nothing is uploaded from here.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import STUDY_SOURCE
from fer_deploy.errors import ExportError, UnavailableError, install
from fer_deploy.export.golden import read_golden_input, write_golden_inputs
from fer_deploy.export.manifest import MANIFEST, CardRecord, read_manifest
from fer_deploy.files import replacing, write_json, write_text
from fer_deploy.model.contract import ModelContract, read_model_file

HUB = "hub"
"""The folder of upload folders, in the exports folder."""

Records = Mapping[str, CardRecord]
"""What the manifest records of a model's files, by file name."""

TEXT = """
# {name}

Recognises the expression of a face: {labels}. One ONNX file holds the preprocessing, {networks} and the softmax; it was
exported and checked against PyTorch with ferdeploy {version}.

## Files

| file | bytes | {split} accuracy | largest difference from PyTorch |
|---|---|---|---|
{files}

{members}

## Use

```python
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{file}")
face = np.asarray(Image.open("face.jpg").convert("RGB"))[None]      # uint8 [1, height, width, 3], any size
print(session.run(None, {{"faces": face}})[0][0])                    # probabilities of the labels above, in that order
```

- Input `faces`: uint8 `[batch, height, width, 3]`, RGB, {shape}. Grey is RGB with equal channels.
- Output `probabilities`: float32 `[batch, 7]`, rows that sum to 1.
- Luma, the antialiased resize and the scaling are inside: pass the unchanged pixels.
- The picture must be a face cropped like FER2013's: forehead to chin, ear to ear, about upright.
- `ferdeploy verify {file}` replays the golden vectors of `golden/`.

## Evaluation

{evaluation}

## Training data

{trained_on}. The images are not part of this repository, and their terms are their owners'.

## Intended use and limits

For counting, art, games, interface studies and research on pictures of people who agreed to it. Labels state what
annotators saw in a picture, not what a person felt, and people agree with FER2013's labels on about two thirds of its
faces (Goodfellow et al., 2013). The data is small, grey, collected by web search, and not balanced over age, sex, skin
colour or culture; accuracy differs between such groups and was not measured for them. Do not use it to judge people:
hiring, schooling, policing, health, insurance, lie detection. In the European Union, inferring emotions at work and in
education is prohibited, with few exceptions (Regulation 2024/1689, article 5).

## Licence

Code and weights: {license}. The training data is not included and has terms of its own.
"""


def write_card(name: str, *, folder: Path) -> Path:
    """Write the upload folder of the model `name`, with all its files of `folder`.

    Args:
        name: the model's name, as in `B+E`.
        folder: the exports folder, with its manifest.

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
    header = _header(name, records, license=contracts[first].metadata.get("license", ""))
    text = _text(name, first, records, contract=contracts[first])
    target = folder / HUB / name
    write_text(target / "README.md", str(ModelCard(f"---\n{header}\n---\n{text}")))
    for old in target.glob("*.onnx"):
        if old.name not in names:
            old.unlink()
    for file in names:
        with replacing(target / file) as temporary:
            shutil.copyfile(folder / file, temporary)
    write_golden_inputs(target, [read_golden_input(folder, record) for record in manifest.golden])
    write_json(target / MANIFEST, {**manifest.content, "files": {file: manifest.files[file] for file in names}})
    return target


def _header(name: str, records: Records, *, license: str) -> str:
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
        for record in records.values()
        if record.accuracy is not None
    ]
    data = ModelCardData(
        license=license.lower() or None,
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "emotion", "onnx", "onnxruntime", "fer2013"],
        metrics=["accuracy"],
        model_name=name,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _text(name: str, file: str, records: Records, *, contract: ModelContract) -> str:
    """The card below its metadata."""
    record, metadata = records[file], contract.metadata
    rows = [
        f"| `{other}` | {figures.bytes:,} | {_share(figures.accuracy)} | {figures.max_difference:.1e} |"
        for other, figures in records.items()
    ]
    members = record.members
    axes = ["any size" if axis is None else str(axis) for axis in contract.shape]
    return TEXT.format(
        name=name,
        labels=", ".join(EMOTIONS),
        networks="the network" if len(members) == 1 else f"{len(members)} networks, their fusion",
        version=metadata.get("ferdeploy_version", ""),
        split=record.accuracy_split or "test",
        files="\n".join(rows),
        members=_fusion(record) if len(members) > 1 else "",
        file=file,
        shape="any size" if not any(contract.shape) else f"batch {axes[0]}, height {axes[1]}, width {axes[2]}",
        evaluation=_evaluation(record, gflops=contract.gflops),
        trained_on=metadata.get("trained_on", "unknown"),
        license=metadata.get("license", "unknown"),
    )


def _fusion(record: CardRecord) -> str:
    """How the members of a file are fused, in a paragraph."""
    shares = ", ".join(f"{m} {w:.3g}" for m, w in zip(record.members, record.weights, strict=True))
    how = "weighted average of probabilities" if record.fusion == "wap" else "reciprocal rank fusion"
    text = f"Fused by {how}: {shares} (weights: {record.weights_source})."
    if record.weights_source == STUDY_SOURCE:
        text += " They were chosen on the rows that report the study's accuracy, so that figure is optimistic."
    return text


def _evaluation(record: CardRecord, *, gflops: float | None) -> str:
    """The accuracy of a file and how it was measured, in a paragraph."""
    if record.accuracy is None:
        return "Not evaluated: the file was exported without data."
    cost = "" if gflops is None else f" {gflops:.5f} GFLOPs a face (multiply-adds, fvcore's count)."
    return (
        f"{_share(record.accuracy)} accuracy of the ONNX file itself on {record.accuracy_split}, single view. "
        f"Epoch and temperature were chosen on {record.faces_from}, where its accuracy is "
        f"{_share(record.parity_accuracy)}; training rows that are copies of validation or test rows were left "
        f"out.{cost}"
    )


def _share(accuracy: float | None) -> str:
    return "not measured" if accuracy is None else f"{accuracy:.4f}"
