"""Where the faces are in a photo: boxes, the detectors that find them, and the crop that a classifier is given.

Importing this package loads no detector; `fer_deploy.detection.detect` loads one when it is asked for.
"""

from __future__ import annotations

from fer_deploy.detection.box import Box

__all__ = ["Box"]
