"""ferdeploy: facial-expression classifiers from training to one ONNX file that any app can embed.

Importing this package needs numpy and ONNX Runtime alone; the pipeline (`pip install fer-deploy[train]`) is in the
subpackages and is imported by those who use it.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import FerDeployError

# From 1.29 on, ONNX Runtime stores a device id in the user's cache and reports events to Microsoft. It reads this
# variable when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from fer_deploy.recognizer import Recognition as Recognition
    from fer_deploy.recognizer import Recognizer as Recognizer

__version__ = "0.1.0"
__all__ = ["EMOTIONS", "FerDeployError", "Recognition", "Recognizer", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("Recognizer", "Recognition"):  # loads ONNX Runtime only when it is used
        return getattr(import_module("fer_deploy.recognizer"), name)
    raise AttributeError(f"module 'fer_deploy' has no attribute {name!r}")
