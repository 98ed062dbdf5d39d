"""`facex`: its `EmotionClassifier.detect_emotion` on the grey crop, as its `predict` calls it for each face."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from worker import in_order, serve  # type: ignore[import-not-found]

NAMES = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happy",
    "sad": "sadness", "surprise": "surprised", "neutral": "neutral",
}  # fmt: skip


def load(threads: int):  # type: ignore[no-untyped-def]
    """Open the package's tflite classifier."""
    import cv2
    import tensorflow as tf

    tf.lite.Interpreter = functools.partial(tf.lite.Interpreter, num_threads=threads)
    cv2.setNumThreads(threads)
    import facex

    classifier = facex.PoolManager(pool_size=1).get_classifier()
    size = (Path(facex.__file__).parent / "assets" / "model_optimized.tflite").stat().st_size
    return (
        classifier.detect_emotion,
        lambda face: cv2.cvtColor(face, cv2.COLOR_RGB2GRAY),
        lambda answer: in_order(answer, NAMES),
        {"provider": f"TensorFlow Lite {tf.__version__}", "bytes": size},
    )


if __name__ == "__main__":
    serve(load)
