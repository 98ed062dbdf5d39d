from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny_model import write_tiny_model

from fer_deploy import EMOTIONS
from fer_deploy.demo import site as module
from fer_deploy.demo.site import MEDIA_TYPES, POLICY, SETTINGS, Site, build_site, write_site
from fer_deploy.detection import centerface
from fer_deploy.detection.detector import MINIMUM_FACE
from fer_deploy.errors import ModelFileError, UnavailableError


def test_the_page_is_complete(site: Site, tiny_file: Path) -> None:
    assert {"index.html", "page.js", "reader.js", "vision.js", "style.css", "licences.txt", SETTINGS} <= set(site.files)
    assert site.files["model.onnx"] == tiny_file.read_bytes()
    assert all(Path(name).suffix in MEDIA_TYPES and Path(name).name == name for name in site.files)
    assert site.bytes < 30_000_000


def test_the_page_names_only_its_own_files(site: Site) -> None:
    page = site.files["index.html"].decode()
    named = set(re.findall(r'(?:src|href)="([^"]*)"', page))
    assert named
    assert named <= set(site.files)
    for name in ("index.html", "page.js", "reader.js", "vision.js", "style.css"):
        assert not re.search(rb"https?://|wss?://", site.files[name]), name
    for name in ("page.js", "reader.js"):
        modules = re.findall(r'(?:from|import\(|Worker\(|fetch\()\s*"\.?/?([^"]+)"', site.files[name].decode())
        assert modules
        assert set(modules) <= set(site.files)


def test_the_policy_is_strict_and_in_the_page(site: Site) -> None:
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in site.files["index.html"].decode()
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    allowed = {word for value in rules.values() for word in value.split()}
    assert allowed == {"'none'", "'self'", "'wasm-unsafe-eval'"}


def test_the_settings_equal_those_of_python(site: Site) -> None:
    settings = json.loads(site.files[SETTINGS])
    assert settings["model"]["labels"] == list(EMOTIONS)
    assert settings["model"]["name"] == "tiny"
    detector = settings["detector"]
    assert detector["minimum_score"] == centerface.MINIMUM_SCORE
    assert detector["minimum_face"] == MINIMUM_FACE
    assert (detector["framing"]["scale"], detector["framing"]["down"]) == (
        centerface.FRAMING.scale,
        centerface.FRAMING.down,
    )


def test_a_file_of_one_size_is_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "fixed.onnx", shape=(1, 48, 48, 3))
    with pytest.raises(ModelFileError, match=r"fixed\.onnx takes faces of one size only.*without --static"):
        build_site(path)


def test_absent_parts_are_reported(tiny_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path))
    with pytest.raises(UnavailableError, match="--fetch"):
        build_site(tiny_file)


def test_writing_plain_files(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_site(site, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == dict(site.files)
    (folder / "page.js").write_text("old")
    write_site(site, folder)  # an earlier page of ours is renewed
    assert (folder / "page.js").read_bytes() == site.files["page.js"]


def test_other_folders_are_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UnavailableError, match="holds other files"):
        write_site(site, tmp_path)
    with pytest.raises(UnavailableError, match="is not a folder"):
        write_site(site, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_licences_name_every_part(site: Site) -> None:
    text = site.files["licences.txt"].decode()
    for part in (module.ENGINE, module.ENGINE_BINARY, module.DETECTOR):
        assert part.name in text
        assert f"the {part.licence} License" in text
