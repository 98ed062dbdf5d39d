"""Store a network's probabilities on PublicTest and PrivateTest where its weights are too large for the repository.

Writes `probabilities.safetensors`: `PublicTest` and `PrivateTest`, float16 (faces, 7), rows in the data's order, with
the ONNX file's SHA-256. A report's accuracy can then be checked without the network.

    python benchmarks/probabilities.py exports/baseline.onnx --data fer2013.csv --output training/baseline
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from safetensors.numpy import save

from fer_deploy.faces import load_dataset
from fer_deploy.files import sha256_of, write_bytes
from fer_deploy.recognizer import Recognizer


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", required=True, help="FER2013.")
@click.option("--output", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
def main(model: Path, data: str, output: Path) -> None:
    """Classify both splits with MODEL, and write the probabilities to the folder OUTPUT."""
    dataset = load_dataset(data)
    recognizer = Recognizer(model)
    answers = {}
    for name, faces in (("PublicTest", dataset.validation), ("PrivateTest", dataset.test)):
        answers[name] = recognizer.probabilities(np.repeat(faces.images[..., np.newaxis], 3, 3)).astype(np.float16)
        correct = answers[name].argmax(1) == faces.labels
        click.echo(f"{name}: {correct.mean():.2%} of {len(faces):,} faces")
    content = save(answers, metadata={"model": sha256_of(model)})
    write_bytes(output / "probabilities.safetensors", content)


if __name__ == "__main__":
    main()
