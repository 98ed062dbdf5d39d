"""Drawn faces with seven expressions: data that anyone has, so that the whole pipeline runs anywhere.

A face is a head with hair, eyes, brows, nose and mouth on a background, seen under a random pose, light, skin tone and
noise. The expression moves brows, lids, nose and mouth; nothing else distinguishes the classes. The drawings do not
replace real faces: a network that learned from them knows nothing about people.

The same count and seed give the same bytes on every platform and with every numpy: random numbers are the raw output
of PCG64, which numpy keeps fixed, and the arithmetic uses only +, -, *, / and square roots of IEEE floats, which are
exactly defined. No sine, exponential, normal distribution or matrix product is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import SIZE, Dataset, Faces

DEFAULT_TRAINING = 4200
"""Training faces of the data set 'synthetic'; validation and test have a sixth as many each."""

LARGEST_TRAINING = 1_000_000

_Plane = NDArray[np.float32]

_AT_ONCE = 64 * SIZE * SIZE
"""Pixels that are drawn together: few enough for the planes to stay in the processor's cache."""

_EXPRESSION: dict[str, tuple[float, ...]] = {
    # for angry, disgust, fear, happy, sad, surprise, neutral: in the order of EMOTIONS
    "brow_height": (-0.33, -0.34, -0.46, -0.42, -0.42, -0.54, -0.41),  # of the brow's middle; negative is up
    "brow_tilt": (0.38, 0.12, -0.26, -0.02, -0.34, -0.02, 0.00),  # positive: the inner end is the lower one
    "eye_opening": (0.065, 0.050, 0.145, 0.070, 0.070, 0.165, 0.095),  # half the height of the eye
    "nose_wrinkle": (0.15, 1.00, 0.05, 0.05, 0.05, 0.00, 0.05),  # darkness of the folds beside the nose
    "mouth_curve": (-0.07, -0.18, -0.02, 0.26, -0.24, 0.02, 0.01),  # positive: the corners are the higher ends
    "mouth_width": (0.28, 0.29, 0.38, 0.43, 0.31, 0.20, 0.32),  # half the width
    "mouth_opening": (0.015, 0.06, 0.11, 0.08, 0.00, 0.21, 0.00),  # half the height of the gap between the lips
    "teeth": (0.3, 0.5, 0.8, 0.9, 0.0, 0.1, 0.0),  # brightness of the gap
}
_SPREAD: dict[str, float] = {
    "brow_height": 0.04,
    "brow_tilt": 0.08,
    "eye_opening": 0.018,
    "nose_wrinkle": 0.15,
    "mouth_curve": 0.04,
    "mouth_width": 0.04,
    "mouth_opening": 0.015,
    "teeth": 0.2,
}
_DRAWS = 48
"""Random numbers for each face. More than are used, so that a new use does not change all existing faces."""


def synthetic_faces(count: int, *, seed: int) -> Faces:
    """Draw grey faces, the seven expressions in turn (face i shows class i mod 7).

    Args:
        count: number of faces.
        seed: other seeds give other faces. A larger count of the same seed begins with the same faces.

    Returns:
        Faces with images uint8 (count, 48, 48); rows are 0 to count - 1; no votes.
    """
    labels = np.arange(count, dtype=np.int64) % len(EMOTIONS)
    images = _draw(labels, SIZE, SIZE, seed=seed, channels=1)[..., 0]
    return Faces(np.ascontiguousarray(images), labels, np.arange(count, dtype=np.int64))


def colour_faces(
    labels: Sequence[int], *, height: int = SIZE, width: int = SIZE, seed: int = 0, grey: bool = False
) -> NDArray[np.uint8]:
    """Draw faces at any size, as an app would give them to a model, for golden inputs and load tests.

    Args:
        labels: the class, 0 to 6, of each face to draw.
        height: pixels, 1 or more. The face fills the picture, and is squeezed if that is not square.
        width: pixels, 1 or more.
        seed: other seeds give other faces.
        grey: give the three channels equal values.

    Returns:
        uint8 (len(labels), height, width, 3), RGB; the same bytes on every platform.
    """
    classes = np.array(labels, np.int64).reshape(-1)
    if len(classes) and not (classes.min() >= 0 and classes.max() < len(EMOTIONS)):
        raise ValueError(f"labels must be 0 to {len(EMOTIONS) - 1}, got {classes.min()} to {classes.max()}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be 1 or more, got {height} and {width}")
    faces = _draw(classes, height, width, seed=seed, channels=1 if grey else 3)
    return np.repeat(faces, 3, axis=3) if grey else faces


def synthetic_dataset(training: int = DEFAULT_TRAINING) -> Dataset:
    """The data set 'synthetic': `training` training faces, and a sixth as many for validation and for test.

    The same `training` always gives the same faces. DataError if it is below 42 or above a million.
    """
    if not 42 <= training <= LARGEST_TRAINING:
        raise DataError(f"synthetic:{training} cannot be drawn: choose 42 to {LARGEST_TRAINING:,} training faces")
    others = training // 6
    return Dataset.of(
        "synthetic",
        synthetic_faces(training, seed=1),
        validation=synthetic_faces(others, seed=2),
        test=synthetic_faces(others, seed=3),
        official=False,
        notes=("these faces are drawn: a score on them says nothing about real faces",),
    )


def _draw(labels: NDArray[np.int64], height: int, width: int, *, seed: int, channels: int) -> NDArray[np.uint8]:
    """Faces uint8 (n, height, width, channels), drawn some at a time."""
    draws = _uniform(np.random.PCG64(seed), len(labels) * _DRAWS).reshape(-1, _DRAWS)
    noise = np.random.PCG64([seed, 1])
    faces = np.empty((len(labels), height, width, channels), np.uint8)
    step = max(1, _AT_ONCE // (height * width))
    for start in range(0, len(labels), step):
        here = slice(start, start + step)
        for channel, plane in enumerate(_Sketch(labels[here], draws[here], height, width).planes(channels)):
            faces[here, :, :, channel] = plane
        _add_noise(faces[here], draws[here], noise)
    return faces


def _uniform(generator: np.random.PCG64, count: int) -> _Plane:
    raw = generator.random_raw(count) if count else np.empty(0, np.uint64)
    return ((raw >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)


def _add_noise(faces: NDArray[np.uint8], draws: _Plane, generator: np.random.PCG64) -> None:
    """Add to every pixel the sum of four random bytes, centred and scaled: close to normal, and exactly repeatable."""
    for face, strength in zip(faces, (2.0 + 8.0 * draws[:, 40] * draws[:, 40]).astype(np.float32), strict=True):
        words = generator.random_raw((face.size + 1) // 2).astype("<u8").view(np.uint8)[: face.size * 4]
        total = words.reshape(-1, 4).astype(np.int32).sum(axis=1).reshape(face.shape) - 510  # deviation 147.8
        face[:] = np.clip(face + total.astype(np.float32) * (strength * np.float32(1 / 148)), 0, 255)


class _Sketch:
    """Faces while they are drawn: planes float32 (n, height, width) of grey values 0 to 255.

    Coordinates: x to the right and y down, the picture spans -1 to 1 both ways; u and v are the same in the face's own
    frame, without its pose. Every layer covers the ones before, with soft edges of about a pixel.
    """

    def __init__(self, labels: NDArray[np.int64], draws: _Plane, height: int, width: int) -> None:
        self.draws = draws[:, :, None, None]
        self.used = 0
        for_label = {
            name: np.array(values, np.float32)[labels][:, None, None]
            + self.between(-1.0, 1.0) * np.float32(_SPREAD[name])
            for name, values in _EXPRESSION.items()
        }
        self.expression = for_label
        self.x = ((np.arange(width, dtype=np.float32) * 2 + 1) / np.float32(width) - 1)[None, None, :]
        self.y = ((np.arange(height, dtype=np.float32) * 2 + 1) / np.float32(height) - 1)[None, :, None]
        self.sharpness = np.float32(max(min(height, width) / 3.0, 1.0))
        self.pose()

    def between(self, low: float, high: float) -> _Plane:
        """The next random number of each face, (n, 1, 1), between `low` and `high`."""
        drawn: _Plane = self.draws[:, self.used]
        self.used += 1
        return np.float32(low) + drawn * np.float32(high - low)

    def pose(self) -> None:
        """Turn, scale, shift and lean the face: u, v from x, y."""
        half_turn = self.between(-0.13, 0.13)  # the tangent of half the angle: 15 degrees either way
        norm = 1 + half_turn * half_turn
        cosine, sine = (1 - half_turn * half_turn) / norm, 2 * half_turn / norm
        across, along = self.between(0.90, 1.18), self.between(0.92, 1.16)
        x, y = self.x - self.between(-0.11, 0.11), self.y - self.between(-0.10, 0.10)
        self.u = (cosine * x + sine * y) / across
        self.v = (cosine * y - sine * x) / along
        turned = self.between(-0.14, 0.14)  # looking aside moves the features within the head
        self.features = self.u - turned
        self.side = np.abs(self.features)

    def planes(self, channels: int) -> list[NDArray[np.uint8]]:
        """The finished drawing, one uint8 plane (n, height, width) a channel, before noise."""
        skin, hair, behind = self.between(95, 225), self.between(15, 170), self.between(20, 230)
        lights = self.between(-0.38, 0.38), self.between(-0.25, 0.30)
        tint = [1.0] if channels == 1 else [1.06, 0.86, 0.74]
        background = behind + self.between(-50, 50) * self.x + self.between(-50, 50) * self.y
        canvas = [background * np.float32(shade) for shade in ([1.0] if channels == 1 else [0.9, 1.0, 1.05])]
        light = np.maximum(1 + lights[0] * self.u + lights[1] * self.v, np.float32(0.25))
        layers = [
            (self.ellipse(self.u, self.v, 0.80, 0.98, up=0.10), hair),
            (self.ellipse(self.u, self.v, 0.68, 0.86, up=-0.06), skin),
            *self.eyes(skin),
            *self.brows(np.minimum(hair, skin * np.float32(0.55))),
            *self.nose(skin),
            *self.mouth(skin),
        ]
        for alpha, tone in layers:
            for plane, share in zip(canvas, tint, strict=True):
                plane += alpha * (tone * np.float32(share) - plane)
        contrast, brightness = self.between(0.75, 1.2), self.between(-20, 20)
        return [
            np.clip((plane * light - 128) * contrast + (128 + brightness), 0, 255).astype(np.uint8) for plane in canvas
        ]

    def edge(self, inside: _Plane) -> _Plane:
        """How much of a pixel is covered, 0 to 1, from its signed distance to the edge (positive inside)."""
        covered: _Plane = np.minimum(
            np.maximum(inside * self.sharpness + np.float32(0.5), np.float32(0)), np.float32(1)
        )
        return covered

    def ellipse(self, u: _Plane, v: _Plane, a: float | _Plane, b: float | _Plane, *, up: float | _Plane) -> _Plane:
        half_width, half_height = np.asarray(a, np.float32), np.asarray(b, np.float32)
        across, along = u / half_width, (v + up) / half_height
        return self.edge((1 - np.sqrt(across * across + along * along)) * np.minimum(half_width, half_height))

    def eyes(self, skin: _Plane) -> list[tuple[_Plane, _Plane]]:
        apart, height = self.between(0.28, 0.33), self.between(0.16, 0.20)
        opening = self.expression["eye_opening"]
        gaze = self.between(-0.04, 0.04)
        eye = self.ellipse(self.side - apart, self.v, 0.15, opening, up=height)
        socket = self.ellipse(self.side - apart, self.v, 0.20, opening + np.float32(0.05), up=height)
        iris = (
            self.ellipse(self.features - np.sign(self.features) * apart - gaze, self.v, 0.075, 0.075, up=height) * eye
        )
        return [
            (socket * np.float32(0.5), skin * np.float32(0.72)),
            (eye, np.minimum(skin * np.float32(1.15) + 20, np.float32(245))),
            (iris, self.between(10, 60)),
        ]

    def brows(self, tone: _Plane) -> list[tuple[_Plane, _Plane]]:
        thickness = self.between(0.035, 0.065)
        middle = self.expression["brow_height"] + self.between(-0.02, 0.02)
        bend = self.between(0.2, 0.8)
        outward = self.side - np.float32(0.32)
        line = middle - self.expression["brow_tilt"] * outward + bend * outward * outward
        away = np.abs(self.v - line)
        ends = np.float32(0.20) - np.abs(outward)
        return [(self.edge(np.minimum(thickness - away, ends)), tone)]

    def nose(self, skin: _Plane) -> list[tuple[_Plane, _Plane]]:
        wings = self.ellipse(self.side - np.float32(0.07), self.v, 0.05, 0.035, up=-0.20)
        wrinkle = np.maximum(self.expression["nose_wrinkle"], np.float32(0))
        fold = np.abs(self.side - np.float32(0.16) - (self.v - np.float32(0.15)) * np.float32(0.55))
        length = np.float32(0.20) - np.abs(self.v - np.float32(0.26))
        folds = self.edge(np.minimum(np.float32(0.028) - fold, length))
        bridge = self.edge(
            np.minimum(np.float32(0.11) - self.side, np.float32(0.02) - np.abs(self.v + np.float32(0.10)))
        )
        return [
            (wings * np.float32(0.6), skin * np.float32(0.55)),
            (
                (folds + bridge * np.float32(0.8)) * np.minimum(wrinkle, np.float32(1)) * np.float32(0.7),
                skin * np.float32(0.55),
            ),
        ]

    def mouth(self, skin: _Plane) -> list[tuple[_Plane, _Plane]]:
        height, lips = self.between(0.46, 0.54), self.between(0.030, 0.050)
        half, opening = self.expression["mouth_width"], np.maximum(self.expression["mouth_opening"], np.float32(0))
        skew = self.between(-0.04, 0.04)
        along = self.features / half
        square = along * along
        line = height + self.expression["mouth_curve"] * (np.float32(0.5) - square) + skew * along
        inner = opening * (1 - square)
        away = np.abs(self.v - line)
        ends = half - self.side
        lip = self.edge(np.minimum(inner + lips - away, ends))
        gap = self.edge(np.minimum(inner - lips * np.float32(0.3) - away, ends))
        bright = np.clip(self.expression["teeth"], 0, 1)
        upper = self.edge(line + opening * np.float32(0.2) - self.v)
        return [
            (lip, skin * self.between(0.42, 0.62)),
            (gap, skin * np.float32(0.22)),
            (gap * upper * bright, np.minimum(skin * np.float32(1.2) + 15, np.float32(250))),
        ]
