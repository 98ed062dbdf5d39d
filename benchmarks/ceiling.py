"""Measure what limits accuracy on FER2013: capacity, data, resolution, near copies, and the labels themselves.

Writes training/ceiling.md, ceiling.png and ceiling.json. Everything is measured on PublicTest, which also chooses the
epochs, so its figures are slightly high; PrivateTest is not used. For the curves of data and resolution small networks
are trained in a workspace of their own: complete runs there are not trained again, and `--keep-curves` takes both
curves from ceiling.json.

    python benchmarks/ceiling.py --data fer2013.csv --run plain --run plain-distilled --run plain-wide
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

# any interpreter can run this file, whether or not ferdeploy is installed there
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch
from blocks import with_block
from numpy.typing import NDArray

from fer_deploy.bench.quality import accuracy_by_unanimity
from fer_deploy.emotions import emotion_index
from fer_deploy.errors import FerDeployError
from fer_deploy.faces import Dataset, Faces, load_dataset
from fer_deploy.faces.dataset import VOTE_NAMES
from fer_deploy.files import replacing, write_json, write_text
from fer_deploy.models.fold import fold
from fer_deploy.recipes import Augmentation, Recipe, apply_settings, load_recipe
from fer_deploy.training.augment import render
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.run import Run

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.25, 0.5, 1.0)
SIDES = (16, 24, 32, 48)
BLUE, GREY, GREEN = "#0072B2", "#8a8f98", "#009E73"
LIKENESS = (0.95, 0.9, 0.8)
"""Lower ends of the bands of similarity to the most similar training face."""
LEARNED = 5000
"""Training faces, drawn at random, on which a run's training accuracy is measured."""


@torch.no_grad()
def answers(run: Run, images: NDArray[np.uint8], *, batch: int = 256) -> NDArray[np.float32]:
    """A run's probabilities, float32 (n, 7), for uint8 (n, 48, 48) faces without augmentation."""
    network = fold(run.network())
    parts = []
    for start in range(0, len(images), batch):
        faces = torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))
        logits = network(render(faces, None, Augmentation(), size=run.input_size)) / run.temperature
        parts.append(torch.softmax(logits, 1).numpy())
    return np.concatenate(parts)


def accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of faces whose largest probability is their label's."""
    return float((probabilities.argmax(1) == labels).mean())


def plurality(faces: Faces) -> NDArray[np.int64]:
    """FER+'s most frequent vote: an emotion's number, or -1 where it is none of the seven."""
    assert faces.votes is not None
    numbers = np.array([-1 if (number := emotion_index(name)) is None else number for name in VOTE_NAMES], np.int64)
    voted: NDArray[np.int64] = numbers[faces.votes.argmax(1)]
    return voted


def noise_rows(faces: Faces, probabilities: NDArray[np.float32]) -> list[dict[str, Any]]:
    """For each band of agreement among FER+ voters, largest first: how often label, votes and model agree."""
    assert faces.votes is not None
    voted, predicted = plurality(faces), probabilities.argmax(1)
    agreed = {
        "label_is_vote": accuracy_by_unanimity(faces.labels == voted, faces.votes),
        "model_is_label": accuracy_by_unanimity(predicted == faces.labels, faces.votes),
        "model_is_vote": accuracy_by_unanimity(predicted == voted, faces.votes),
    }
    rows = []
    for place, band in reversed(list(enumerate(agreed["label_is_vote"]))):
        named = f"{band.low:.0%} to {band.high:.0%}" if band.low else f"under {band.high:.0%}"
        named = f"{band.low:.0%} or more" if band.high == 1 else named
        shares = {key: bands[place].accuracy for key, bands in agreed.items()}
        rows.append({"votes": named, "faces": band.count, **shares})
    return rows


def likeness(images: NDArray[np.uint8], learned: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The similarity of each face to the most similar training face, and that face's index.

    Faces are reduced to 24x24. Similarity is the correlation of the pixels, 1 for equal faces up to brightness and
    contrast; the larger one of the face and its mirror image counts. Takes uint8 (n, 48, 48) and (m, 48, 48); returns
    two arrays (n,).
    """

    def unit(faces: NDArray[np.uint8]) -> torch.Tensor:
        grey = torch.from_numpy(np.ascontiguousarray(faces)).float()[:, None]
        pixels = torch.nn.functional.avg_pool2d(grey, 2).flatten(1)
        return torch.nn.functional.normalize(pixels - pixels.mean(1, keepdim=True), dim=1)

    known = unit(learned)
    greatest, which = [], []
    for start in range(0, len(images), 256):
        part = images[start : start + 256]
        alike = torch.maximum(unit(part) @ known.T, unit(part[:, :, ::-1]) @ known.T).max(1)
        greatest.append(alike.values.numpy())
        which.append(alike.indices.numpy())
    return np.concatenate(greatest), np.concatenate(which)


def copy_rows(faces: Faces, learned: Faces, probabilities: NDArray[np.float32]) -> list[dict[str, Any]]:
    """For each band of similarity to the most similar training face, largest first: how often that face has the same
    label, and how often the model predicts the label."""
    alike, which = likeness(faces.images, learned.images)
    same, correct = learned.labels[which] == faces.labels, probabilities.argmax(1) == faces.labels
    rows = []
    high = np.inf
    for low in (*LIKENESS, -np.inf):
        band = (alike >= low) & (alike < high)
        named = f"under {high:g}" if low == -np.inf else f"{low:g} to {high:g}" if high < np.inf else f"{low:g} or more"
        if band.any():
            shares = {"copy_is_label": float(same[band].mean()), "model_is_label": float(correct[band].mean())}
            rows.append({"likeness": named, "faces": int(band.sum()), **shares})
        high = low
    return rows


def capacity_rows(
    runs: list[Run], training: Faces, validation: Faces, answered: dict[str, NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """Accuracy of each run on its training faces and on PublicTest, both without augmentation.

    `answered` has each run's probabilities for `validation`, by its name.
    """
    rows = []
    for run in sorted(runs, key=lambda run: float(run.record["gflops"])):
        learned = accuracy(answers(run, training.images), training.labels)
        others = accuracy(answered[run.name], validation.labels)
        rows.append({"run": run.name, "gflops": float(run.record["gflops"]), "training": learned, "validation": others})
        click.echo(f"{run.name}: {learned:.2%} of training faces, {others:.2%} of PublicTest")
    return rows


def trained_rows(recipe: Recipe, *, data: Dataset, epochs: int, workspace: Path) -> tuple[list[dict[str, Any]], ...]:
    """Train `recipe` on shares of the faces and at several sizes; returns the best PublicTest accuracy of each."""

    def best(name: str, *, share: float, side: int) -> float:
        # a quarter of the faces gets four times as many epochs: the number of steps stays the same
        changed = replace(apply_settings(recipe, [f"network.input_size={side}"]), name=name)
        settings = Settings(epochs=round(epochs / share))
        run = train(changed, data.with_share(share), workspace=workspace, settings=settings).run()
        click.echo(f"{name}: {run.validation_accuracy:.2%}")
        return run.validation_accuracy

    shares = [
        {"share": share, "validation": best(f"share-{share:.0%}".rstrip("%"), share=share, side=48)} for share in SHARES
    ]
    sides = [
        {
            "side": side,
            "validation": shares[-1]["validation"] if side == 48 else best(f"side-{side}", share=1.0, side=side),
        }
        for side in SIDES
    ]
    return shares, sides


def draw(result: dict[str, Any], path: Path) -> None:
    """The measurements in one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(10, 11.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2)
    capacity = figure.add_subplot(grid[0, :])
    noise, copies, data, resolution = (figure.add_subplot(grid[row, column]) for row in (1, 2) for column in (0, 1))
    _draw_capacity(capacity, result["capacity"])
    _draw_labels(noise, result["noise"])
    _draw_copies(copies, result["copies"])
    for axes in (noise, copies):
        axes.set_ylim(0, 1.12)
        axes.legend(frameon=False, loc="upper right", fontsize=8)
    _draw_curve(data, result["data"], "share", title="Data: faces to learn from", across="share of Training")
    _draw_curve(resolution, result["resolution"], "side", title="Resolution", across="side of the face, pixels")
    for axes in (capacity, noise, copies, data, resolution):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1 if axes in (data, resolution) else 0))
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _bars(axes: Any, rows: list[dict[str, Any]], series: dict[str, tuple[str, str]], names: list[str]) -> None:
    """Draw a group of bars per row, one for each key of `series`, which gives its colour and label."""
    step = {2: 0.4, 3: 0.27}[len(series)]
    for number, (key, (colour, label)) in enumerate(series.items()):
        places = [place + (number - (len(series) - 1) / 2) * step for place in range(len(rows))]
        axes.bar(places, [row[key] for row in rows], step - 0.02, color=colour, label=label)
    axes.set_xticks(range(len(rows)), names)


def _draw_capacity(capacity: Any, rows: list[dict[str, Any]]) -> None:
    names = [f"{row['run']}\n{row['gflops']:.4f}" for row in rows]
    _bars(capacity, rows, {"training": (GREY, "Training"), "validation": (BLUE, "PublicTest")}, names)
    capacity.tick_params(axis="x", labelsize=8)
    capacity.set_ylim(0.5, 1)
    capacity.set_title("Capacity: the faces learned from, and others")
    capacity.set_xlabel("run, GFLOPs")
    capacity.legend(frameon=False, loc="upper left", ncols=2)


def _draw_labels(noise: Any, rows: list[dict[str, Any]]) -> None:
    series = {
        "label_is_vote": (GREY, "label = most votes"),
        "model_is_label": (BLUE, "model = label"),
        "model_is_vote": (GREEN, "model = most votes"),
    }
    _bars(noise, rows, series, [f"{row['votes']}\n{row['faces']:,} faces" for row in rows])
    noise.set_title("Labels: by how far FER+'s voters agree")
    noise.set_xlabel("largest share of the votes")


def _draw_copies(copies: Any, rows: list[dict[str, Any]]) -> None:
    series = {"copy_is_label": (GREY, "label of that face = label"), "model_is_label": (BLUE, "model = label")}
    _bars(copies, rows, series, [f"{row['likeness']}\n{row['faces']:,} faces" for row in rows])
    copies.set_title("Near copies: by the most similar training face")
    copies.set_xlabel("correlation of the pixels with that face's")


def _draw_curve(axes: Any, rows: list[dict[str, Any]], key: str, *, title: str, across: str) -> None:
    across_values = [row[key] for row in rows]
    accuracies = [row["validation"] for row in rows]
    axes.plot(across_values, accuracies, "o-", color=BLUE)
    for x, y in zip(across_values, accuracies, strict=True):
        axes.annotate(f"{y:.1%}", (x, y), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(across_values, [f"{x:.0%}" if key == "share" else str(x) for x in across_values])
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.25)
    axes.set_title(title)
    axes.set_xlabel(across)


def tables(result: dict[str, Any]) -> str:
    """The measurements as Markdown tables."""
    lines = ["| run | GFLOPs | Training, as it is | PublicTest | apart |", "|---|---|---|---|---|"]
    for row in result["capacity"]:
        accuracies = f"{row['training']:.2%} | {row['validation']:.2%}"
        apart = 100 * (row["training"] - row["validation"])
        lines.append(f"| `{row['run']}` | {row['gflops']:.4f} | {accuracies} | {apart:.1f} points |")
    lines += ["", "| largest share of FER+'s votes | faces | label = most votes | model = label | model = most votes |"]
    lines += ["|---|---|---|---|---|"]
    for row in result["noise"]:
        shares = " | ".join(f"{row[key]:.1%}" for key in ("label_is_vote", "model_is_label", "model_is_vote"))
        lines.append(f"| {row['votes']} | {row['faces']:,} | {shares} |")
    lines += ["", "| likeness to the most similar training face | faces | its label = label | model = label |"]
    lines += ["|---|---|---|---|"]
    for row in result["copies"]:
        shares = f"{row['copy_is_label']:.1%} | {row['model_is_label']:.1%}"
        lines.append(f"| {row['likeness']} | {row['faces']:,} | {shares} |")
    lines += ["", "| share of Training | PublicTest | | side, pixels | PublicTest |", "|---|---|---|---|---|"]
    for place in range(max(len(result["data"]), len(result["resolution"]))):
        left = result["data"][place] if place < len(result["data"]) else None
        right = result["resolution"][place] if place < len(result["resolution"]) else None
        cells = [f"{left['share']:.0%}", f"{left['validation']:.2%}"] if left else ["", ""]
        cells += ["", *([str(right["side"]), f"{right['validation']:.2%}"] if right else ["", ""])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def filled_page(page: str, result: dict[str, Any]) -> str:
    """The page with its tables replaced."""
    return with_block(page, "measured", tables(result))


@click.command()
@click.option("--data", required=True, help="fer2013.csv, with fer2013new.csv beside it.")
@click.option(
    "--run",
    "names",
    multiple=True,
    required=True,
    help="A complete run. The last is compared with votes and copies.",
)
@click.option("--epochs", default=12, show_default=True, help="Epochs of the curves' networks on all faces.")
@click.option("--keep-curves", is_flag=True, help="Take both curves from ceiling.json, and train nothing.")
@click.option("--workspace", type=click.Path(path_type=Path), default=ROOT / "build" / "ceiling")
@click.option("--threads", type=int, help="Processor threads. Default: all cores.")
def main(
    data: str, names: tuple[str, ...], epochs: int, keep_curves: bool, workspace: Path, threads: int | None
) -> None:
    """Measure, draw and write the page."""
    if threads:
        torch.set_num_threads(threads)
    try:
        dataset = load_dataset(data)
        if dataset.validation.votes is None:
            raise click.ClickException(f"{data}: has no FER+ votes: put fer2013new.csv beside it")
        runs = [Run.open(ROOT / "training" / name) for name in names]
        recipe = load_recipe("plain-small")
        answered = {run.name: answers(run, dataset.validation.images) for run in runs}
        noise = noise_rows(dataset.validation, answered[runs[-1].name])
        drawn = np.random.default_rng(0).permutation(len(dataset.clean_training))[:LEARNED]
        capacity = capacity_rows(runs, dataset.clean_training.take(np.sort(drawn)), dataset.validation, answered)
        copies = copy_rows(dataset.validation, dataset.clean_training, answered[runs[-1].name])
        curves = {"recipe": recipe.name, "epochs": epochs}
        if keep_curves:
            kept = json.loads((ROOT / "training" / "ceiling.json").read_text(encoding="utf-8"))
            curves, shares, sides = kept["curves"], kept["data"], kept["resolution"]
        else:
            shares, sides = trained_rows(recipe, data=dataset, epochs=epochs, workspace=workspace)
    except FerDeployError as error:
        raise click.ClickException(str(error)) from error
    result = {
        "split": dataset.split_names["validation"],
        "curves": curves,
        "votes_met_by": names[-1],
        "capacity": capacity,
        "noise": noise,
        "copies": copies,
        "data": shares,
        "resolution": sides,
    }
    folder = ROOT / "training"
    write_json(folder / "ceiling.json", result)
    draw(result, folder / "ceiling.png")
    page = folder / "ceiling.md"
    write_text(page, filled_page(page.read_text(encoding="utf-8"), result))
    click.echo(f"Wrote {folder.name}/ceiling.md, ceiling.png and ceiling.json.")


if __name__ == "__main__":
    main()
