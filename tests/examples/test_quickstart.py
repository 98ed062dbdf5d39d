"""`make quickstart`'s script, run whole: what a newcomer sees first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_quick_start_trains_exports_verifies_and_benches(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(tmp_path), "COLUMNS": "160"}
    environment.pop("FERDEPLOY_DATA", None)
    script = ["bash", str(ROOT / "examples" / "quickstart.sh")]
    done = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for expected in (
        "$ ferdeploy train plain-small plain",
        "written to ",
        "ok      parity with the runs",
        "plain-small+plain ",
        "The released models on real FER2013",
    ):
        assert expected in done.stdout, expected
    assert not list(tmp_path.glob("ferdeploy-quickstart.*"))  # it cleans up behind itself
