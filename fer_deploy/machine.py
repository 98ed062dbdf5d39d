"""Facts about this machine: its processor, cores and memory, and where a user's caches belong."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from fer_deploy.errors import FerDeployError, UnavailableError

MAXIMUM_THREADS = 1024
"""The most threads that may be set anywhere: more than any processor has, few enough for every system to start."""

INSTRUCTIONS: tuple[str, ...] = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "sve")
"""Processor features that decide how fast a network runs and, for int8 files, how exactly."""


def processor_name() -> str:
    """The processor's model name, or the architecture where the system does not report one."""
    for key in ("model name", "Model"):  # x86 and most Linux; some ARM kernels
        if value := _cpu_field(key):
            return value
    return platform.processor() or platform.machine()


def processor_features(known: tuple[str, ...] = INSTRUCTIONS) -> list[str]:
    """Those of `known` that the processor has, in that order; empty where the system does not report them."""
    have = set((_cpu_field("flags") or _cpu_field("Features")).split())
    return [name for name in known if name in have]


def processor_identity() -> str:
    """Text that differs between any two processors for which a compiler may make different machine code."""
    return "\n".join((processor_name(), *map(_cpu_field, ("flags", "Features", "CPU part"))))


def available_cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int, *, per_core: int, error: type[FerDeployError] = UnavailableError) -> None:
    """Refuse more threads than a use of them allows for each core that this process may use.

    Args:
        threads: how many are asked for.
        per_core: how many of them each core may have; `MAXIMUM_THREADS` bounds them as well.
        error: the class of error to raise.

    Raises:
        FerDeployError: of class `error`: there are more.
    """
    cores = available_cores()
    most = min(per_core * cores, MAXIMUM_THREADS)
    if threads > most:
        available = "1 core is" if cores == 1 else f"{cores} cores are"
        raise error(f"--threads {threads}: {available} available: use 1 to {most}")


def memory_bytes() -> int | None:
    """The machine's memory in bytes; None where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory_bytes() -> int | None:
    """The most memory that this process has used, in bytes; None where the system does not report it.

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


def cache_folder() -> Path | None:
    """Where ferdeploy keeps files that it can make again: `$FERDEPLOY_CACHE`, else the system's place for caches.

    None where neither is set and the user has no home folder: callers then work without a cache.
    """
    if named := os.environ.get("FERDEPLOY_CACHE"):
        return Path(named)
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME and no passwd entry, as in containers that run under any user id
        return None
    return base / "ferdeploy"


def _cpu_field(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is none."""
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
