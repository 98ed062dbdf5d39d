"""Models open in ONNX Runtime: the only place of the package that starts its sessions.

`open_model` opens one of our files by its contract. `start_session` starts any other ONNX file, such as a detector's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import ModelFileError, UnavailableError, one_line
from fer_deploy.model.contract import (
    INPUT_NAME,
    OUTPUT_NAME,
    ModelContract,
    check_model_bytes,
    read_model_file,
)

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
        "directml": "DmlExecutionProvider",
        "openvino": "OpenVINOExecutionProvider",
        "rocm": "ROCMExecutionProvider",
        "migraphx": "MIGraphXExecutionProvider",
        "webgpu": "WebGpuExecutionProvider",
        "xnnpack": "XnnpackExecutionProvider",
    }
)
"""Short names of ONNX Runtime's execution providers. Its own names are understood as well."""

CPU = PROVIDERS["cpu"]


class Model:
    """One of our model files, open in ONNX Runtime. Safe to share between threads.

    Attributes:
        contract: what the file states about itself.
        session: ONNX Runtime's session.
    """

    def __init__(self, contract: ModelContract, session: onnxruntime.InferenceSession) -> None:
        self.contract = contract
        self.session = session

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use, first choice first."""
        return tuple(self.session.get_providers())

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities of at most as many faces as the file takes in one call.

        Args:
            faces: uint8 (n, height, width, 3), RGB, n at least 1, of the height and width that the file takes.

        Returns:
            float32 (n, 7).

        Raises:
            ModelFileError: ONNX Runtime failed.
        """
        padded = pad_batch(np.ascontiguousarray(faces), self.contract.shape[0])
        try:
            (values,) = self.session.run([OUTPUT_NAME], {INPUT_NAME: padded})
        except Exception as error:  # ONNX Runtime raises classes of its own extension module
            raise ModelFileError(
                f"{self.contract.source}: ONNX Runtime failed: {one_line(error, limit=300)}"
            ) from error
        result: NDArray[np.float32] = values[: len(faces)]
        return result


def open_model(
    model: str | os.PathLike[str] | bytes,
    *,
    source: str = "the model's bytes",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Model:
    """Check one of our model files, and open it in ONNX Runtime.

    Args:
        model: the file, or its bytes.
        source: what to call the bytes in errors; a file is called by its path.
        threads: ONNX Runtime's threads within one call; None lets it use all cores.
        providers: where to compute, best first, as `start_session`.

    Raises:
        ModelFileError: the file is missing or unsafe, breaks the contract, or cannot be loaded.
        UnavailableError: a provider is absent or cannot be started.
    """
    if isinstance(model, bytes):
        content, contract = model, check_model_bytes(model, source=source)
    else:
        content, contract = read_model_file(model)
    # Bytes, not the path: ONNX Runtime can then read no file beside it as external data, and a swap of the file between
    # check and load changes nothing.
    return Model(contract, start_session(content, source=contract.source, threads=threads, providers=providers))


def start_session(
    content: bytes,
    *,
    source: str = "the model",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> onnxruntime.InferenceSession:
    """Start a session of ONNX Runtime, at its default optimisation level.

    Args:
        content: an ONNX file's bytes, which are trusted: check others with `fer_deploy.model.contract` first.
        source: what to call the file in errors.
        threads: threads within one call, at least 1; None lets ONNX Runtime use all cores.
        providers: where to compute, best first: short names (`cpu`, `cuda`, ...) or ONNX Runtime's; None is the CPU.
            The first must really be in use: ONNX Runtime's silent step down to the CPU is an error here.
        settings: further session settings of ONNX Runtime, by its names.

    Raises:
        ModelFileError: ONNX Runtime cannot load the file.
        UnavailableError: a provider is absent or cannot be started.
    """
    import onnxruntime

    names = provider_names(providers)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its warnings and errors go to stderr by themselves; ours are exceptions
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=names if CPU in names else [*names, CPU], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime raises classes of its own extension module
        detail = one_line(error, limit=300)
        if names[0] != CPU and "ExecutionProvider" in detail:
            raise UnavailableError(f"{names[0]} cannot be started: {detail}") from error
        raise ModelFileError(f"{source}: not an ONNX model that ONNX Runtime can load: {detail}") from error
    session.disable_fallback()
    in_use = session.get_providers()
    if in_use[0] != names[0]:
        raise UnavailableError(
            f"{names[0]} could not be started, ONNX Runtime stepped down to {in_use[0]}: check its driver and "
            "libraries, or use cpu"
        )
    return session


def provider_names(providers: Sequence[str] | None) -> list[str]:
    """ONNX Runtime's names of execution providers, each of which this ONNX Runtime has.

    Args:
        providers: short names (PROVIDERS), ONNX Runtime's names, or these without their ending `ExecutionProvider`, in
            any case; None is the CPU.

    Raises:
        UnavailableError: there is none, or this ONNX Runtime does not have one of them.
    """
    import onnxruntime

    if providers is None:
        return [CPU]
    if isinstance(providers, str):
        providers = [providers]
    if not providers:
        raise UnavailableError(f"no provider named: give one of {', '.join(PROVIDERS)}")
    available = onnxruntime.get_available_providers()
    by_lower = {name.lower(): name for name in available}
    names = []
    for name in providers:
        full = PROVIDERS.get(name.lower(), name)
        known = by_lower.get(full.lower()) or by_lower.get(f"{full}ExecutionProvider".lower())
        if known is None:
            raise UnavailableError(
                f"ONNX Runtime {onnxruntime.__version__} here has no {full}, only {', '.join(available)}: "
                "install the build of ONNX Runtime for it, or use cpu"
            )
        names.append(known)
    return names


def pad_batch(faces: NDArray[Any], batch: int | None) -> NDArray[Any]:
    """Faces for a file that fixes its batch: the last face is repeated until there are `batch`.

    Args:
        faces: (n, ...), n at least 1.
        batch: the file's batch; None, for any, leaves the faces unchanged.
    """
    missing = 0 if batch is None else batch - len(faces)
    if missing <= 0:
        return faces
    return np.concatenate([faces, np.repeat(faces[-1:], missing, axis=0)])
