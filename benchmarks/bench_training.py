"""Measures the training rate of four ways to train, in images per second.

    make bench-training            or: python benchmarks/bench_training.py --help

- eager: PyTorch's own forward, backward and AdamW step, channels_last, on one batch that stays in memory.
- bare: the same with ferdeploy's kernels (on a CPU) and its fused optimiser.
- full: `ferdeploy train` itself: `fer_deploy.training.fit.train` runs recipe B's first stage (shuffling, flip, crop,
  rotation, loss, clipping, one-cycle schedule, checks of the loss). The start of each epoch counts, validation does
  not.
- conventional: the loop that most people would write for the same stage: a `Dataset` of Pillow images,
  `torchvision.transforms`, a `DataLoader` with worker processes, PyTorch's default (contiguous) memory layout and
  default AdamW, clipping, OneCycleLR, running loss and accuracy.

The four take turns of some seconds, in several rounds, so that a machine whose speed changes affects all alike. Each
result is the median of its rounds. Waiting threads sleep (OMP_WAIT_POLICY=passive, unless the environment sets it), as
in `ferdeploy train`. The last line of output is JSON with the four rates.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that ferdeploy need not be installed

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from fer_deploy.bench.machine import describe_machine
from fer_deploy.errors import FerDeployError
from fer_deploy.faces import Dataset, Faces, load_dataset
from fer_deploy.files import write_json, write_text
from fer_deploy.machine import available_cores
from fer_deploy.models import build_network
from fer_deploy.recipes import Network, Optimiser, Recipe, load_recipe
from fer_deploy.training.devices import choose_device
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.kernels import accelerate_network
from fer_deploy.training.optim import make_optimiser
from fer_deploy.training.watcher import BatchReport, EpochRow, Silent

NAMES = ("eager", "bare", "full", "conventional")
WARM_UP_STEPS = 3
PROMISED = {"cpu": {"bare / eager": 1.3, "full / bare": 0.9}, "cuda": {"full / bare": 0.8}}
"""The ratios that ferdeploy promises for EfficientNet-B0 at least, by kind of device."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    network: str
    batch: int
    seconds: float
    rounds: int
    threads: int
    workers: int
    device: torch.device
    precision: str

    @property
    def half(self) -> torch.dtype | None:
        """The half-precision type of the forward pass; None is float32."""
        return None if self.precision == "float32" else getattr(torch, self.precision)

    def forward(self, network: nn.Module, faces: torch.Tensor) -> torch.Tensor:
        """Logits float32 (n, 7), computed in the plan's precision."""
        with torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None):
            logits: torch.Tensor = network(faces)
        return logits.float()

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


class Turns:
    """Measures the rate of a training step, in turns."""

    def __init__(self, plan: Plan, step: Callable[[], int], *, warm_up: int) -> None:
        self._plan = plan
        self._step = step
        self._warm_up = warm_up
        """Uncounted steps at the start of each turn."""

    def warm(self, steps: int) -> None:
        """Take uncounted steps."""
        for _ in range(steps):
            self._step()

    def measure(self) -> float:
        """Images per second over one turn."""
        self.warm(self._warm_up)
        self._plan.wait()
        images, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < self._plan.seconds or images == 0:
            images += self._step()
            self._plan.wait()
        return images / spent


def resident_step(plan: Plan, *, ours: bool) -> Callable[[], int]:
    """Forward, backward and AdamW on one batch in memory: PyTorch's own, or ferdeploy's (`ours`)."""
    torch.manual_seed(0)
    network = build_network(plan.network).to(plan.device).to(memory_format=torch.channels_last).train()
    faces = torch.randn(plan.batch, 1, 48, 48, device=plan.device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 7, (plan.batch,), device=plan.device)
    optimiser: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    if ours:
        network = accelerate_network(network, plan.device)
        optimiser = make_optimiser(network, Optimiser(lr=1e-3, weight_decay=0.01), device=plan.device)

    def step() -> int:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(plan.forward(network, faces), labels)
        loss.backward()
        optimiser.step()
        return plan.batch

    return step


class FaceImages(TorchDataset[tuple[torch.Tensor, int]]):
    """Faces as a usual data set class gives them: Pillow images through a chain of transforms."""

    def __init__(self, faces: Faces, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images = faces.images
        self.labels = faces.labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def conventional_step(plan: Plan, faces: Faces) -> Callable[[], int]:
    """Recipe B's first stage as a DataLoader and torchvision-transforms loop."""
    torch.manual_seed(0)
    transform = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(48, padding=4),
            transforms.RandomRotation(10),
            transforms.ToTensor(),
            transforms.Normalize((0.5,), (0.5,)),
        ]
    )
    loader = DataLoader(
        FaceImages(faces, transform),
        batch_size=plan.batch,
        shuffle=True,
        drop_last=True,
        num_workers=plan.workers,
        persistent_workers=plan.workers > 0,
        pin_memory=plan.device.type == "cuda",
    )
    network = build_network(plan.network).to(plan.device).train()
    criterion = nn.CrossEntropyLoss()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=1_000_000)
    running = {"loss": 0.0, "correct": 0}

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    endless = batches()

    def step() -> int:
        inputs, labels = next(endless)
        inputs = inputs.to(plan.device, non_blocking=True)
        labels = labels.to(plan.device, non_blocking=True)
        optimiser.zero_grad()
        outputs = plan.forward(network, inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        scheduler.step()
        running["loss"] += loss.item()
        running["correct"] += int((outputs.argmax(1) == labels).sum().item())
        return len(labels)

    return step


class Between(Silent):
    """Watches `train`, measures its rate, and runs the others' turns between two of its batches."""

    def __init__(self, plan: Plan, others: Callable[[], None], report_rate: Callable[[float], None]) -> None:
        self._plan = plan
        self._others = others
        self._report_rate = report_rate
        self._left = WARM_UP_STEPS
        self._images, self._spent, self._since = 0, 0.0, time.perf_counter()
        self.turns = 0

    def batch(self, report: BatchReport) -> None:  # noqa: ARG002
        """Count the batch; at the end of a turn, run the others."""
        if self._left:
            self._left -= 1
        else:
            self._plan.wait()
            self._images += self._plan.batch
            self._spent += time.perf_counter() - self._since
        if self._spent >= self._plan.seconds:
            self._report_rate(self._images / self._spent)
            self.turns += 1
            if self.turns < self._plan.rounds:
                self._others()
            self._images, self._spent, self._left = 0, 0.0, 1
        self._since = time.perf_counter()

    def epoch(self, row: EpochRow, *, best: bool) -> None:  # noqa: ARG002
        """Leave out the epoch's validation and saving: count again from now."""
        self._since = time.perf_counter()


def stage_one(plan: Plan) -> Recipe:
    """Recipe B's first stage alone, practically endless, with the plan's network and batch size."""
    recipe = load_recipe("B")
    network = recipe.network if plan.network == recipe.network.name else Network(plan.network)
    stage = dataclasses.replace(
        recipe.stages[0], epochs=100_000, patience=0, batch_size=plan.batch, precision=plan.precision
    )
    return dataclasses.replace(recipe, name="bench", network=network, initialisation="default", stages=(stage,))


def measure(plan: Plan, dataset: Dataset, *, show: Callable[[str], None]) -> dict[str, list[float]]:
    """Images per second of each of the four ways, one value per round."""
    conventional = conventional_step(plan, dataset.clean_training)
    turns = {
        "eager": Turns(plan, resident_step(plan, ours=False), warm_up=1),
        "bare": Turns(plan, resident_step(plan, ours=True), warm_up=1),
        # The batches that the workers have ready when a turn begins were made during other turns: they do not count.
        "conventional": Turns(plan, conventional, warm_up=2 * plan.workers + 1),
    }
    for turn in turns.values():
        turn.warm(WARM_UP_STEPS)
    rates: dict[str, list[float]] = {name: [] for name in NAMES}

    def others() -> None:
        for name in ("conventional", "eager", "bare"):
            rates[name].append(turns[name].measure())
            if name == "conventional":
                time.sleep(0.5)  # until its workers have filled their queue and rest

    def full(rate: float) -> None:
        rates["full"].append(rate)
        latest = ", ".join(f"{name} {rates[name][-1]:,.0f}" for name in NAMES)
        show(f"round {len(rates['full'])} of {plan.rounds}: {latest} images/s")

    watcher = Between(plan, others, full)
    others()
    with tempfile.TemporaryDirectory() as folder:
        train(
            stage_one(plan),
            dataset,
            workspace=Path(folder),
            settings=Settings(device=plan.device.type),
            watcher=watcher,
            should_stop=lambda: watcher.turns >= plan.rounds,
        )
    return rates


def summary(plan: Plan, dataset: Dataset, rates: dict[str, list[float]]) -> dict[str, Any]:
    """All measurements and their conditions, in JSON's types."""
    ratios = {}
    for above, below in (("bare", "eager"), ("full", "bare"), ("full", "conventional")):
        pairs = [high / low for high, low in zip(rates[above], rates[below], strict=True)]
        figures = {"median": statistics.median(pairs), "lowest": min(pairs), "highest": max(pairs)}
        ratios[f"{above} / {below}"] = {name: round(figure, 3) for name, figure in figures.items()}
    return {
        "network": plan.network,
        "batch": plan.batch,
        "precision": plan.precision,
        "device": plan.device.type,
        "threads": plan.threads,
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "as OpenMP's default"),
        "seconds_a_turn": plan.seconds,
        "faces": dataset.name,
        "conventional": {
            "memory_layout": "contiguous",
            "workers": plan.workers,
            "persistent_workers": plan.workers > 0,
            "transforms": "RandomHorizontalFlip, RandomCrop(48, padding=4), RandomRotation(10), ToTensor, Normalize",
        },
        "images_per_second": {name: round(statistics.median(rates[name]), 1) for name in NAMES},
        "rounds": {name: [round(rate, 1) for rate in rates[name]] for name in NAMES},
        "ratios": ratios,
        "machine": describe_machine(gpu=plan.device.type != "cpu"),
    }


def page(result: dict[str, Any]) -> str:
    """The result as a page of Markdown."""
    machine, conventional, rates = result["machine"], result["conventional"], result["images_per_second"]
    where = ", ".join(machine["accelerators"]) or f"{machine['processor']}, {result['threads']} threads"
    lines = [
        "# Training rate",
        "",
        f"`make bench-training`: {result['network']} at 48x48, batch {result['batch']}, {result['precision']}, "
        f"on {where}; PyTorch {machine['versions']['torch']}, faces: {result['faces']}. Median of "
        f"{len(result['rounds']['eager'])} rounds in turns of {result['seconds_a_turn']:g} s; load before it "
        f"{machine['load_at_start']}; OMP_WAIT_POLICY: {result['wait_policy']}.",
        "",
        "| way | images/s | lowest to highest round | what |",
        "|---|---:|---|---|",
    ]
    what = {
        "eager": "PyTorch's forward, backward, AdamW on a resident batch, channels_last",
        "bare": "the same with ferdeploy's kernels and the fused optimiser",
        "full": "`ferdeploy train`: recipe B's first stage with its augmentation, clipping and schedule",
        "conventional": f"the same stage with DataLoader ({conventional['workers']} workers, kept) and "
        f"torchvision transforms on Pillow images, {conventional['memory_layout']} memory, default AdamW",
    }
    for name in NAMES:
        rounds = result["rounds"][name]
        lines.append(f"| {name} | {rates[name]:,.0f} | {min(rounds):,.0f} to {max(rounds):,.0f} | {what[name]} |")
    lines += ["", "| ratio, round by round | median | lowest to highest | promised |", "|---|---:|---|---|"]
    least = PROMISED.get(result["device"], {}) if result["network"] == "efficientnet-b0" else {}
    for name, ratio in result["ratios"].items():
        promised = f"at least {least[name]:g}" if name in least else ""
        lines.append(
            f"| {name} | {ratio['median']:.2f} | {ratio['lowest']:.2f} to {ratio['highest']:.2f} | {promised} |"
        )
    return "\n".join(lines) + "\n"


def positive(text: str) -> int:
    """A whole number of at least 1, from the command line."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="efficientnet-b0", help="a network's name; default: %(default)s")
    parser.add_argument("--batch", type=positive, default=128, help="images per step; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a turn; default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each way; default: %(default)s")
    parser.add_argument("--threads", type=positive, help="PyTorch's threads; default: all cores")
    parser.add_argument("--workers", type=int, help="the conventional DataLoader's; default: one per core, at most 8")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="default: %(default)s")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="of the forward pass, in all four ways; default: bfloat16 on CUDA, float32 elsewhere",
    )
    parser.add_argument("--data", default="synthetic", help="faces, as for `ferdeploy train`; default: drawn ones")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="also write training-speed.json and .md into this folder"
    )
    options = parser.parse_args(arguments)
    cores = available_cores()
    try:
        device = choose_device(options.device)
        plan = Plan(
            options.network,
            options.batch,
            options.seconds,
            options.rounds,
            options.threads or cores,
            min(cores, 8) if options.workers is None else options.workers,
            device,
            options.precision or ("bfloat16" if device.type == "cuda" else "float32"),
        )
        torch.set_num_threads(plan.threads)
        dataset = load_dataset(options.data)
        machine_words = describe_machine(gpu=device.type != "cpu")
        print(f"{', '.join(machine_words['accelerators']) or machine_words['processor']}, {plan.threads} threads, "
              f"load {machine_words['load_at_start']}; {plan.network}, batch {plan.batch}, {plan.precision}, "
              f"{plan.rounds} rounds of {plan.seconds:g} s each way", flush=True)  # fmt: skip
        rates = measure(plan, dataset, show=lambda line: print(line, flush=True))
    except FerDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result = summary(plan, dataset, rates)
    result["machine"]["load_at_start"] = machine_words["load_at_start"]
    print("\n" + page(result))
    if options.output:
        write_json(options.output / "training-speed.json", result)
        write_text(options.output / "training-speed.md", page(result))
    print(json.dumps(result["images_per_second"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
