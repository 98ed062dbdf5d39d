"""The machine of a run: what of its hardware and software decides the times."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from fer_deploy.machine import available_cores, memory_bytes, processor_features, processor_name

PACKAGES: tuple[str, ...] = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "timm")
"""Packages whose versions are recorded, where they are installed."""


def describe_machine(*, gpu: bool) -> dict[str, Any]:
    """The machine as plain values; none of them identifies the host or its user.

    Args:
        gpu: whether to ask PyTorch for the accelerator, which imports it.
    """
    return {
        "processor": processor_name(),
        "cores": available_cores(),
        "instructions": processor_features(),
        "architecture": platform.machine(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": package_versions(),
        "accelerators": accelerators() if gpu else [],
        "load_at_start": load_average(),
    }


def load_average() -> float | None:
    """Programs that ran or waited in the last minute, on average; None where the system does not report it."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # not on Windows, nor in every sandbox
        return None


def package_versions() -> dict[str, str]:
    """The versions of those of PACKAGES that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def accelerators() -> list[str]:
    """The names of the CUDA devices and MPS, as PyTorch sees them."""
    try:
        import torch
    except (ImportError, OSError):  # OSError: a library of CUDA is missing
        return []
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*names, "Apple MPS"] if torch.backends.mps.is_available() else names
