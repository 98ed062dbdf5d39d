"""Videos and cameras: frames in, tracked and smoothed faces out, an annotated copy and a plot.

`decode` gives frames, `track` follows a face from frame to frame, `smooth` steadies its probabilities, `encode` writes
an annotated copy, `plot` draws probabilities against time, `camera` shows a camera's picture in a window.
"""

from __future__ import annotations
