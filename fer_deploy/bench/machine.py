"""What a run was measured on: the processor, the accelerator and the versions that decide its times."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES: tuple[str, ...] = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "timm")
"""Packages whose version is stated where they are installed."""

INSTRUCTIONS: tuple[str, ...] = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "sve")
"""Processor features that decide how fast, and for 8-bit files how exactly, a network is computed."""


def describe_machine(*, gpu: bool) -> dict[str, Any]:
    """The machine as plain values; nothing in it names the host or its user.

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


def processor_name() -> str:
    """The processor's model name, or the architecture where the system does not tell."""
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """Those of INSTRUCTIONS that the processor has, where the system tells."""
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            have = set(value.split())
            return [name for name in INSTRUCTIONS if name in have]
    return []


def available_cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def load_average() -> float | None:
    """Programs that ran or waited in the last minute, on average; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def package_versions() -> dict[str, str]:
    """The installed ones of PACKAGES, and their versions."""
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
    except ImportError:
        return []
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*names, "Apple MPS"] if torch.backends.mps.is_available() else names


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not tell.

    On Linux this is VmHWM: `ru_maxrss` there is inherited from the parent through exec.
    """
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
