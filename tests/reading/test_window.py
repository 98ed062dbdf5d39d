from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_deploy.errors import UnavailableError
from fer_deploy.reading.window import Window

PROGRAM = """
import numpy as np
from fer_deploy.reading.window import Window

window = Window("test")
window.show(np.full((3000, 4000, 3), 200, np.uint8))
root = window._root
root.update()
size = window._label.winfo_width(), window._label.winfo_height()
screen = root.winfo_screenwidth(), root.winfo_screenheight()
assert all(0.4 * whole < part < whole for part, whole in zip(size, screen)), (size, screen)
assert window.is_open
root.focus_force()
root.update()
root.event_generate("<Key-Escape>")
assert not window.is_open
window.show(np.zeros((4, 4, 3), np.uint8))  # after it was closed: nothing happens
window.close()
print("shown and closed")
"""


def test_a_picture_is_shown_and_escape_closes_the_window() -> None:
    pytest.importorskip("tkinter")
    runner = shutil.which("xvfb-run")
    if runner is None and not os.environ.get("DISPLAY"):
        pytest.skip("neither a display nor xvfb-run")
    program = [sys.executable, "-c", PROGRAM]
    if runner:
        program = [runner, "-a", *program]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=90)
    assert done.stdout.strip() == "shown and closed", done.stderr


def test_without_a_display_the_error_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems always have a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UnavailableError, match="a window needs"):
        Window("x")
