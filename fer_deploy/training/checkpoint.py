"""A training run's whole state in one file: a kill at any moment leaves the old state or the new, never a mixture.

Tensors are safetensors entries under prefixes (`network.`, `average.`, `best.`, `optimiser.<i>.`); everything else is
JSON in the file's metadata. Nothing is pickled.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fer_deploy.errors import RunError, one_line
from fer_deploy.files import check_regular, replacing


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that resuming a run needs: tensors by prefixed name, on the CPU, and a state of JSON's types."""

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin with `prefix.`, by the rest of their names."""
        start = prefix + "."
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OSError: it cannot be written (disk full, folder read-only); the old one is unchanged.
    """
    # With the names of all tensors, `read_checkpoint` can tell whether one is missing.
    state = {**checkpoint.state, "tensors": sorted(checkpoint.tensors)}
    save_tensors(path, checkpoint.tensors, metadata={"state": json.dumps(state)})


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], *, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        OSError: they cannot be written; an old file is unchanged.
    """
    here = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(here, temporary, metadata=metadata)
        except SafetensorError as error:  # its text has the system's error number
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunError: the file is damaged, or no regular file.
    """
    check_regular(path, what="checkpoint", error=RunError)
    with damage_in_words(path):
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])  # a loss in it may be NaN, which files.parse_json refuses
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(state, dict):
            raise ValueError("its state is no table")
        if sorted(state.pop("tensors", tensors)) != sorted(tensors):
            raise ValueError("a tensor is missing or unknown")
        return Checkpoint(tensors, state)


@contextmanager
def damage_in_words(path: Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint raises, while it is read or restored, into one error.

    Raises:
        RunError: the block raised anything but RunError.
    """
    try:
        yield
    except (RunError, OSError):
        raise
    except Exception as error:  # safetensors, PyTorch and a wrong type somewhere in the state: each has its own
        raise RunError(f"{path}: the checkpoint is damaged ({one_line(error)}): train again with --restart") from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's moments and counters, named `<parameter's number>.<moment>`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{place}.{name}": torch.as_tensor(value)
        for place, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore what `optimiser_tensors` returned; the groups keep the values that recipe and schedule set.

    Moments get their parameter's memory layout: PyTorch's fused optimisers walk storage in order, and would silently
    pair the wrong numbers of a channels-last parameter and a contiguous moment.

    Raises:
        ValueError: a moment has another shape than its parameter.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition(".")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter).copy_(tensor)
        elif tensor.numel() != 1:  # a counter
            raise ValueError(f"optimiser.{name} has shape {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
        state.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
