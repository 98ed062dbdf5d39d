from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from demo_parts import require_parts
from PIL import Image
from tiny_model import write_tiny_model

from fer_deploy.demo.site import Site, build_site


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that reads how bright a face's upper half is."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def site(tiny_file: Path) -> Site:
    """The page with the tiny model. Skips where the parts that others made have not been fetched."""
    require_parts()
    return build_site(tiny_file)


@pytest.fixture(scope="session")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photo of one person, in the public domain (the US Navy's portrait of Grace Hopper), as PNG."""
    matplotlib = pytest.importorskip("matplotlib", reason="the real photo comes with matplotlib, which is absent")
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as photo:
        path = tmp_path_factory.mktemp("photo") / "portrait.png"
        photo.convert("RGB").save(path)
    return path


@pytest.fixture(scope="session")
def camera_file(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium's fake camera shows: the portrait at the left of a wide grey picture, as uncompressed video."""
    with Image.open(portrait) as photo:
        frame = Image.new("RGB", (640, 480), (120, 130, 140))
        frame.paste(photo.resize((384, 450)), (20, 15))
    brightness, *colours = np.moveaxis(np.asarray(frame.convert("YCbCr")), 2, 0)
    planes = [brightness, *(plane[::2, ::2] for plane in colours)]
    path = tmp_path_factory.mktemp("camera") / "camera.y4m"
    head = b"YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg\n"
    path.write_bytes(head + 2 * (b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)))
    return path
