"""`ferdeploy crop`: cut the faces out of photos, to train on them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.console import step_progress
from fer_deploy.cli.errors import error_line

if TYPE_CHECKING:
    from fer_deploy.detection.detector import FaceDetector
    from fer_deploy.reading.inputs import Inputs, Source

SMALLEST = 40
"""A face of fewer pixels a side is left out: at 48x48 most of its pixels would be interpolated."""

LARGEST_SIZE = 512
"""Faces are not kept larger than this in a data set either."""

EPILOG = """\b
Examples:
  ferdeploy crop photos/ --output faces --size 224       photos/happy/ann.jpg becomes faces/happy/ann.png
  ferdeploy crop "holiday/*.jpg" party.png --output data/faces
\b
Faces in folders of one label each are a data set:
  ferdeploy data faces
\b
Faces without labels are for a recipe with teachers:
  distillation = { ..., unlabelled = "data/faces" }
"""


@click.command("crop", epilog=EPILOG)
@click.argument("photos", nargs=-1, required=True, type=click.Path())
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder for the faces.",
)
@click.option(
    "--size",
    type=click.IntRange(SMALLEST, LARGEST_SIZE),
    default=48,
    show_default=True,
    metavar="N",
    help=f"Reduce larger faces to N pixels a side, {SMALLEST} to {LARGEST_SIZE}: the network's input size or more.",
)
def command(photos: tuple[str, ...], output: Path, size: int) -> None:
    """Cut the largest face out of each of PHOTOS: files, folders or patterns.

    Each face becomes a grey square PNG of at most N pixels a side in DIR, with the photo's name and subfolder, and
    framed as FER2013's faces are. A photo without a face of at least 40 pixels gives none. Faces that exist already are
    kept: run the same command again to resume a stopped run.
    """
    with error_line(on_interrupt="Run the same command again to resume."):
        from fer_deploy.reading.inputs import find_inputs

        inputs = find_inputs(photos, except_in=[output])
        counts = _crop(inputs, output, size)
    for problem in counts.problems:
        click.echo(f"error: {problem}", err=True)
    if inputs.left_out.counts:
        click.echo(str(inputs.left_out), err=True)
    click.echo(f"{output}: {counts}")
    if counts.problems:
        sys.exit(1)


@dataclass
class Counts:
    """What became of the photos."""

    photos: int = 0
    faces: int = 0
    existing: int = 0
    without: int = 0
    small: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line, which accounts for every photo."""
        parts = [f"{self.faces:,} faces from {self.photos - self.existing:,} photos"]
        for count, text in (
            (self.existing, "existed already"),
            (self.without, "without a face"),
            (self.small, f"with a face below {SMALLEST} pixels only"),
            (len(self.problems), "failed"),
        ):
            if count:
                parts.append(f"{count:,} {text}")
        return ", ".join(parts)


def _crop(inputs: Inputs, output: Path, size: int) -> Counts:
    from fer_deploy.detection.detector import FaceDetector
    from fer_deploy.errors import DataError

    pictures = [source for source in inputs.sources if not source.is_video]
    if videos := len(inputs.sources) - len(pictures):
        inputs.left_out.counts["videos"] += videos
    targets = _targets(pictures, output)
    counts = Counts(len(pictures), problems=list(inputs.problems))
    detector = FaceDetector()
    with step_progress() as report:
        for done, (source, target) in enumerate(targets.items(), 1):
            if target.exists():
                counts.existing += 1
            else:
                try:
                    _cut_out(source, target, detector, size=size, counts=counts)
                except DataError as error:
                    counts.problems.append(str(error))
            report("photos", done, len(pictures))
    return counts


def _targets(pictures: list[Source], output: Path) -> dict[Source, Path]:
    """The face's file for each picture.

    Raises:
        DataError: two pictures would share one file.
    """
    from fer_deploy.errors import DataError

    targets: dict[Source, Path] = {}
    taken: dict[Path, Source] = {}
    for source in pictures:
        target = (output / source.place).with_suffix(".png")
        if target in taken:
            raise DataError(
                f"{source.name} and {taken[target].name} would both become {target}: "
                "name a folder that contains both, or rename one"
            )
        targets[source] = target
        taken[target] = source
    return targets


def _cut_out(source: Source, target: Path, detector: FaceDetector, *, size: int, counts: Counts) -> None:
    """Write the largest face of a photo, at most `size` pixels a side, and count it.

    Raises:
        DataError: the photo cannot be read.
    """
    import numpy as np
    from PIL import Image

    from fer_deploy.pictures import read_picture
    from fer_deploy.reading.draw import save

    pixels = read_picture(source.path).pixels
    boxes = detector.detect(pixels)
    if not boxes:
        counts.without += 1
        return
    face = Image.fromarray(detector.crop(pixels, max(boxes, key=lambda box: box.area))).convert("L")
    if face.width < SMALLEST:
        counts.small += 1
        return
    if face.width > size:
        # A box filter averages all pixels of a large face; for a small reduction its cells would be uneven.
        method = Image.Resampling.BOX if face.width > 2 * size else Image.Resampling.BILINEAR
        face = face.resize((size, size), method)
    save(target, np.asarray(face))
    counts.faces += 1
