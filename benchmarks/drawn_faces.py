"""Drawn faces as encoded pictures, what the load tests of `serve` and `score` send."""

from __future__ import annotations

import io

from PIL import Image

from fer_deploy.faces.synthetic import synthetic_faces


def encoded_faces(count: int, *, seed: int = 0) -> list[bytes]:
    """`count` drawn faces, each a grey JPEG of 48x48 pixels; the same `seed` gives the same bytes."""
    pictures = []
    for image in synthetic_faces(count, seed=seed).images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    return pictures
