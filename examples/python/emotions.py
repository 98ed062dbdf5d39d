"""Read the emotion of faces with ONNX Runtime and Pillow alone.

pip install onnxruntime pillow
python emotions.py plain-distilled-2.onnx face.jpg
python emotions.py plain-distilled-2.onnx faces.bin 2 48 48      raw RGB bytes: faces, height, width
"""

import json
import os
import sys

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: ONNX Runtime reports to Microsoft otherwise
import onnxruntime


def read_picture(path: str) -> np.ndarray:
    """A picture file as uint8 (1, height, width, 3), RGB, upright, transparent parts on a white background."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))[np.newaxis]


def read_raw(path: str, count: int, height: int, width: int) -> np.ndarray:
    """Faces without a header, row by row, three bytes per pixel."""
    return np.fromfile(path, np.uint8).reshape(count, height, width, 3)


model, source, *shape = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
faces = read_raw(source, *map(int, shape)) if shape else read_picture(source)
(probabilities,) = session.run(["probabilities"], {"faces": faces})
for row in probabilities.tolist():
    print(json.dumps(dict(zip(labels, row, strict=True))))
