"""Take networks of timm through training, export, verification and timing, and write docs/networks.md.

Each network trains for a few steps on drawn faces, which proves nothing about its accuracy on people. It shows that the
network trains, that the file agrees with PyTorch, and what it costs.

    python benchmarks/networks.py                       # all, about a minute each on one idle core
    python benchmarks/networks.py timm/resnet10t        # these again; the others' results stay
    python benchmarks/networks.py --page                # only write the page from benchmarks/networks.json
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import onnxruntime
import timm
import torch

from fer_deploy.errors import FerDeployError, ParityError, one_line
from fer_deploy.export.plan import plan_run
from fer_deploy.export.verify import verify_file
from fer_deploy.export.write import export_plan
from fer_deploy.faces.synthetic import colour_faces, synthetic_dataset
from fer_deploy.files import read_json, write_json, write_text
from fer_deploy.machine import processor_name
from fer_deploy.model.contract import INPUT_NAME
from fer_deploy.model.session import start_session
from fer_deploy.recipes import Recipe, parse_recipe
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.run import make_network

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "networks.json"
PAGE = ROOT / "docs" / "networks.md"
BEGIN, END = "<!-- begin: python benchmarks/networks.py -->", "<!-- end -->"

NETWORKS = {
    "resnet10t": ("ResNet", 48),
    "regnety_002": ("RegNet", 48),
    "mobilenetv4_conv_small_035": ("MobileNetV4", 48),
    "tf_efficientnetv2_b0": ("EfficientNetV2", 48),
    "convnext_atto": ("ConvNeXt", 48),
    "fastvit_t8": ("FastViT", 48),
    "repvgg_a0": ("RepVGG", 48),
    "ghostnet_050": ("GhostNet", 48),
    "mobileone_s0": ("MobileOne", 48),
    "vit_tiny_patch16_224": ("ViT", 48),
    "efficientvit_b0": ("EfficientViT (MIT)", 48),
    "efficientvit_m0": ("EfficientViT (MSRA)", 48),
    "lcnet_035": ("LCNet", 48),
    "mobilevit_xxs": ("MobileViT", 64),
    "edgenext_xx_small": ("EdgeNeXt", 48),
    "tiny_vit_5m_224": ("TinyViT", 48),
    "efficientformerv2_s0": ("EfficientFormerV2", 64),
    "inception_next_atto": ("InceptionNeXt", 48),
    "levit_128s": ("LeViT", 64),
    "densenet121": ("DenseNet", 48),
    "repvit_m0_9": ("RepViT", 48),
    "mobilenetv3_small_050": ("MobileNetV3", 48),
    "starnet_s1": ("StarNet", 48),
    "swin_tiny_patch4_window7_224": ("Swin", 48),
    "mixer_s32_224": ("MLP-Mixer", 64),
    "pvt_v2_b0": ("PVT v2", 48),
    "mambaout_femto": ("MambaOut", 48),
    "csatv2": ("CSATv2", 64),
    "halonet26t": ("HaloNet", 64),
    "efficientformer_l1": ("EfficientFormer", 64),
}
"""A small network of each family, with the family's name and the input size."""

RECIPE = """
name = "{run}"
title = "{name} on drawn faces"
network = {{ name = "{name}", input_size = {size} }}
precise_bn = {precise_bn}
[[stage]]
epochs = 2
batch_size = 28
optimiser = {{ lr = 1e-3 }}
schedule = {{ name = "one-cycle" }}
clip = 1.0
"""
MEASURED_AGAIN = ("timm/repvgg_a0", "timm/mobileone_s0")
"""Networks whose many batch norms need their statistics measured after training: the few steps are too few for them."""
CALLS = 200
"""Timed calls of each file."""
FACES = 84
"""Drawn faces for training; validation and test have 14 each."""


def recipe_of(name: str, size: int) -> Recipe:
    """Two epochs on drawn faces."""
    precise_bn = float(name in MEASURED_AGAIN)
    text = RECIPE.format(run=name.replace("/", "-"), name=name, size=size, precise_bn=precise_bn)
    return parse_recipe(text, source=name)


def measure(name: str, size: int) -> dict[str, Any]:
    """Train, export, verify and time one network. FerDeployError if one of them fails."""
    recipe, dataset = recipe_of(name, size), synthetic_dataset(FACES)
    make_network(recipe.network)  # fails early, with the sizes that the network takes
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        run = train(recipe, dataset, workspace=workspace, settings=Settings(device="cpu")).run()
        refusals: list[ParityError] = []
        files = export_plan(
            plan_run(run.name, workspace=workspace),
            folder=workspace / "exports",
            precisions=("fp32", "int8"),
            data=dataset,
            on_refusal=refusals.append,
        )
        if not files:
            return {"error": str(refusals[0])}
        verified = {file.precision: verify_file(file.path, workspace=workspace, data=dataset).verdict for file in files}
        milliseconds = {file.precision: fastest(file.path) for file in files}
        fp32 = files[0]
        return {
            "parameters": run.record["parameters"],
            "gflops": round(float(run.record["gflops"]), 6),
            "validation_accuracy": run.validation_accuracy,
            "bytes": {file.precision: file.bytes for file in files},
            "nodes": fp32.nodes,
            "max_difference": fp32.parity.max_difference,
            "verdict": verified,
            "milliseconds": {precision: round(value, 3) for precision, value in milliseconds.items()},
            "refused": [str(refusal) for refusal in refusals],
        }


def fastest(path: Path) -> float:
    """Milliseconds of the fastest of CALLS calls for one face of 48x48, on one thread: other work slows the others."""
    session = start_session(path.read_bytes(), threads=1)
    face = colour_faces([3])
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        session.run(None, {INPUT_NAME: face})
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| network | family | input | parameters | GFLOPs | fp32 file | largest difference | fp32 | int8 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, (family, size) in NETWORKS.items():
        result = results["networks"].get(f"timm/{name}")
        if result is None or "error" in result:
            continue
        times = result["milliseconds"]
        int8 = f"{times['int8']:.2f} ms" if "int8" in times else _reason(result["refused"])
        cells = (
            f"`timm/{name}`", family, size, f"{result['parameters'] / 1e6:.2f} M", f"{result['gflops']:.4f}",
            f"{result['bytes']['fp32'] / 1e6:.1f} MB", f"{result['max_difference']:.1e}", f"{times['fp32']:.2f} ms",
            int8,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "Refused, with the message:", ""]
    lines += [
        f"- `timm/{name}` at {size}: {results['networks'][f'timm/{name}']['error']}"
        for name, (_, size) in NETWORKS.items()
        if "error" in results["networks"].get(f"timm/{name}", {})
    ]
    lines += ["", f"Measured on {results['machine']}, with {results['versions']}."]
    return "\n".join(lines)


def _reason(refused: list[str]) -> str:
    reason = refused[0].partition("is not written: ")[2] if refused else "not exported"
    if "gain nothing" in reason:
        return "refused: no faster"
    return "refused: " + ("loses accuracy" if "loses" in reason else one_line(reason, limit=80))


def write_page(results: dict[str, Any]) -> None:
    """Replace the table in docs/networks.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    write_text(PAGE, f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--page", is_flag=True, help="Only write the page.")
def main(names: tuple[str, ...], page: bool) -> None:
    """Measure the networks, all by default, and write the page."""
    torch.set_num_threads(1)
    results: dict[str, Any] = read_json(RESULTS, what="results") if RESULTS.exists() else {"networks": {}}
    for name, (_, size) in {} if page else {f"timm/{name}": entry for name, entry in NETWORKS.items()}.items():
        if names and name not in names:
            continue
        try:
            results["networks"][name] = measure(name, size)
        except FerDeployError as error:
            results["networks"][name] = {"error": str(error)}
        click.echo(f"{name}: {results['networks'][name]}")
        results["machine"] = f"{processor_name()}, one thread, next to other work"
        results["versions"] = (
            f"timm {timm.__version__}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
        )
        write_json(RESULTS, results)
    write_page(results)


if __name__ == "__main__":
    main()
