"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path

import click

data_option = click.option(
    "--data",
    metavar="PATH",
    help="fer2013.csv (plain, .gz, .zip, Kaggle's archive), icml_face_data.csv, a folder tree, a parquet file, or "
    "'synthetic'. Default: $FERDEPLOY_DATA, then data/ in the workspace.",
)
workspace_option = click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="the current folder",
    help="The folder that holds training/, exports/ and benchmarks/.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes CUDA, then MPS, then the CPU.",
)
