"""Models open in ONNX Runtime: the only place of the package that starts its sessions.

`open_model` opens one of our files by its contract. `start_session` starts any other ONNX file, such as a detector's.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
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

_LARGE_INPUT_BYTES = 16_000_000
"""Bytes of faces in one call from which on memory is returned to the system afterwards."""

_SUM_TOLERANCE = 1e-2
"""How far a row of probabilities may sum from 1: half precision differs by less than 0.004."""


_SESSIONS: weakref.WeakSet[onnxruntime.InferenceSession] = weakref.WeakSet()
"""The sessions that this process started."""


def _keep_inherited_sessions() -> None:
    """Let a forked process never free the sessions that it inherited: that would wait for their threads, or crash.

    A reference that is never released survives even the interpreter's shutdown, as a global list would not.
    """
    for session in _SESSIONS:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _SESSIONS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited_sessions)


class Model:
    """One of our model files, open in ONNX Runtime. Safe to share between threads, to pickle and to use after a fork.

    A pickled model carries its file: it opens again wherever it is unpickled, with the same threads and providers.

    Attributes:
        contract: what the file states about itself.
        threads: ONNX Runtime's threads within one call; None for all cores.

    Args:
        content: the file's bytes, checked before.
        contract: what the check returned for them.
        threads: ONNX Runtime's threads within one call; None lets it use all cores.
        providers: where to compute, as `start_session`.

    Raises:
        ModelFileError, UnavailableError: as `start_session`.
    """

    def __init__(
        self,
        content: bytes,
        contract: ModelContract,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        self.contract = contract
        self.threads = threads
        self._content = content
        self._providers = providers
        self._session = self._start()

    def _start(self) -> tuple[int, onnxruntime.InferenceSession]:
        # Bytes, not the path: ONNX Runtime can then read no file beside it as external data, and a swap of the file
        # between check and load changes nothing.
        session = start_session(
            self._content, source=self.contract.source, threads=self.threads, providers=self._providers
        )
        return os.getpid(), session

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """ONNX Runtime's session; in a forked process a new one, since the threads of the inherited one are gone."""
        process, session = self._session
        if process != os.getpid():
            self._session = self._start()
            session = self._session[1]
        return session

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use, first choice first."""
        return tuple(self.session.get_providers())

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities of at most as many faces as the file takes in one call.

        Args:
            faces: uint8 (n, height, width, 3), RGB, n at least 1, of the height and width that the file takes.

        Returns:
            float32 (n, classes), rows that sum to 1.

        Raises:
            ModelFileError: ONNX Runtime failed, or the file computed something else than probabilities.
        """
        padded = pad_batch(np.ascontiguousarray(faces), self.contract.shape[0])
        try:
            (values,) = self.session.run([OUTPUT_NAME], {INPUT_NAME: padded}, _run_options(padded.nbytes))
        except Exception as error:  # ONNX Runtime raises classes of its own extension module
            raise ModelFileError(f"{self._label}: ONNX Runtime failed: {one_line(error, limit=300)}") from error
        classes = len(self.contract.labels)
        return check_probabilities(values, faces=len(padded), classes=classes, source=self._label)[: len(faces)]

    @property
    def _label(self) -> str:
        """What errors call the model: its source, which for bytes in memory does not tell which model it is."""
        return f"{self.contract.source} ({self.contract.name})"

    def __getstate__(self) -> tuple[Any, ...]:
        return self._content, self.contract.source, self.threads, self._providers

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        content, source, threads, providers = state
        Model.__init__(self, content, check_model_bytes(content, source=source), threads=threads, providers=providers)


def _run_options(input_bytes: int) -> onnxruntime.RunOptions | None:
    """Options that return memory to the system after a large input; None for others, which would only be slower.

    ONNX Runtime keeps the memory of its largest call for the next one: four times the input's bytes.
    """
    if input_bytes < _LARGE_INPUT_BYTES:
        return None
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def check_probabilities(
    values: NDArray[Any], *, faces: int, classes: int = len(EMOTIONS), source: str
) -> NDArray[np.float32]:
    """Make sure that what an engine computed are the probabilities of so many faces, and return them.

    A file can keep the contract's names and types, and compute anything: one row for the whole batch, which numpy would
    give to every face, or numbers that are no probabilities.

    Args:
        values: the engine's output.
        faces: how many faces it was given.
        classes: how many labels the model has.
        source: what to call the model in errors.

    Raises:
        ModelFileError: another shape than (`faces`, `classes`), a value that is negative or not finite, or a row whose
            sum is further than 0.01 from 1.
    """
    if values.shape == (faces, classes):
        error = np.abs(values.sum(axis=1) - 1).max()
        if values.min() >= 0 and error <= _SUM_TOLERANCE:  # both are false where a value is NaN
            return values
        if not np.isfinite(values).all():
            problem = "values that are not finite"
        elif values.min() < 0:
            problem = f"a negative value, {values.min():.3g}"
        else:
            problem = f"rows that do not sum to 1 but differ by up to {error:.3g}"
    else:
        problem = f"shape {list(values.shape)} instead of {[faces, classes]}"
    count = "1 face" if faces == 1 else f"{faces} faces"
    raise ModelFileError(f"{source}: computed no probabilities for {count}: {problem}: the model is damaged")


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
    return Model(content, contract, threads=threads, providers=providers)


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
    _SESSIONS.add(session)
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
