"""ONNX Runtime as an app gets it by default: the engine that every file is proven with. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import ExportError
from fer_deploy.model.contract import INPUT_NAME


def session_of(content: bytes, *, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU, at its default optimisation level.

    Args:
        content: the file's bytes, already checked by `fer_deploy.model.contract` where they are not our own.
        threads: within one call; None takes all cores.

    Raises:
        ExportError: the file can't be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime can't load the file: {error}") from error


def run_whole(session: Any, pictures: NDArray[np.uint8], *, batch: int | None = None) -> list[NDArray[np.float32]]:
    """All outputs of a session for `pictures`, uint8 (n, h, w, 3).

    Where the file fixes its `batch`, a smaller one is filled up with the last picture, and the answers to those are
    left out again. ExportError when the file can't be run.
    """
    count = len(pictures)
    if batch and count < batch:
        pictures = np.concatenate([pictures, np.repeat(pictures[-1:], batch - count, axis=0)])
    try:
        outputs = session.run(None, {INPUT_NAME: pictures})
    except Exception as error:
        raise ExportError(f"ONNX Runtime can't run the file on {pictures.shape}: {error}") from error
    return [output[:count] for output in outputs]
