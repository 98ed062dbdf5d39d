"""Write the metadata of the released files again, from their runs: the texts change, weights and graph do not.

    python benchmarks/restamp.py

Each file of `exports/` gets the metadata that `ferdeploy export` would write now, with the accuracy that it was
released with. The manifest gets the new hash and size and, from `benchmarks/report.json`, the recall and calibration
that its card shows. Golden vectors do not change. The copy inside the package is replaced with its file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import onnx

from fer_deploy.emotions import EMOTIONS
from fer_deploy.export.manifest import publish, read_manifest
from fer_deploy.export.metadata import file_metadata
from fer_deploy.export.plan import plan_of_file
from fer_deploy.model.contract import check_model_bytes, check_model_file
from fer_deploy.model.names import PACKAGED

ROOT = Path(__file__).parents[1]


def restamped(path: Path) -> bytes:
    """The file with the metadata that an export writes now."""
    contract = check_model_file(path)
    model = onnx.load(path)
    before = model.graph.SerializeToString(deterministic=True)
    kept = {key: contract.metadata[key] for key in ("accuracy", "accuracy_split", "ferdeploy_version")}
    wanted = file_metadata(plan_of_file(contract, workspace=ROOT), contract.precision) | kept
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, wanted)
    assert model.graph.SerializeToString(deterministic=True) == before
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def main() -> None:
    """Restamp every file of the manifest."""
    folder = ROOT / "exports"
    manifest = read_manifest(folder)
    assert manifest is not None
    report = json.loads((ROOT / "benchmarks" / "report.json").read_text())
    rows = {(row["name"], row["precision"]): row for row in report["rows"] if row["engine"] == "ort-cpu"}
    for name, recorded in manifest.files.items():
        content = restamped(folder / name)
        check_model_bytes(content, source=name)
        entry = dict(recorded) | {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        row = rows.get((entry["name"], entry["precision"]))
        quality = {}
        if row and row["recall"] and row["accuracy"] == entry["accuracy"]:
            quality = {"recall": dict(zip(EMOTIONS, row["recall"], strict=True)), "calibration_error": row["ece"]}
        ordered: dict[str, object] = {}
        for key, value in entry.items():
            ordered[key] = value
            if key == "accuracy_split":
                ordered |= quality
        publish(folder, name, content, ordered)
        print(f"{name}: {recorded['sha256'][:12]} -> {ordered['sha256']}, {'with' if quality else 'without'} recall")
    for packaged in PACKAGED.glob("*.onnx"):
        shutil.copyfile(folder / packaged.name, packaged)


if __name__ == "__main__":
    main()
