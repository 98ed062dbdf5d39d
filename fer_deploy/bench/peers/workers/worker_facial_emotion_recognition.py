"""`facial-emotion-recognition`: the transform and network of its `_predict`, on the grey crop.

The package's public call draws on a photo and returns no scores, and its `_predict` returns the label with the largest
exp(output). This worker returns these values, scaled to sum to one.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from worker import LABELS, in_order, serve  # type: ignore[import-not-found]


def load(threads: int):  # type: ignore[no-untyped-def]
    """Open the package's network on the CPU."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    # the weights were saved on a GPU, in a format that torch's safe loader cannot read
    torch.load = functools.partial(torch.load, map_location="cpu", weights_only=False)
    import facial_emotion_recognition

    recognition = facial_emotion_recognition.EmotionRecognition(device="cpu")
    size = (Path(facial_emotion_recognition.__file__).parent / "model" / "model.pkl").stat().st_size

    def call(face):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return torch.exp(recognition.network(recognition.transform(face).unsqueeze(0)))

    def read(answer):  # type: ignore[no-untyped-def]
        scores = {recognition.emotions[index].lower(): value for index, value in enumerate(answer[0].tolist())}
        return in_order(scores, {label: label for label in LABELS})

    return (
        call,
        lambda face: cv2.cvtColor(face, cv2.COLOR_RGB2GRAY),
        read,
        {
            "provider": f"torch {torch.__version__}",
            "bytes": size,
            "params": sum(weight.numel() for weight in recognition.network.parameters()),
        },
    )


if __name__ == "__main__":
    serve(load)
