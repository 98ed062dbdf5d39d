"""The cost of a model: multiply-adds, parameters and bytes, counted on the networks of its runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fer_deploy.bench.subjects import Subject


@dataclass(frozen=True)
class ModelCost:
    """The cost of one face, batch 1.

    Attributes:
        gflops: fvcore's multiply-adds, in units of 1e9, summed over the members (a mirrored view counts again); None
            without the runs.
        torch_gflops: torch's own counter: twice the multiply-adds of convolutions and linear layers alone.
        params: parameters, each network once.
        activations: elements of the outputs of convolutions and linear layers, summed like gflops.
        uncounted: operators that fvcore has no count for.
        bytes: size of the ONNX file, or of a run's weights file.
        recorded_gflops: the figure in the file's metadata.
    """

    gflops: float | None = None
    torch_gflops: float | None = None
    params: int | None = None
    activations: int | None = None
    uncounted: tuple[str, ...] = ()
    bytes: int | None = None
    recorded_gflops: float | None = None


def count_cost(subject: Subject) -> ModelCost:
    """Count a model's cost; without its runs or without PyTorch, only its size and its recorded GFLOPs.

    Raises:
        FerDeployError: a run cannot be opened, or the file was exported from other weights.
    """
    recorded = recorded_cost(subject)
    if not subject.runs:
        return recorded
    try:
        import torch  # noqa: F401  counting needs it
    except ImportError:
        return recorded
    from fer_deploy.bench.engines.pytorch import build_classifier
    from fer_deploy.models.cost import measure_cost, total_cost

    classifier = build_classifier(subject)
    networks = {id(member.network): member for member in classifier.members}
    counts = {key: measure_cost(member.network, size=member.input_size) for key, member in networks.items()}
    total = total_cost(counts[id(member.network)] for member in classifier.members)
    return replace(
        recorded,
        gflops=total.gflops or None,
        torch_gflops=total.torch_gflops or None,  # its counter knows convolutions and linear layers alone
        params=sum(count.parameters for count in counts.values()),
        activations=total.activations,
        uncounted=total.uncounted,
    )


def recorded_cost(subject: Subject) -> ModelCost:
    """A model's size and recorded GFLOPs: all that is known without its runs."""
    return ModelCost(bytes=_bytes(subject), recorded_gflops=subject.contract.gflops if subject.contract else None)


def _bytes(subject: Subject) -> int | None:
    paths = [subject.path] if subject.path else [folder / "weights.safetensors" for folder in set(subject.runs)]
    return sum(Path(path).stat().st_size for path in paths if Path(path).is_file()) or None
