"""`fer`: the documented call, `FER().detect_emotions`, on the whole crop, without its detector.

Its offsets add a margin of 10 pixels around a detected face; they are set to 0, since a FER2013 face is the crop that
the network was trained on. The package rounds its scores to two decimals.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from worker import LABELS, in_order, serve  # type: ignore[import-not-found]


def load(threads: int):  # type: ignore[no-untyped-def]
    """Open the package's tflite classifier."""
    import cv2
    import tensorflow as tf

    tf.lite.Interpreter = functools.partial(tf.lite.Interpreter, num_threads=threads)
    cv2.setNumThreads(threads)
    import fer
    from fer.fer import FER  # its documentation has `from fer import FER`, which this version lacks

    detector = FER(offsets=(0, 0))
    size = (Path(fer.__file__).parent / "data" / "emotion_model_quantized.tflite").stat().st_size
    names = {label: label for label in LABELS}
    return (
        lambda face: detector.detect_emotions(face, face_rectangles=[(0, 0, 48, 48)]),
        lambda face: face[..., ::-1].copy(),  # BGR, as from cv2.imread
        lambda answer: in_order(answer[0]["emotions"], names),
        {"provider": f"TensorFlow Lite {tf.__version__}", "bytes": size},
    )


if __name__ == "__main__":
    serve(load)
