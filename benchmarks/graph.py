"""Measure the exporter's steps, int8 and a fusion's layout side by side: the tables of docs/onnx.md.

    python benchmarks/graph.py --run B --run plain --ensemble B,E > tables.md

Each table measures its rows in turns on one thread: the graph from torch's exporter and ours (nodes, load time,
latency); the front (cast, luma, resize, scaling) as a share of a file's latency; a fusion's members as separate
branches and as one network of grouped convolutions; every precision of each file in `exports/`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from fer_deploy.export.build import build_model, folded
from fer_deploy.export.graph import FaceClassifier, Member
from fer_deploy.export.int8.exact import processor
from fer_deploy.export.plan import Plan, plan_ensemble, plan_run
from fer_deploy.model.names import PRECISIONS, ModelName
from fer_deploy.model.session import start_session

WARM_UP = 20


class Grouped(nn.Module):
    """Networks of one architecture as one network with a group per member in each layer: logits (n, members, 7)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = len(networks)
        self.network = copy.deepcopy(networks[0])
        for name, layer in list(self.network.named_modules()):
            layers = [network.get_submodule(name) for network in networks]
            if isinstance(layer, nn.Conv2d):
                self.network.set_submodule(name, self._convolution(layers))
            elif isinstance(layer, nn.Linear):
                joined = nn.Linear(layer.in_features * self.members, layer.out_features * self.members)
                joined.weight.data = torch.block_diag(*(layer.weight.data for layer in layers))
                joined.bias.data = torch.cat([layer.bias.data for layer in layers])
                self.network.set_submodule(name, joined)

    def _convolution(self, layers: Sequence[nn.Conv2d]) -> nn.Conv2d:
        first = layers[0]
        shared = first.in_channels == 1  # all members share the one grey plane
        joined = nn.Conv2d(
            first.in_channels * (1 if shared else self.members),
            first.out_channels * self.members,
            first.kernel_size,
            stride=first.stride,
            padding=first.padding,
            groups=first.groups * (1 if shared else self.members),
            bias=first.bias is not None,
        )
        joined.weight.data = torch.cat([layer.weight.data for layer in layers])
        if first.bias is not None:
            joined.bias.data = torch.cat([layer.bias.data for layer in layers])
        return joined

    def forward(self, planes: Tensor) -> Tensor:
        """Logits of each member."""
        return self.network(planes).unflatten(1, (self.members, 7))


class GroupedClassifier(FaceClassifier):
    """A fusion by weighted average whose members are one grouped network."""

    def __init__(self, classifier: FaceClassifier) -> None:
        side_by_side = folded(classifier)
        super().__init__(side_by_side.members, weights=side_by_side.weights)
        self.networks = nn.ModuleList([Grouped([member.network for member in side_by_side.members])])
        temperatures = torch.tensor([member.temperature for member in side_by_side.members])
        self.register_buffer("temperatures", temperatures[:, None], persistent=False)
        self.eval()

    def plane_probabilities(self, planes: Mapping[int, Tensor]) -> list[Tensor]:
        """Each member's probabilities."""
        (plane,) = planes.values()
        return list((self.networks[0](plane) / self.temperatures).softmax(dim=-1).unbind(1))


def in_turns(contents: Mapping[str, bytes], *, batch: int = 1, side: int = 48, rounds: int = 400) -> dict[str, float]:
    """Median milliseconds of each file for `batch` pictures, measured in turns."""
    sessions = {name: start_session(content, threads=1) for name, content in contents.items()}
    pictures = np.random.default_rng(side).integers(0, 256, (batch, side, side, 3), np.uint8)
    samples: dict[str, list[int]] = {name: [] for name in sessions}
    for turn in range(WARM_UP + rounds):
        for name, session in sessions.items():
            start = time.perf_counter_ns()
            session.run(["probabilities"], {"faces": pictures})
            if turn >= WARM_UP:
                samples[name].append(time.perf_counter_ns() - start)
    return {name: float(np.median(taken)) / 1e6 for name, taken in samples.items()}


def load_times(contents: Mapping[str, bytes], *, rounds: int = 15) -> dict[str, float]:
    """Median milliseconds to open each file, in turns, after the library is loaded."""
    samples: dict[str, list[int]] = {name: [] for name in contents}
    for turn in range(rounds + 1):
        for name, content in contents.items():
            start = time.perf_counter_ns()
            start_session(content, threads=1)
            if turn:
                samples[name].append(time.perf_counter_ns() - start)
    return {name: float(np.median(taken)) / 1e6 for name, taken in samples.items()}


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as Markdown, all columns but the first aligned to the right."""
    print("| " + " | ".join(titles) + " |")
    print("| --- |" + " ---: |" * (len(titles) - 1))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def show_steps(plans: Sequence[Plan]) -> None:
    """The graph from torch's exporter, and ours."""
    rows = []
    for plan in plans:
        classifier = plan.classifier()
        models = {"torch's": build_model(classifier, fold=False, passes=()), "ours": build_model(classifier)}
        contents = {name: model.SerializeToString(deterministic=True) for name, model in models.items()}
        loads, times = load_times(contents), in_turns(contents)
        for name, model in models.items():
            size = f"{len(contents[name]) / 1e3:,.0f}"
            rows.append([plan.name, name, len(model.graph.node), size, f"{loads[name]:.1f}", f"{times[name]:.3f}"])
    table(["file", "graph", "nodes", "kB", "load ms", "one face, ms"], rows)


def show_front(plans: Sequence[Plan]) -> None:
    """The front's share of each file's latency: a file whose network is one pooling layer, against the whole file."""
    torch.manual_seed(0)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 7))
    front = build_model(FaceClassifier([Member("front", pool)])).SerializeToString()
    rows = []
    for plan in plans:
        whole = build_model(plan.classifier()).SerializeToString()
        for side in (48, 96, 224, 512):
            taken = in_turns({"front": front, "whole": whole}, side=side)
            share = f"{100 * taken['front'] / taken['whole']:.1f} %"
            rows.append([plan.name, f"{side}x{side}", f"{taken['front']:.3f}", f"{taken['whole']:.3f}", share])
    table(["file", "picture", "front ms", "whole ms", "share"], rows)


def show_layouts(plan: Plan) -> None:
    """A fusion's members side by side, and as one grouped network."""
    classifier = plan.classifier()
    contents = {
        "side by side": build_model(classifier).SerializeToString(),
        "grouped": build_model(GroupedClassifier(classifier), fold=False).SerializeToString(),
    }
    pictures = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)
    answers = [
        start_session(content, threads=1).run(["probabilities"], {"faces": pictures})[0]
        for content in contents.values()
    ]
    assert np.abs(answers[0] - answers[1]).max() < 1e-5
    batches = (1, 8, 32)
    taken = {batch: in_turns(contents, batch=batch, rounds=max(20, 200 // batch)) for batch in batches}
    rows = [[plan.name, name, *(f"{taken[batch][name]:.3f}" for batch in batches)] for name in contents]
    table(["file", "members", *(f"batch {batch}, ms" for batch in batches)], rows)


def show_precisions(folder: Path) -> None:
    """Every precision of each file in a folder."""
    families: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.onnx")):
        model = ModelName.parse(path)
        families.setdefault(model.stem, {})[model.precision] = path.read_bytes()
    rows = []
    for name, contents in families.items():
        if len(contents) < 2:
            continue
        one, many = in_turns(contents), in_turns(contents, batch=32, rounds=30)
        for precision in PRECISIONS:
            if precision in contents:
                size = f"{len(contents[precision]) / 1e3:,.0f}"
                gain = one["fp32"] / one[precision] if "fp32" in one else float("nan")
                rows.append([name, precision, size, f"{one[precision]:.3f}", f"{gain:.2f}", f"{many[precision]:.2f}"])
    table(["file", "precision", "kB", "batch 1, ms", "x fp32", "batch 32, ms"], rows)


@click.command()
@click.option("--workspace", type=click.Path(path_type=Path), default=Path())
@click.option("--run", "runs", multiple=True)
@click.option("--ensemble", "ensembles", multiple=True, help="Runs of one architecture, separated by commas.")
def main(workspace: Path, runs: tuple[str, ...], ensembles: tuple[str, ...]) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    plans = [plan_run(name, workspace=workspace) for name in runs]
    print(f"{processor()}, ONNX Runtime {version('onnxruntime')}, one thread; medians.\n")
    show_steps(plans)
    show_front(plans)
    for members in ensembles:
        show_layouts(plan_ensemble(members.split(","), workspace=workspace))
    show_precisions(workspace / "exports")


if __name__ == "__main__":
    main()
