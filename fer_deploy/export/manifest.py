"""`exports/manifest.json`: each exported file's hash, members, parity figures and golden vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import ModelFileError
from fer_deploy.export.golden import GoldenInput, draw_golden_inputs, write_golden_inputs
from fer_deploy.files import lock, write_json
from fer_deploy.model.contract import INPUT_NAME, OUTPUT_NAME

MANIFEST = "manifest.json"
LOCK = ".manifest.lock"
"""Held while the manifest is updated."""
FORMAT = 1
"""Version of the manifest's layout."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder of exports, or None if it has none. ModelFileError if it is damaged."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} can't be read ({error}): delete it and export again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a manifest of format {FORMAT}: delete it and export again")
    files, golden = content.get("files", {}), content.get("golden", [])
    fits = isinstance(files, dict) and isinstance(golden, list)
    if not fits or not all(isinstance(entry, dict) for entry in [*files.values(), *golden]):
        raise ModelFileError(f"{path} is damaged: delete it and export again")
    return content


def record_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Add the entry of file `name` to the folder's manifest, or replace it, and write the golden inputs.

    Entries are dropped if their golden vectors belong to other inputs than the current ones, since they can't be
    replayed. Commands that export into one folder at the same time wait for each other.
    """
    with lock(folder / LOCK):
        _record(folder, name, entry)


def _record(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    inputs = draw_golden_inputs()
    write_golden_inputs(folder, inputs)
    manifest = read_manifest(folder)
    files: dict[str, Any] = {}
    if manifest is not None and manifest.get("golden") == _entries(inputs):
        files = dict(manifest.get("files", {}))
    files[name] = dict(entry)
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "labels": list(EMOTIONS),
            "input": {"name": INPUT_NAME, "type": "uint8", "axes": ["batch", "height", "width", "channel (RGB)"]},
            "output": {"name": OUTPUT_NAME, "type": "float32", "axes": ["batch", "label"]},
            "golden": _entries(inputs),
            "files": dict(sorted(files.items())),
        },
    )


def _entries(inputs: tuple[GoldenInput, ...]) -> list[dict[str, Any]]:
    return [golden.as_dict() for golden in inputs]
