"""Which device computes, in which arithmetic, and how many processes share the work.

`torchrun` or `accelerate launch` starts several processes. This module only reads the variables that they set and joins
their group. A single process needs neither.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed

from fer_deploy.errors import UnavailableError, one_line
from fer_deploy.machine import processor_name

NO_MEMORY = "can't allocate memory"
"""What PyTorch's allocator for the CPU writes, in a RuntimeError, when memory is exhausted."""


@dataclass(frozen=True)
class Processes:
    """This process's rank among those that train together."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place, and return it."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def agree(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is set in any process; the same answer for all."""
        if self.count == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=device)) > 0)

    def as_first(self, values: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """The first process's values, for all. Theirs differ, because their batch norms saw different faces."""
        if self.count == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.broadcast(shared, 0)
        return tuple(shared.tolist())


def join_processes(device: torch.device) -> Processes:
    """Join the group that a launcher described in the environment; without a launcher, a single process.

    The group serves all runs of a command, until the process ends: a second group would find the first one's keys in
    the launcher's store, and wait for ever.
    """
    count = launcher_number("WORLD_SIZE", 1)
    if count == 1:
        return Processes()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(torch.distributed.destroy_process_group)
    return Processes(torch.distributed.get_rank(), count, launcher_number("LOCAL_RANK", 0))


def launcher_number(name: str, default: int) -> int:
    """A whole number that a launcher of several processes set in the environment.

    Raises:
        UnavailableError: the variable holds something else.
    """
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise UnavailableError(
            f"${name} is {one_line(text, limit=40)!r}, not a whole number: unset it, or use torchrun"
        )
    return int(text)


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `mps` means on this machine.

    Raises:
        UnavailableError: the device is absent. Nothing falls back silently.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cuda" and not cuda:
        built = "this PyTorch was built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA device"
        raise UnavailableError(f"--device cuda: {built}: check the driver, or use --device cpu")
    if name == "mps" and not mps:
        raise UnavailableError("--device mps: PyTorch finds no Apple GPU: use --device cpu")
    if name == "cuda":
        local_rank = launcher_number("LOCAL_RANK", 0)
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(name)


def describe_failure(error: RuntimeError) -> str | None:
    """An error's cause in words, if it is a failure of the device or of another process; else None."""
    text = str(error)
    first_line = text.strip().partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or NO_MEMORY in text:
        return "the device is out of memory (a smaller --batch-size needs less, another program may hold some)"
    lost = isinstance(error, getattr(torch, "AcceleratorError", ())) or any(
        mark in text for mark in ("CUDA error", "HIP error", "CUDNN_STATUS", "CUBLAS_STATUS", "MPS backend")
    )
    if lost:
        return f"the device was lost ({first_line})"
    parted = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    if isinstance(error, torch.distributed.DistError) or any(mark in text for mark in parted):
        return f"another process was lost ({first_line})"
    return None


def describe_device(device: torch.device) -> str:
    """The device in words: the GPU's name, or the processor's name and the number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "mps":
        return "Apple GPU (MPS)"
    threads = torch.get_num_threads()
    return f"{processor_name()}, {threads} thread{'s' if threads != 1 else ''}"


def half_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The half-precision type of the forward pass on a device, for a stage's `precision`; None is float32.

    bfloat16 on a processor without AMX or AVX-512 BF16 would be emulated, several times slower than float32.
    """
    if precision == "float16" and device.type == "cuda":
        return torch.float16
    if precision == "bfloat16":
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        native = any(getattr(torch.cpu, name, lambda: False)() for name in names)
        if device.type == "cuda" or (device.type == "cpu" and native):
            return torch.bfloat16
    return None


def autocast(device: torch.device, half: torch.dtype | None) -> torch.autocast:
    """The context in which forward passes use what `half_type` returned."""
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)
