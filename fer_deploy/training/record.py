"""What a run folder says of itself, `run.json`, read without loading PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fer_deploy.errors import RunError

RUN_FORMAT = 1
"""Version of run.json's layout."""


def read_record(path: Path) -> dict[str, Any]:
    """What a `run.json` says, `status` among it.

    Raises:
        RunError: it cannot be read, or is no record of this format.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}): fetch it again, or move its folder away") from error
    if not isinstance(record, dict) or record.get("format") != RUN_FORMAT or "status" not in record:
        raise RunError(f"{path}: is not a run record of format {RUN_FORMAT}")
    return record
