"""Augmentation in whole batches, on the device where the faces lie.

Random numbers and pixels are separate: `draw_views` draws one row of parameters per face, always on the CPU, and
`render` turns faces and rows into the network's input. So the same seed gives the same views on every device and for
every number of processes, and teachers see exactly the view that their student sees.

All geometric changes are composed into one sampling of the original pixels: no face is resampled twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from fer_deploy.recipes import Augmentation

UNIT_SIDE = 48
"""Crops and cut boxes are stated in pixels of a face with this side. Larger and smaller faces scale them, so that the
same row shows the same part of a face at every size."""

COLUMNS = (
    "flip", "crop_x", "crop_y", "angle", "scale", "shift_x", "shift_y", "shear_x", "shear_y",
    "brightness", "contrast", "cut_x", "cut_y", "cut_width", "cut_height", "operation", "strength",
)  # fmt: skip
"""The columns of a row of parameters: flip 0 or 1, crops and the cut box in pixels of a 48-pixel face (`UNIT_SIDE`),
angle and shears in radians, scale, brightness and contrast as factors, shifts as shares of the side, TrivialAugment's
operation by its place in `OPERATIONS`, and its strength in 0 to 1."""

OPERATIONS = (
    "identity", "shear_x", "shear_y", "shift_x", "shift_y", "rotate",
    "brightness", "contrast", "sharpness", "posterise", "solarise", "autocontrast",
)  # fmt: skip
"""Those of TrivialAugment's operations (Müller and Hutter, 2021) that make sense for a small grey face."""

_AT = {name: place for place, name in enumerate(COLUMNS)}


def draw_views(augmentation: Augmentation, count: int, *, generator: torch.Generator) -> torch.Tensor:
    """Draw the parameters of one view of each of `count` faces.

    Returns:
        float32 (count, len(COLUMNS)) on the CPU. The same generator state gives the same rows.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    views = torch.zeros(count, len(COLUMNS))

    def put(name: str, values: torch.Tensor | float) -> None:
        views[:, _AT[name]] = values

    for factor in ("scale", "brightness", "contrast"):
        put(factor, 1.0)
    if augmentation.flip:
        put("flip", (uniform(0, 1) < augmentation.flip).float())
    if augmentation.crop:
        for name in ("crop_x", "crop_y"):
            pixels = augmentation.crop
            put(name, torch.randint(-pixels, pixels + 1, (count,), generator=generator).float())
    if augmentation.rotation:
        put("angle", uniform(-1, 1) * math.radians(augmentation.rotation))
    if augmentation.scale:
        put("scale", 1 + uniform(-1, 1) * augmentation.scale)
    if augmentation.shift:
        put("shift_x", uniform(-1, 1) * augmentation.shift)
        put("shift_y", uniform(-1, 1) * augmentation.shift)
    if augmentation.shear:
        put("shear_x", uniform(-1, 1) * math.radians(augmentation.shear))
    if augmentation.brightness:
        put("brightness", 1 + uniform(-1, 1) * augmentation.brightness)
    if augmentation.contrast:
        put("contrast", 1 + uniform(-1, 1) * augmentation.contrast)
    if augmentation.cutout:
        for name, values in _draw_cutout(augmentation, uniform).items():
            put(name, values)
    if augmentation.trivial:
        _draw_trivial(views, uniform, generator)
    return views


def _draw_cutout(
    augmentation: Augmentation, uniform: Callable[[float, float], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The columns of the erased box; its sides are 0 where nothing is erased."""
    low, high = augmentation.cutout_area
    erased = uniform(0, 1) < augmentation.cutout
    area = uniform(low, high) * UNIT_SIDE * UNIT_SIDE
    stretch = math.log(augmentation.cutout_aspect)
    aspect = torch.exp(uniform(-stretch, stretch))
    width = (area * aspect).sqrt().round().clamp(1, UNIT_SIDE)
    height = (area / aspect).sqrt().round().clamp(1, UNIT_SIDE)
    return {
        "cut_x": (uniform(0, 1) * (UNIT_SIDE - width + 1)).floor(),
        "cut_y": (uniform(0, 1) * (UNIT_SIDE - height + 1)).floor(),
        "cut_width": width * erased,
        "cut_height": height * erased,
    }


def _draw_trivial(
    views: torch.Tensor, uniform: Callable[[float, float], torch.Tensor], generator: torch.Generator
) -> None:
    """Draw TrivialAugment's operation and strength for each face, and add the geometric ones to its columns."""
    operation = torch.randint(0, len(OPERATIONS), (len(views),), generator=generator)
    strength = uniform(0, 1)
    signed = strength * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    views[:, _AT["operation"]] = operation.float()
    views[:, _AT["strength"]] = strength
    for name, column, reach in (
        ("shear_x", "shear_x", 0.3),
        ("shear_y", "shear_y", 0.3),
        ("shift_x", "shift_x", 0.2),
        ("shift_y", "shift_y", 0.2),
        ("rotate", "angle", math.radians(30)),
        ("brightness", "brightness", 0.6),
        ("contrast", "contrast", 0.6),
    ):
        chosen = operation == OPERATIONS.index(name)
        views[chosen, _AT[column]] += signed[chosen] * reach


def mirrored(views: torch.Tensor) -> torch.Tensor:
    """The rows whose views are those of `views`, (n, len(COLUMNS)), mirrored left to right."""
    turned = views.clone()
    for name in ("crop_x", "angle", "shift_x", "shear_x", "shear_y"):
        turned[:, _AT[name]] *= -1
    turned[:, _AT["flip"]] = 1 - views[:, _AT["flip"]]
    turned[:, _AT["cut_x"]] = UNIT_SIDE - views[:, _AT["cut_x"]] - views[:, _AT["cut_width"]]
    return turned


def render(images: torch.Tensor, views: torch.Tensor | None, augmentation: Augmentation, *, size: int) -> torch.Tensor:
    """Turn stored faces into network input.

    Args:
        images: uint8 (n, side, side), faces of any side.
        views: float32 (n, len(COLUMNS)) on the same device, or None for unchanged faces.
        augmentation: how to sample; `views` has its amounts.
        size: side of the result in pixels.

    Returns:
        float32 (n, 1, size, size) in [-1, 1].
    """
    if views is None:
        return _normalise(_resize(images.float().unsqueeze(1), size))
    moved = augmentation.trivial or any(getattr(augmentation, name) for name in ("rotation", "scale", "shift", "shear"))
    if moved and augmentation.interpolation == "bilinear":
        grey = _sample_bilinear(images, views, size, augmentation.fill)
    elif moved:
        grey = _resize(_sample_nearest(images, views, augmentation.fill), size)
    elif augmentation.flip or augmentation.crop:
        grey = _resize(_move_whole_pixels(images, views, augmentation.fill), size)
    else:
        grey = _resize(images.float().unsqueeze(1), size)
    grey = _photometric(grey, views, augmentation)
    faces = _normalise(grey)
    return _cut_out(faces, views) if augmentation.cutout else faces


def _column(views: torch.Tensor, name: str) -> torch.Tensor:
    return views[:, _AT[name]]


def _normalise(grey: torch.Tensor) -> torch.Tensor:
    return grey.sub_(127.5).div_(127.5)


def _resize(grey: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear with antialiasing, as in the exported graph and in Pillow."""
    if grey.shape[-1] == size:
        return grey
    return F.interpolate(grey, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _matrix(views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The four entries of the linear map from a point of the view to a point of the face, both from the centre."""
    cosine, sine = _column(views, "angle").cos(), _column(views, "angle").sin()
    shear_x, shear_y = _column(views, "shear_x").tan(), _column(views, "shear_y").tan()
    inverse = 1 / _column(views, "scale")
    return (
        (cosine - sine * shear_y) * inverse,
        (cosine * shear_x - sine) * inverse,
        (sine + cosine * shear_y) * inverse,
        (sine * shear_x + cosine) * inverse,
    )


def _sample_bilinear(images: torch.Tensor, views: torch.Tensor, size: int, fill: str) -> torch.Tensor:
    xx, xy, yx, yy = _matrix(views)
    mirror = 1 - 2 * _column(views, "flip")
    shift_x = 2 * (_column(views, "shift_x") + _column(views, "crop_x") / UNIT_SIDE)
    shift_y = 2 * (_column(views, "shift_y") + _column(views, "crop_y") / UNIT_SIDE)
    rows = torch.stack(
        (torch.stack((mirror * xx, mirror * xy, mirror * shift_x), 1), torch.stack((yx, yy, shift_y), 1)), 1
    )
    grid = F.affine_grid(rows, [len(images), 1, size, size], align_corners=False)
    padding = "border" if fill == "edge" else "zeros"
    if fill == "edge" and images.device.type == "mps":  # no border mode before PyTorch 2.13 (pytorch#125098)
        edge = 1 - 1 / images.shape[-1]
        grid, padding = grid.clamp(-edge, edge), "zeros"
    return F.grid_sample(images.float().unsqueeze(1), grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _sample_nearest(images: torch.Tensor, views: torch.Tensor, fill: str) -> torch.Tensor:
    """Pillow's nearest rotation of a crop of the mirrored face; `fill` wherever either step leaves the picture."""
    side = images.shape[-1]
    centre = side / 2
    axis = torch.arange(side, device=images.device) + 0.5 - centre
    x, y = axis[None, None, :], axis[None, :, None]
    xx, xy, yx, yy = (entry[:, None, None] for entry in _matrix(views))
    shift_x = side * _column(views, "shift_x")[:, None, None]
    shift_y = side * _column(views, "shift_y")[:, None, None]
    column = (xx * x + xy * y + shift_x + centre).floor().int()
    row = (yx * x + yy * y + shift_y + centre).floor().int()
    return _pick(images, views, column, row, fill)


def _move_whole_pixels(images: torch.Tensor, views: torch.Tensor, fill: str) -> torch.Tensor:
    side = images.shape[-1]
    axis = torch.arange(side, device=images.device, dtype=torch.int32)
    shape = (len(images), side, side)
    return _pick(images, views, axis[None, None, :].expand(shape), axis[None, :, None].expand(shape), fill)


def _pick(
    images: torch.Tensor, views: torch.Tensor, column: torch.Tensor, row: torch.Tensor, fill: str
) -> torch.Tensor:
    side = images.shape[-1]
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    if fill == "edge":
        column, row = column.clamp(0, side - 1), row.clamp(0, side - 1)
    column = column + _whole_pixels(views, "crop_x", side)
    row = row + _whole_pixels(views, "crop_y", side)
    inside &= (column >= 0) & (column < side) & (row >= 0) & (row < side)
    if fill == "edge":
        column, row = column.clamp(0, side - 1), row.clamp(0, side - 1)
    column = torch.where(_column(views, "flip")[:, None, None] > 0.5, side - 1 - column, column)
    place = (row * side + column).clamp_(0, side * side - 1).long().flatten(1)
    picked = images.flatten(1).gather(1, place).view(len(images), 1, side, side)
    return picked.float() if fill == "edge" else picked.float() * inside.unsqueeze(1)


def _whole_pixels(views: torch.Tensor, name: str, side: int) -> torch.Tensor:
    """A crop in whole pixels of faces of this side, int32 (n, 1, 1)."""
    return (_column(views, name) * (side / UNIT_SIDE)).round().int()[:, None, None]


def _photometric(grey: torch.Tensor, views: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    if augmentation.brightness or augmentation.trivial:
        grey = (grey * _column(views, "brightness")[:, None, None, None]).clamp_(0, 255)
    if augmentation.contrast or augmentation.trivial:
        mean = grey.mean((1, 2, 3), keepdim=True)
        grey = (mean + (grey - mean) * _column(views, "contrast")[:, None, None, None]).clamp_(0, 255)
    if not augmentation.trivial:
        return grey
    strength = _column(views, "strength")[:, None, None, None]
    operation = _column(views, "operation")[:, None, None, None]

    def use(name: str, changed: torch.Tensor) -> None:
        nonlocal grey
        grey = torch.where(operation == OPERATIONS.index(name), changed, grey)

    kernel = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]], device=grey.device)[None, None] / 13
    smooth = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel)
    use("sharpness", (smooth + (grey - smooth) * (0.1 + 1.8 * strength)).clamp(0, 255))
    step = 2 ** (strength * 6).round()
    use("posterise", (grey / step).floor() * step)
    use("solarise", torch.where(grey >= 255 * (1 - strength), 255 - grey, grey))
    low, high = grey.amin((1, 2, 3), keepdim=True), grey.amax((1, 2, 3), keepdim=True)
    use("autocontrast", (grey - low) * 255 / (high - low).clamp_min(1))
    return grey


def _cut_out(faces: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    size = faces.shape[-1]
    axis = (torch.arange(size, device=faces.device) + 0.5) * UNIT_SIDE / size
    left, top = _column(views, "cut_x")[:, None], _column(views, "cut_y")[:, None]
    across = (axis >= left) & (axis < left + _column(views, "cut_width")[:, None])
    down = (axis >= top) & (axis < top + _column(views, "cut_height")[:, None])
    return faces.masked_fill((down[:, :, None] & across[:, None, :]).unsqueeze(1), 0.0)
