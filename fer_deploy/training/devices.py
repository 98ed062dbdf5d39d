"""Which device computes, and how many processes share the work.

Several processes are started by `torchrun` or `accelerate launch`; this module only reads what they set and joins
their group. One process alone needs neither.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed

from fer_deploy.errors import UnavailableError


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train together."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place, and give it back."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def agree(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says yes; all get the same answer."""
        if self.count == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=device)) > 0)

    def as_first(self, values: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """What the first process has, for all: each one's own differ, as its batch norms saw other faces."""
        if self.count == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.broadcast(shared, 0)
        return tuple(shared.tolist())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()


def join_processes(device: torch.device) -> Processes:
    """Join the group that a launcher described in the environment, or stay alone where there is none.

    The group stays for all runs of a command, until the process ends: a second one would find what the first left in
    the launcher's store, and wait for it for ever.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(torch.distributed.destroy_process_group)
    return Processes(torch.distributed.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `mps` stands for on this machine.

    Raises:
        UnavailableError: the device asked for is not there; nothing falls back silently.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cuda" and not cuda:
        built = "this PyTorch was built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA device"
        raise UnavailableError(f"cuda was asked for, and {built}: check the driver, or use --device cpu")
    if name == "mps" and not mps:
        raise UnavailableError("mps was asked for, and PyTorch finds no Apple GPU: use --device cpu")
    if name == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(name)


def describe_failure(error: RuntimeError) -> str | None:
    """What happened to the device or to another process, in words; None where the error is of another kind."""
    text = str(error)
    first_line = text.strip().partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text:
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
    """The device in words: the GPU's name, or the processor's and the number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "mps":
        return "Apple GPU (MPS)"
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """The processor's name as the system gives it."""
    import platform
    from pathlib import Path

    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
