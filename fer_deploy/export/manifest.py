"""`exports/manifest.json`: what every exported file is, how it was proven, and its golden vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import ModelFileError
from fer_deploy.export.golden import GoldenInput, draw_golden_inputs, write_golden_inputs
from fer_deploy.files import write_json
from fer_deploy.model.contract import INPUT_NAME, OUTPUT_NAME

MANIFEST = "manifest.json"
LOCK = ".manifest.lock"
"""Held while the manifest is read and written anew."""
FORMAT = 1
"""Version of the manifest's layout."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder of exports, or None where there is none. ModelFileError when it is damaged."""
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
    """Put the entry of file `name` into the folder's manifest, beside those of other files, and write golden inputs.

    Entries whose golden vectors belong to other inputs than today's are dropped: nobody could replay them. Commands
    that export into one folder at a time wait for each other here.
    """
    from filelock import FileLock  # of the train extra: whoever only verifies a file reads manifests without it

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
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
