"""Other packages, measured in the same run, each in its own environment and process.

A peer is a package whose weights ship with it. Its environment is created in the user's cache folder when the peer is
first requested, with the versions in `PEERS`. Its worker, a file in `workers/`, calls the package as the package's
documentation describes, without its face detector: FER2013's faces are crops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fer_deploy.errors import UnavailableError


@dataclass(frozen=True)
class Peer:
    """A package to compare with.

    Attributes:
        name: the value of --peer.
        version: the package's version.
        language: what its worker is written in.
        packages: exactly these are installed, without their requirements.
        requirements: installed with their own requirements: what the peer's classifier needs, without its detectors and
            video tools.
        worker: the worker's file in `workers/`.
        call: how the worker calls the package, for the report.
        trained_on: the training data, as far as the authors state it.
    """

    name: str
    version: str
    language: Literal["python", "node"]
    packages: tuple[str, ...]
    requirements: tuple[str, ...]
    worker: str
    call: str
    trained_on: str


_PEERS = (
    Peer(
        name="fer",
        version="25.10.3",
        language="python",
        packages=("fer==25.10.3",),
        requirements=(
            "tensorflow>=2.16,<2.21",
            "opencv-contrib-python-headless",
            "pandas",
            "requests",
            "tqdm",
            "pillow",
            "setuptools<81",  # it imports pkg_resources
        ),
        worker="worker_fer.py",
        call="FER(offsets=(0, 0)).detect_emotions(face, face_rectangles=[the whole crop]), tflite",
        trained_on="FER2013",
    ),
    Peer(
        name="facial-emotion-recognition",
        version="0.3.4",
        language="python",
        packages=("facial-emotion-recognition==0.3.4", "facenet-pytorch==2.5.3"),
        requirements=("torch", "torchvision", "opencv-python-headless", "pillow", "requests", "tqdm"),
        worker="worker_facial_emotion_recognition.py",
        call="EmotionRecognition(device='cpu'): transform and network of its _predict; exp of the outputs, scaled to 1",
        trained_on="not stated",
    ),
    Peer(
        name="facex",
        version="1.1.0",
        language="python",
        packages=("facex==1.1.0",),
        requirements=("tensorflow>=2.16,<2.21", "opencv-contrib-python-headless", "scikit-image"),
        worker="worker_facex.py",
        call="EmotionClassifier.detect_emotion(grey crop), tflite",
        trained_on="not stated",
    ),
    Peer(
        name="face-api",
        version="1.7.15",
        language="node",
        packages=("@vladmandic/face-api@1.7.15",),
        requirements=("@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0"),
        worker="worker_face_api.cjs",
        call="faceExpressionNet.predictExpressions(RGB crop), WASM backend",
        trained_on="not stated",
    ),
)

PEERS: Mapping[str, Peer] = MappingProxyType({peer.name: peer for peer in _PEERS})
"""The peers by name."""


def find_peer(name: str) -> Peer:
    """The peer with a name; UnavailableError lists the names."""
    try:
        return PEERS[name]
    except KeyError:
        raise UnavailableError(f"there is no peer {name!r}: choose from {', '.join(PEERS)}") from None
