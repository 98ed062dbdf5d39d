"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fer_deploy.faces.dataset import Dataset


class FiniteRange(click.FloatRange):
    """click's, without the number that is in every range because it is neither above nor below anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; a usage error for nan and inf."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number to work with.", param, ctx)
        return number


def open_data(data: str | None, *, workspace: Path) -> Dataset | None:
    """The data set that --data names, else the default one where there is one, else None.

    A data/ that is something else altogether is passed over with a note: nobody pointed at it.
    """
    named = data is not None or os.environ.get("FERDEPLOY_DATA")
    if not named and not (workspace / "data").exists():
        return None
    from fer_deploy.errors import NoDataError
    from fer_deploy.faces.load import load_dataset

    try:
        return load_dataset(data, workspace=workspace)
    except NoDataError as error:
        if named:
            raise
        click.echo(f"note: no data set is used: {str(error).partition(':')[0]}", err=True)
        return None


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
