"""PyTorch, eager or compiled, on the CPU, CUDA or MPS: the runs' networks in the module that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.engines import ANY_AXES, EngineSession, FixedAxes
from fer_deploy.bench.subjects import Subject
from fer_deploy.ensemble import Weights, split_member
from fer_deploy.errors import MeasurementError, UnavailableError, install

if TYPE_CHECKING:
    import torch

    from fer_deploy.export.graph import FaceClassifier


def open_torch(subject: Subject, engine: str, *, threads: int) -> EngineSession:
    """Open a model's runs in PyTorch.

    Args:
        subject: a run, or a file whose runs are in the workspace.
        engine: torch-<device>, or torch-<device>-compiled.
        threads: torch's intra-operator threads, for the whole process.

    Raises:
        UnavailableError: torch or the device is absent.
        MeasurementError: the runs have other weights than the file.
        RunError: a run is incomplete or damaged.
    """
    _, device, *compiled = engine.split("-")
    check_device(device)
    import torch

    from fer_deploy.export.build import folded

    torch.set_num_threads(threads)
    # batch norms folded, as in the exported file, so that only the engines differ
    classifier = folded(build_classifier(subject)).to(device)
    return TorchSession(classifier, device, compiled=bool(compiled))


def check_device(device: str) -> None:
    """Raise UnavailableError where this PyTorch lacks a device."""
    try:
        import torch
    except ImportError as error:
        raise UnavailableError(f"absent: torch is not installed: {install('train')}") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("absent: this PyTorch finds no CUDA device")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError("absent: this PyTorch has no MPS device")


def build_classifier(subject: Subject) -> FaceClassifier:
    """The model as one torch module, uint8 faces to probabilities, in evaluation mode on the CPU.

    Raises:
        MeasurementError: the runs are missing, or have other weights than the file.
    """
    from fer_deploy.export.graph import FaceClassifier, Member
    from fer_deploy.training.run import Run

    if not subject.runs:
        raise MeasurementError("its runs are missing from the workspace's training/ folder")
    contract = subject.contract
    names = contract.members if contract else (subject.name,)
    temperatures = (contract.temperatures if contract else ()) or (None,) * len(names)
    runs: dict[Path, Run] = {}
    networks: dict[Path, Any] = {}
    members = []
    for name, folder, temperature in zip(names, subject.runs, temperatures, strict=True):
        if folder not in runs:
            runs[folder] = Run.open(folder)
            networks[folder] = runs[folder].network()
        run = runs[folder]
        members.append(
            Member(
                name=name,
                network=networks[folder],
                input_size=run.input_size,
                temperature=run.temperature if temperature is None else temperature,
                mirrored=split_member(name)[1],
            )
        )
    if contract is None:
        return FaceClassifier(members)
    recorded = contract.metadata.get("weights_sha256", "")
    for run in runs.values():
        if recorded and run.weights_sha256 not in recorded:
            raise MeasurementError(
                f"training/{run.name} has other weights than {Path(contract.source).name}: "
                f"export it again with `ferdeploy export {run.name}`"
            )
    weights = Weights.of(contract.weights, source="the file") if contract.weights else None
    fusion = "rrf" if contract.metadata.get("fusion") == "rrf" else "wap"
    return FaceClassifier(members, weights=weights, fusion=fusion, calibration=contract.calibration)  # type: ignore[arg-type]


class TorchSession:
    """A classifier on a device, in channels-last memory, which is fastest on every device."""

    fixed_batch: int | None = None
    axes: FixedAxes = ANY_AXES

    def __init__(self, classifier: FaceClassifier, device: str, *, compiled: bool) -> None:
        import torch

        self._torch = torch
        self._device = device
        self.host_memory = device == "cpu"
        self.note: str | None = None
        name = torch.cuda.get_device_name() if device == "cuda" else device
        self.provider = f"torch {name}" + (" (inductor)" if compiled else "")
        classifier = classifier.to(memory_format=torch.channels_last)
        self._call: Any = torch.compile(classifier) if compiled else classifier

    def upload(self, faces: NDArray[np.uint8]) -> torch.Tensor:
        """Copy the faces to the device; on the CPU nothing is copied."""
        return self._torch.from_numpy(faces).to(self._device, non_blocking=True)

    def compute(self, uploaded: torch.Tensor) -> torch.Tensor:
        """Run the network in inference mode."""
        with self._torch.inference_mode():
            answer: torch.Tensor = self._call(uploaded)
        return answer

    def synchronise(self) -> None:
        """Wait for the device."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        elif self._device == "mps":
            self._torch.mps.synchronize()

    def download(self, answer: torch.Tensor) -> NDArray[np.float32]:
        """Copy the answer to the host."""
        values: NDArray[np.float32] = answer.float().cpu().numpy()
        return values
