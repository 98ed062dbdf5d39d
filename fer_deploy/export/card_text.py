"""The text of a model card. What it states about licence, data and limits depends on the data of the runs.

FER2013's terms and limits are known and stated. Those of any other data are its owner's: nothing is claimed about them,
and the card ends in a list of what the owner should add.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fer_deploy.ensemble import CALIBRATION_BINS, STUDY_SOURCE
from fer_deploy.errors import printable
from fer_deploy.export.manifest import CardRecord
from fer_deploy.export.plan import FER2013_NAME
from fer_deploy.model.contract import ModelContract

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
- Output `probabilities`: float32 `[batch, {classes}]`, rows that sum to 1.
- Luma, the antialiased resize and the scaling are inside: pass the unchanged pixels.
- {crop}
- `ferdeploy verify {file}` replays the golden vectors of `golden/`.

## Evaluation

{evaluation}

## Training data

{data}

## Intended use and limits

{limits}

## Licence

{license}
"""

FER2013_CROP = "The picture must be a face cropped like FER2013's: forehead to chin, ear to ear, about upright."
CROP = "The picture must be a face cropped like those of the training data."

LABELS_LIMIT = "Labels state what annotators saw in a picture, not what a person felt"

LAW = (
    "Do not use it to judge people: hiring, schooling, policing, health, insurance, lie detection. In the European "
    "Union, inferring emotions at work and in education is prohibited, with few exceptions (Regulation 2024/1689, "
    "article 5)."
)

FER2013_LIMITS = (
    "For counting, art, games, interface studies and research on pictures of people who agreed to it. "
    f"{LABELS_LIMIT}, and people agree with FER2013's labels on about two thirds of its faces (Goodfellow et al., "
    "2013). The data is small, grey, collected by web search, and not balanced over age, sex, skin colour or culture; "
    f"accuracy differs between such groups and was not measured for them. {LAW}"
)

LIMITS = (
    "The owner of the model has not stated its intended use. "
    f"{LABELS_LIMIT}. Accuracy differs between groups of people, such as age, sex, skin colour and culture, and was "
    f"not measured for them. {LAW}"
)

FER2013_TERMS = (
    "The code of ferdeploy is Apache-2.0. The pictures of FER2013 were collected from the web for research (Goodfellow "
    "et al., 2015), others hold their copyright, and Kaggle distributes them under the terms of a competition. The "
    "weights that learned from them are for research and evaluation: ask your lawyers whether your product may use "
    "them."
)

NO_LICENSE = (
    "Not stated by the owner of the model. ferdeploy, which wrote the file, is Apache-2.0; that is no licence for the "
    "weights."
)

OWNER = """
## What the owner should add

ferdeploy knows nothing about the following. Complete it, and delete this section, before you publish the card.

{license}- Data: where the pictures come from, since when, under which terms, and whether the people in them agreed.
- Labels: who gave them, by which instructions, and how often annotators agree.
- People: their age, sex, skin colour and culture, and the accuracy for each group.
- Use: what the model is for, and what it must not be used for.
{initialisation}"""


@dataclass(frozen=True)
class Card:
    """What a card is about."""

    name: str
    """The model's name, as in `B+E`."""
    file: str
    """The file that the card describes first."""
    records: Records
    contract: ModelContract
    """Of `file`."""
    runs: Mapping[str, Mapping[str, Any]]
    """The runs' records by run, as far as they are known."""

    @property
    def record(self) -> CardRecord:
        """Of `file`."""
        return self.records[self.file]

    @property
    def trained_on(self) -> str:
        """The names of the data sets, as the file states them."""
        return self.contract.metadata.get("trained_on", "unknown data")

    @property
    def on_fer2013(self) -> bool:
        """Whether any run of the model learned from FER2013."""
        return re.search(rf"(^|, ){FER2013_NAME}(, |$)", self.trained_on) is not None

    @property
    def on_other_data(self) -> bool:
        """Whether any run of the model learned from other data."""
        return re.fullmatch(rf"{FER2013_NAME}(, {FER2013_NAME})*", self.trained_on) is None

    @property
    def license(self) -> str | None:
        """The licence that the file states; None where it states none."""
        return self.contract.metadata.get("license") or None

    def text(self) -> str:
        """The card below its metadata, as Markdown."""
        record, contract = self.record, self.contract
        rows = [
            f"| `{other}` | {figures.bytes:,} | {_share(figures.accuracy)} | {figures.max_difference:.1e} |"
            for other, figures in self.records.items()
        ]
        members = record.members
        axes = ["any size" if axis is None else str(axis) for axis in contract.shape]
        text = TEXT.format(
            name=_safe(self.name),
            labels=", ".join(map(_safe, contract.labels)),
            classes=len(contract.labels),
            networks="the network" if len(members) == 1 else f"{len(members)} networks, their fusion",
            version=_safe(contract.metadata.get("ferdeploy_version", "")),
            split=_safe(record.accuracy_split or "test"),
            files="\n".join(rows),
            members=_fusion(record) if len(members) > 1 else "",
            file=self.file,
            shape="any size" if not any(contract.shape) else f"batch {axes[0]}, height {axes[1]}, width {axes[2]}",
            crop=FER2013_CROP if self.on_fer2013 else CROP,
            evaluation=_evaluation(record, gflops=contract.gflops),
            data=self._data(),
            limits=FER2013_LIMITS if self.on_fer2013 else LIMITS,
            license=self._license(),
        )
        return text + self._owner() if self.on_other_data else text

    def _data(self) -> str:
        """The data sets that the runs learned from, each described once."""
        tables: dict[str, None] = {}
        for record in self.runs.values():
            data = record.get("data")
            if isinstance(data, dict):
                tables.setdefault(_described_data(data))
        parts = [f"{_safe(self.trained_on)}.", *filter(None, tables)]
        if not self.runs:
            parts.append("The runs' records, which describe the data, were not there when this card was written.")
        parts.append("The images are not part of this repository, and their terms are their owners'.")
        return "\n\n".join(parts)

    def _license(self) -> str:
        stated = f"{_safe(self.license)}." if self.license else NO_LICENSE
        terms = FER2013_TERMS if self.on_fer2013 else "The training data is not included and has terms of its own."
        return f"{stated} {terms}"

    def _owner(self) -> str:
        license = (
            "" if self.license else "- Licence of the weights: `ferdeploy export --license` writes it into the file.\n"
        )
        first = [str(record["initialisation"]) for record in self.runs.values() if record.get("initialisation")]
        begun = [words for words in dict.fromkeys(first) if "weights" in words]
        return OWNER.format(
            license=license,
            initialisation="".join(f"- Terms of the weights that training started from: {_safe(w)}.\n" for w in begun),
        )


def _described_data(data: Mapping[str, Any]) -> str:
    """What a run's record tells about its data: its summary, or the numbers of faces; empty where it tells nothing."""
    summary = data.get("summary")
    if isinstance(summary, dict) and (text := _summary(summary)):
        return text
    counts = {"training": data.get("training_rows"), "validation": data.get("validation_rows")}
    known = [f"{count:,} {split} faces" for split, count in counts.items() if isinstance(count, int)]
    return f"{_safe(str(data.get('name', 'the data')))}: {', '.join(known)}." if known else ""


def _summary(summary: Mapping[str, Any]) -> str:
    """The `faces.summary.Summary.to_dict` of a record: counts, sizes and notes. A record may be from elsewhere."""
    labels, splits = _list(summary.get("labels")), [split for split in _list(summary.get("splits")) if _counts(split)]
    splits = [split for split in splits if len(_counts(split)) == len(labels)]
    if not labels or not splits:
        return ""
    rows = [
        ["class", *(_safe(str(split.get("title"))) for split in splits)],
        ["---"] * (1 + len(splits)),
        *([_safe(str(label)), *(f"{_counts(split)[at]:,}" for split in splits)] for at, label in enumerate(labels)),
        ["all", *(f"{sum(_counts(split)):,}" for split in splits)],
    ]
    parts = ["\n".join(f"| {' | '.join(row)} |" for row in rows)]
    sizes = summary.get("sizes")
    if isinstance(sizes, dict) and (low := _size(sizes.get("smallest"))) and (high := _size(sizes.get("largest"))):
        parts.append(f"Picture sizes (height x width): {low if low == high else f'{low} to {high}'} pixels.")
    notes = [str(note) for note in _list(summary.get("notes"))]
    if notes:
        parts.append("\n".join(f"- {_safe(note)}" for note in notes[:20]))
    return "\n\n".join(parts)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _counts(split: Any) -> list[int]:
    """Pictures of each class of a split; empty for anything else."""
    counts = _list(split.get("classes")) if isinstance(split, dict) else []
    return counts if all(type(count) is int for count in counts) else []


def _size(value: Any) -> str:
    sides = _list(value)
    return f"{sides[0]}x{sides[1]}" if len(sides) == 2 and all(type(side) is int for side in sides) else ""


def _fusion(record: CardRecord) -> str:
    """How the members of a file are fused, in a paragraph."""
    shares = ", ".join(f"{_safe(m)} {w:.3g}" for m, w in zip(record.members, record.weights, strict=True))
    how = "weighted average of probabilities" if record.fusion == "wap" else "reciprocal rank fusion"
    text = f"Fused by {how}: {shares} (weights: {_safe(record.weights_source)})."
    if record.weights_source == STUDY_SOURCE:
        text += " They were chosen on the rows that report the study's accuracy, so that figure is optimistic."
    return text


def _evaluation(record: CardRecord, *, gflops: float | None) -> str:
    """The accuracy of a file and how it was measured, its recall by class, and its calibration."""
    if record.accuracy is None:
        return "Not evaluated: the file was exported without data."
    cost = "" if gflops is None else f" {gflops:.5f} GFLOPs a face (multiply-adds, fvcore's count)."
    parts = [
        f"{_share(record.accuracy)} accuracy of the ONNX file itself on {_safe(record.accuracy_split)}, single view. "
        f"Epoch and temperature were chosen on {_safe(record.faces_from)}, where its accuracy is "
        f"{_share(record.parity_accuracy)}; training rows that are copies of validation or test rows were left "
        f"out.{cost}"
    ]
    if record.recall:
        rows = "\n".join(f"| {_safe(label)} | {_share(share)} |" for label, share in record.recall.items())
        parts.append(
            f"The share of each class's test faces that the file recognises:\n\n| class | recall |\n|---|---|\n{rows}"
        )
    if record.calibration_error is not None:
        parts.append(
            f"Expected calibration error: {record.calibration_error:.4f} ({CALIBRATION_BINS} bins). It is the mean gap "
            "between a probability and the share of such answers that are right."
        )
    return "\n\n".join(parts)


def _share(accuracy: float | None) -> str:
    return "not measured" if accuracy is None else f"{accuracy:.4f}"


_ESCAPES: Iterable[tuple[str, str]] = (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("[", "\\["))


def _safe(text: str | None) -> str:
    """A name in Markdown, also inside a table: names of labels, data and runs may hold any printable character."""
    escaped = printable(text or "")
    for character, replacement in _ESCAPES:
        escaped = escaped.replace(character, replacement)
    return escaped
