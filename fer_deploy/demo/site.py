"""The complete page: our files, a model, a face detector, ONNX Runtime for browsers, and the page's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fer_deploy.demo.parts import DETECTOR, ENGINE, ENGINE_BINARY, read_part
from fer_deploy.demo.weights import free_sizes
from fer_deploy.detection import centerface
from fer_deploy.detection.detector import MINIMUM_FACE
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import ModelFileError, UnavailableError
from fer_deploy.files import write_bytes
from fer_deploy.model.contract import ModelContract, read_model_file
from fer_deploy.model.names import default_model

SETTINGS = "demo.json"
"""The file of the page's settings. `write_site` recognises its own folders by it."""

PHOTO_SIDE = 640
"""The longer side in pixels to which a photo is shrunk for the face detector."""

CAMERA_SIDE = 256
"""The same for a frame of the camera, where faces are large and speed matters."""

POLICY = "; ".join(
    (
        "default-src 'none'",  # everything that is not listed below
        "script-src 'self' 'wasm-unsafe-eval'",  # the page's own scripts; WebAssembly, but no eval
        "worker-src 'self'",
        "connect-src 'self'",  # the model, the settings and the engine; nothing can be sent elsewhere
        "style-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""The page's content-security policy. It is part of the markup, so that it holds on any web server."""

MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }
)
"""Media types by suffix. Scripts end in .js, because many web servers do not know .mjs."""

_PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True, eq=False)
class Site:
    """All files of the page."""

    files: Mapping[str, bytes]
    """Content by name. Names have no folders, and `index.html` is the page."""
    model: ModelContract
    """The contract of the model in it."""

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(map(len, self.files.values()))


def build_site(model: Path | None = None) -> Site:
    """Build the page.

    Args:
        model: an exported file of any precision, with free batch, height and width; None takes the default model.

    Raises:
        ModelFileError: the model is missing, unsafe, breaks the contract, or takes faces of one size only.
        UnavailableError: a part of the page has not been fetched.
    """
    content, contract = read_model_file(default_model() if model is None else model)
    if contract.shape != (None, None, None):
        raise ModelFileError(
            f"{contract.source} takes faces of one size only: the page needs a file exported without --static"
        )
    files = {path.name: path.read_bytes() for path in sorted(_PAGE.iterdir()) if path.suffix in MEDIA_TYPES}
    files["index.html"] = files["index.html"].replace(b"{{policy}}", POLICY.encode())
    files |= {part.name: read_part(part) for part in (ENGINE, ENGINE_BINARY)}
    files[DETECTOR.name] = free_sizes(read_part(DETECTOR))
    files["model.onnx"] = content
    files[SETTINGS] = json.dumps(_settings(contract), indent=2).encode()
    return Site(MappingProxyType(files), contract)


def write_site(site: Site, folder: Path) -> None:
    """Write the page's files into a folder, which any web server can host.

    Raises:
        UnavailableError: the folder is a file, or holds other files than an earlier version of the page.
    """
    if folder.exists():
        if not folder.is_dir():
            raise UnavailableError(f"{folder} is not a folder: choose a new one")
        if any(folder.iterdir()) and not (folder / SETTINGS).is_file():
            raise UnavailableError(f"{folder} holds other files than this page: choose a new folder")
    for name, content in site.files.items():
        write_bytes(folder / name, content)


def _settings(contract: ModelContract) -> dict[str, Any]:
    """The settings of the scripts. The detector's numbers are those of `fer_deploy.detection`."""
    metadata = contract.metadata
    return {
        "model": {
            "file": "model.onnx",
            "name": contract.name,
            "labels": list(contract.labels),
            "seven": contract.labels == EMOTIONS,
            "precision": contract.precision,
            "trained_on": metadata.get("trained_on"),
            "accuracy": metadata.get("accuracy"),
            "accuracy_split": metadata.get("accuracy_split"),
        },
        "detector": {
            "file": DETECTOR.name,
            "minimum_score": centerface.MINIMUM_SCORE,
            "minimum_face": MINIMUM_FACE,
            "framing": {"scale": centerface.FRAMING.scale, "down": centerface.FRAMING.down},
            "photo_side": PHOTO_SIDE,
            "camera_side": CAMERA_SIDE,
        },
    }
