"""A run folder: `training/<name>/` with `weights.safetensors`, `run.json` and `history.csv`.

Weights are rounded to half precision when they are saved. The rounded weights are validated at the end, exported and
hashed, so that a committed folder reproduces its ONNX file exactly.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import RecipeError, RunError, one_line
from fer_deploy.files import read_file, write_bytes
from fer_deploy.labels import LabelMap
from fer_deploy.models import build_network, initialise
from fer_deploy.models.transfer import last_layer
from fer_deploy.recipes import Network, Recipe, list_experiments, list_recipes
from fer_deploy.training.devices import NO_MEMORY
from fer_deploy.training.record import REMEDY, has_record, labels_of, read_record, recorded_recipe, required

if TYPE_CHECKING:
    from torch import nn

MAXIMUM_WEIGHTS = 2**31
"""Bytes of a weights file. VGG19 has 78 MB in half precision."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run that has weights: a complete one or, opened with `partial=True`, a stopped one."""

    name: str
    folder: Path
    recipe: Recipe
    record: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path, *, partial: bool = False) -> Run:
        """Open a run folder.

        Args:
            folder: `training/<name>`.
            partial: also open an unfinished run, with its best weights so far.

        Raises:
            RunError: the folder is missing, unfinished or damaged.
        """
        path = folder / "run.json"
        if not os.path.lexists(path):
            raise RunError(f"{folder}: there is no run here{_remedy(folder)}")
        record = read_record(path)
        if record.get("status") != "complete" and not partial:
            raise RunError(f"{folder}: this run has not finished: resume it with `{_command(folder, record)}`")
        if not record.get("weights_sha256"):
            raise RunError(f"{folder}: this run has no weights yet: resume it with `{_command(folder, record)}`")
        return cls(folder.absolute().name, folder, recorded_recipe(record, path), record)

    @property
    def weights_path(self) -> Path:
        """The weights file."""
        return self.folder / "weights.safetensors"

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of `weights.safetensors`, as recorded; 64 hexadecimal digits."""
        return str(self.record["weights_sha256"])

    @property
    def temperature(self) -> float:
        """The divisor of the logits before the softmax, fitted on validation faces; 1 if none was fitted."""
        return float(self.record.get("temperature") or 1.0)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the network's outputs: the record's `data.labels`, or the seven without them."""
        return labels_of(self.record)

    @property
    def label_map(self) -> LabelMap | None:
        """How the labels of its data were read; None where they needed no map."""
        content = (self.record.get("data") or {}).get("label_map")
        try:
            return None if content is None else LabelMap.from_dict(content)
        except ValueError as error:
            raise RunError(f"{self.folder}/run.json: data.label_map: {error}") from error

    @property
    def input_size(self) -> int:
        """Side in pixels of the square that the network sees."""
        return self.recipe.network.input_size

    @property
    def validation_accuracy(self) -> float:
        """Accuracy of the rounded weights on validation faces, 0 to 1.

        Raises:
            RunError: the record does not have it.
        """
        return float(required(self.record, "best.validation_accuracy", self.folder / "run.json"))

    def network(self) -> nn.Module:
        """The network in evaluation mode with the saved weights: float32, every value one of half precision.

        Raises:
            RunError: the weights are missing, differ from the record, or do not fit the network.
        """
        try:
            content = read_file(self.weights_path, maximum_bytes=MAXIMUM_WEIGHTS, what="weights file", error=RunError)
        except RunError as error:
            raise RunError(f"{error}: {REMEDY}") from error
        if hashlib.sha256(content).hexdigest() != self.weights_sha256:
            raise RunError(f"{self.weights_path}: does not match its record in run.json: fetch both again")
        state = _as_float32(_parse(content, self.weights_path))
        network = make_network(self.recipe.network, classes=len(self.labels))
        load_weights(network, state, source=self.weights_path)
        return network.eval()


def make_network(network: Network, *, classes: int = len(EMOTIONS)) -> nn.Module:
    """The network that a recipe names, for so many classes, its weights drawn from PyTorch's default generator.

    Raises:
        RecipeError: the recipe's options do not fit the network, or the network does not fit into memory.
    """
    options: dict[str, Any] = dict(network.options)
    try:
        return build_network(network.name, classes=classes, input_size=network.input_size, **options)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and NO_MEMORY not in str(error):
            raise
        raise RecipeError(f"network '{network.name}': it does not fit into memory: {one_line(error)}") from error


def is_complete_run(folder: Path) -> bool:
    """Whether a folder holds a complete run, of whichever recipe."""
    try:
        Run.open(folder)
    except RunError:
        return False
    return True


def find_weights(initialisation: str, workspace: Path) -> str | Path:
    """A recipe's `initialisation`; a weights file's path is looked up in the current folder, then in the workspace."""
    in_workspace = workspace / initialisation
    if initialisation.endswith(".safetensors") and not Path(initialisation).exists() and in_workspace.exists():
        return in_workspace
    return initialisation


def first_weights(network: nn.Module, recipe: Recipe, labels: tuple[str, ...], *, workspace: Path) -> str:
    """Give a network its recipe's first weights; a run's last layer that is for other labels is left out.

    Returns:
        A line that describes the weights, for the run's record.

    Raises:
        RecipeError, RunError, UnavailableError: see `fer_deploy.models.initialise`.
    """
    source = find_weights(recipe.initialisation, workspace)
    fresh = {name: network.state_dict()[name].clone() for name in last_layer(network)[0]}
    words = initialise(network, source, name=recipe.network.name)
    record = Path(source).with_name("run.json")
    if str(source).endswith(".safetensors") and has_record(record.parent):
        before = labels_of(read_record(record))
        if len(before) == len(labels) and before != labels:
            network.load_state_dict(fresh, strict=False)
            words += ", a new last layer: its labels are others"
    return words


def list_runs(workspace: Path) -> list[Run]:
    """The complete runs of a workspace, by name; folders without a complete run are ignored."""
    folder = workspace / "training"
    records = sorted(folder.glob("*/run.json"))
    return [Run.open(path.parent) for path in records if read_record(path)["status"] == "complete"]


def half_precision(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round a network's floating tensors to half precision, on the CPU.

    Raises:
        RunError: a value is too large for half precision.
    """
    rounded = {
        name: tensor.detach().to("cpu", torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in state.items()
    }
    for name, tensor in rounded.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RunError(f"weights {name}: a value is not finite in half precision: train with a lower learning rate")
    return rounded


def save_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> str:
    """Write rounded weights as `folder/weights.safetensors`; its bytes depend on the weights alone.

    Returns:
        The file's SHA-256.
    """
    content = save(half_precision(dict(sorted(state.items()))))
    write_bytes(folder / "weights.safetensors", content)
    return hashlib.sha256(content).hexdigest()


def load_half_precision(path: Path) -> dict[str, torch.Tensor]:
    """Read weights, floating ones as float32.

    Raises:
        RunError: the file is missing or not safetensors.
    """
    return _as_float32(
        _parse(read_file(path, maximum_bytes=MAXIMUM_WEIGHTS, what="weights file", error=RunError), path)
    )


def _parse(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    try:
        return load(content)
    except Exception as error:  # safetensors has no error class for all that can be wrong
        raise RunError(f"{path}: damaged weights file: not safetensors: {one_line(error)}: {REMEDY}") from error


def _as_float32(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def load_weights(network: nn.Module, state: Mapping[str, torch.Tensor], *, source: Path) -> None:
    """Load a state into a network; names, shapes and kinds of number must all fit, and all values be finite.

    Raises:
        RunError: a tensor does not fit; names the first. The network is unchanged.
    """
    problem = mismatch(state, network.state_dict())
    if problem:
        raise RunError(f"{source}: {problem}: {REMEDY}")
    network.load_state_dict(dict(state))


def mismatch(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], *, finite: bool = True) -> str:
    """The first tensor of a file that is not as in a network, in words; empty if all are.

    Args:
        state: the file's tensors by name.
        wanted: the network's, which must have the same names, shapes and kinds of number.
        finite: NaN and infinite values count as mismatches.
    """
    for name in sorted(wanted.keys() | state.keys()):
        where = f"tensor {one_line(name)}"
        if name not in state:
            return f"{where} is missing in the file, which is damaged or belongs to another network"
        if name not in wanted:
            return f"{where} is unknown to the network: the file is damaged or belongs to another one"
        tensor, place = state[name], wanted[name]
        if place.shape != tensor.shape:
            return f"{where} has shape {tuple(tensor.shape)}, the network needs {tuple(place.shape)}"
        if tensor.is_complex() or tensor.is_floating_point() != place.is_floating_point():
            return f"{where} has numbers of type {tensor.dtype}, the network needs {place.dtype}"
        if finite and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{where} has values that are NaN or infinite"
    return ""


def _remedy(folder: Path) -> str:
    """How to get the run, or which runs there are."""
    name = folder.name
    if name in (*list_recipes(), *list_experiments(folder.parent.parent)):
        return f": train it with `ferdeploy train {name}`"
    others = sorted(path.parent.name for path in folder.parent.glob("*/run.json"))
    runs = f"; runs: {', '.join(others)}" if others else ""
    return f", and no variant has that name{runs}"


def _command(folder: Path, record: Mapping[str, Any]) -> str:
    """The command that resumes a run, whose recipe may have another name than its folder."""
    recipe = record.get("recipe")
    variant = str(recipe.get("name", folder.name)) if isinstance(recipe, dict) else folder.name
    if folder.name == variant:
        return f"ferdeploy train {variant}"
    stem, _, seed = folder.name.rpartition(".seed")
    if stem and seed.isdigit():
        name = "" if stem == variant else f" --name {stem}"
        return f"ferdeploy train {variant}{name} --seeds 1 --seed {seed}"
    return f"ferdeploy train {variant} --name {folder.name}"
