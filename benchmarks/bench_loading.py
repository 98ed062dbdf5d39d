"""Measures how fast a folder of pictures becomes batches, against a conventional torchvision loop, in one run.

    python benchmarks/bench_loading.py --pictures 4000

It draws JPEG pictures of faces in colour into a temporary folder, <split>/<class>/<picture>. Then, in turn:

- conventional: `torchvision.datasets.ImageFolder` with Grayscale, Resize (antialiased), ToTensor and Normalize in a
  `DataLoader` with one worker a core. Every epoch decodes and resizes every picture.
- first: what `ferdeploy train` does the first time: `load_dataset`, `Faces.at`, and one epoch of shuffled batches.
- later: the same again, from the cache, as at every later start.
- epoch: one epoch of shuffled batches alone, as after the first epoch of a run.

All end with float32 batches (128, 1, side, side) in [-1, 1]. Each of ours runs in a process of its own, which also
reports its peak memory, for all pictures and for half of them: memory must not grow with their number. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that ferdeploy need not be installed

import numpy as np

from fer_deploy.machine import available_cores, peak_memory_bytes

BATCH = 128
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def draw(folder: Path, count: int, size: int) -> None:
    """Write `count` JPEG pictures; no two are equal."""
    from PIL import Image

    from fer_deploy.emotions import EMOTIONS
    from fer_deploy.faces.synthetic import colour_faces

    base = colour_faces([number % 7 for number in range(28)], height=size, width=size, seed=0)
    splits = np.repeat(list(SPLITS), [round(share * count) for share in SPLITS.values()])
    for number, split in enumerate(splits.tolist()):
        pixels = np.roll(base[number % 28], (number // 28 % size, number // (28 * size)), axis=(0, 1))
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=90)
        path = folder / split / EMOTIONS[number % 7] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())


def conventional(folder: Path, side: int) -> float:
    """Seconds of one epoch over all three splits."""
    from torch.utils.data import ConcatDataset, DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.Grayscale(),
            transforms.Resize((side, side)),
            transforms.ToTensor(),
            transforms.Normalize((0.5,), (0.5,)),
        ]
    )
    began = time.perf_counter()
    parts = [datasets.ImageFolder(folder / split, transform) for split in SPLITS]
    loader = DataLoader(ConcatDataset(parts), batch_size=BATCH, shuffle=True, num_workers=available_cores())
    for _images, _labels in loader:
        pass
    return time.perf_counter() - began


def ours(folder: Path, side: int) -> dict[str, float]:
    """Seconds of loading and of one epoch over all three splits, and this process's peak memory in MB."""
    import torch

    from fer_deploy.faces import load_dataset

    before = peak_memory_bytes() or 0
    began = time.perf_counter()
    dataset = load_dataset(folder)
    parts = [dataset.split(split).at(side) for split in ("training", "validation", "test")]
    loaded = time.perf_counter()
    for images in parts:
        order = np.random.default_rng(0).permutation(len(images))
        for start in range(0, len(order), BATCH):
            batch = torch.from_numpy(images[np.sort(order[start : start + BATCH])])
            batch.unsqueeze(1).float().sub_(127.5).div_(127.5)
    ended = time.perf_counter()
    peak = peak_memory_bytes() or 0
    return {"load": loaded - began, "epoch": ended - loaded, "peak_mb": peak / 1e6, "added_mb": (peak - before) / 1e6}


def in_own_process(mode: str, folder: Path, side: int, cache: Path) -> Any:
    """The result of a mode of this program, run in a process of its own."""
    command = [sys.executable, __file__, "--mode", mode, "--folder", str(folder), "--side", str(side)]
    done = subprocess.run(
        command, env=os.environ | {"FERDEPLOY_CACHE": str(cache)}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(count: int, size: int, side: int) -> dict[str, Any]:
    """Run all of them and compute the ratios of pictures a second, ours to the conventional loop's."""
    with tempfile.TemporaryDirectory(prefix="ferdeploy-") as name:
        root = Path(name)
        draw(root / "half", count // 2, size)
        draw(root / "all", count, size)
        in_own_process("conventional", root / "half", side, root / "none")  # imports and the disk's cache
        half = in_own_process("ours", root / "half", side, root / "cache-half")
        usual = in_own_process("conventional", root / "all", side, root / "none")
        first = in_own_process("ours", root / "all", side, root / "cache")
        later = in_own_process("ours", root / "all", side, root / "cache")
    return {
        "pictures": count,
        "size": size,
        "side": side,
        "cores": available_cores(),
        "conventional": {"seconds": usual},
        "half": half,
        "first": first,
        "later": later,
        "ratios": {
            "first start and epoch": usual / (first["load"] + first["epoch"]),
            "later start and epoch": usual / (later["load"] + later["epoch"]),
            "each further epoch": usual / later["epoch"],
        },
        "peak memory, all to half": first["peak_mb"] / half["peak_mb"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4000, help="how many to draw; default: %(default)s")
    parser.add_argument("--size", type=int, default=224, help="their height and width; default: %(default)s")
    parser.add_argument("--side", type=int, default=96, help="the network's input size; default: %(default)s")
    parser.add_argument(
        "--mode", choices=("compare", "conventional", "ours"), default="compare", help=argparse.SUPPRESS
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.mode == "conventional":
        print(json.dumps(conventional(options.folder, options.side)))
        return 0
    if options.mode == "ours":
        print(json.dumps(ours(options.folder, options.side)))
        return 0
    result = compare(options.pictures, options.size, options.side)
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.2f} times the conventional rate")
    print(f"peak memory: {result['half']['peak_mb']:.0f} MB for {options.pictures // 2:,} pictures, "
          f"{result['first']['peak_mb']:.0f} MB for {options.pictures:,}")  # fmt: skip
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
