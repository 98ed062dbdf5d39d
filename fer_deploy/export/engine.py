"""ONNX Runtime as an app gets it by default: the engine that every file is proven with. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import ExportError, ModelFileError
from fer_deploy.model.contract import INPUT_NAME
from fer_deploy.model.session import pad_batch, start_session


def session_of(content: bytes, *, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU, at its default optimisation level.

    Args:
        content: the file's bytes, already checked by `fer_deploy.model.contract` where they are not our own.
        threads: within one call; None takes all cores.

    Raises:
        ExportError: the file can't be loaded.
    """
    try:
        return start_session(content, source="the file", threads=threads)
    except ModelFileError as error:
        raise ExportError(str(error)) from error


def run_whole(session: Any, pictures: NDArray[np.uint8], *, batch: int | None = None) -> list[NDArray[np.float32]]:
    """All outputs of a session for `pictures`, uint8 (n, h, w, 3).

    Where the file fixes its `batch`, a smaller one is filled up with the last picture, and the answers to those are
    left out again. ExportError when the file can't be run.
    """
    count = len(pictures)
    try:
        outputs = session.run(None, {INPUT_NAME: pad_batch(pictures, batch)})
    except Exception as error:
        raise ExportError(f"ONNX Runtime can't run the file on {pictures.shape}: {error}") from error
    return [output[:count] for output in outputs]
