"""Data sets as people have them, drawn: a folder tree, a CSV of paths, numbered folders, and Parquet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_deploy.emotions import EMOTIONS
from fer_deploy.faces.synthetic import colour_faces

EIGHT = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
THREE = ("neutre", "négatif", "positif")
RAF_DB = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
"""RAF-DB's expressions in the order of its folders 1 to 7."""


def faces_of(label: str, count: int, *, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Drawn faces of one label, uint8 (count, side, side, 3). Faces of contempt are upside down."""
    known = {"négatif": "angry", "neutre": "neutral", "positif": "happy", "contempt": "sad"}.get(label, label)
    expression = EMOTIONS.index(known)
    faces = colour_faces([expression] * count, height=side, width=side, seed=100 * seed + expression)
    return faces[:, ::-1] if label == "contempt" else faces


def encoded(picture: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def folder_tree(folder: Path, *, each: int = 10) -> Path:
    """Eight labels, one folder each and no splits: colour JPEGs of 200 pixels."""
    for label in EIGHT:
        (folder / label).mkdir(parents=True)
        for number, face in enumerate(faces_of(label, each, side=200)):
            (folder / label / f"{label}-{number:02}.jpg").write_bytes(encoded(face, "JPEG"))
    return folder


def table_of_paths(folder: Path, *, each: int = 12) -> Path:
    """Three labels that are none of the seven, in a CSV of paths without splits: the CSV file."""
    (folder / "photos").mkdir(parents=True)
    rows = ["image,label"]
    for label in THREE:
        for face in faces_of(label, each, side=64):
            name = f"photos/{len(rows):03}.png"
            (folder / name).write_bytes(encoded(face))
            rows.append(f"{name},{label}")
    (folder / "faces.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "faces.csv"


def numbered_tree(folder: Path, *, each: int = 10) -> Path:
    """Folders train/1 to test/7, as RAF-DB has them; faces of 100 pixels."""
    for split, count, seed in (("train", each, 0), ("test", each // 2, 1)):
        for place, label in enumerate(RAF_DB, 1):
            (folder / split / str(place)).mkdir(parents=True)
            for number, face in enumerate(faces_of(label, count, side=100, seed=seed)):
                name = f"{split}_{place}{number:04}_aligned.jpg"
                (folder / split / str(place) / name).write_bytes(encoded(face, "JPEG"))
    return folder


def hub_parquet(folder: Path, *, each: int = 10) -> Path:
    """A Hugging Face data set of the seven: image structs, and labels as numbers that the file's metadata names."""
    import pyarrow
    from pyarrow import parquet

    names = sorted(EMOTIONS)
    feature = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {b"huggingface": json.dumps({"info": {"features": feature}}).encode()}
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image_type), ("label", pyarrow.int64())], metadata=metadata)
    (folder / "data").mkdir(parents=True)
    for split, count, seed in (("train", each, 0), ("validation", each // 2, 1), ("test", each // 2, 2)):
        images, labels = [], []
        for place, name in enumerate(names):
            images += [{"bytes": encoded(face), "path": None} for face in faces_of(name, count, side=64, seed=seed)]
            labels += [place] * count
        table = pyarrow.table({"image": images, "label": labels}, schema=schema)
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder
