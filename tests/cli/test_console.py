"""The console, the progress bar, and durations and counts as text."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from fer_deploy.cli import console
from fer_deploy.cli.console import duration, report_console, short_count

WORK = """
from fer_deploy.cli.console import ProgressBar, step_progress
with ProgressBar() as bar:
    for number in range(1, 4):
        bar.update("[red]photos", number, 3)
    bar.say("[a line]")
with step_progress(stderr=False, redraw_alone=False) as report:
    report("checks", 1, 2)
    report("other", 1, 40)
"""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (192, "3 min 12 s"), (3720, "1 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(340_000, "340k"), (4_010_000, "4.0M"), (80_400_000, "80M")])
def test_short_counts(count: int, text: str) -> None:
    assert short_count(count) == text


def test_a_table_has_120_columns_where_the_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert report_console().width == 120
    monkeypatch.setenv("COLUMNS", "90")
    assert report_console().width == 90


def test_no_bar_is_drawn_where_the_output_is_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "[a line]\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_do_not_reach_the_terminal(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of files and values of records are shown here."""
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", lambda **_: Console(file=screen, force_terminal=is_terminal, width=100))
    with console.ProgressBar(redraw_alone=False) as bar:
        bar.update("a\x1b]0;title\x07b", 1, 2, note="c\x1b[2Jd")
        bar.say("e\x1b[8mf\ng")
    assert not any(sequence in screen.getvalue() for sequence in ("\x1b]0;", "\x1b[2J", "\x1b[8m"))
    assert "e\\x1b[8mf\\x0ag" in screen.getvalue()
    assert ("a\\x1b]0;title\\x07b" in screen.getvalue()) == is_terminal


def test_a_terminal_shows_description_count_and_lines_and_ends_clean() -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen([sys.executable, "-c", WORK], stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    output = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # Linux reports the end of a terminal as an error
            break
        if not piece:
            break
        output += piece
    os.close(controller)
    assert child.wait() == 0
    text = output.decode()
    assert "[red]photos" in text
    assert "[a line]" in text
    assert "1/40" in text
