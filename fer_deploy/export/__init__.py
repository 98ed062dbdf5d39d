"""Trained runs as self-contained ONNX files: build the graph, compare it with PyTorch, write it, verify it again.

`plan` decides what goes into a file, `graph` and `build` make it, `parity` compares it with PyTorch, and `write` moves
it into place and records it in the manifest. `verify` repeats the checks on a finished file. `int8` quantises.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the current step, how much of it is done, and how much there is in total."""
