"""Find faces in a photo: boxes, the detectors that find them, and the crop that goes to the classifier.

Importing this package loads no detector; creating a `FaceDetector` (in `fer_deploy.detection.detector`) does.
"""

from __future__ import annotations

from fer_deploy.detection.box import Box

__all__ = ["Box"]
