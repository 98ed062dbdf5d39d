"""Where the faces are in a photo: boxes, the detectors that find them, and the crop that a classifier is given.

Importing this package loads no detector; a `FaceDetector` (in `fer_deploy.detection.detector`) loads one.
"""

from __future__ import annotations

from fer_deploy.detection.box import Box

__all__ = ["Box"]
