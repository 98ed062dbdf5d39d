"""Augmentation: exact against Pillow where Pillow does the same, right in distribution, the same on every call."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from fer_deploy.recipes import Augmentation, load_recipe
from fer_deploy.training.augment import COLUMNS, OPERATIONS, draw_views, mirrored, render

AT = {name: place for place, name in enumerate(COLUMNS)}


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.randint(0, 256, (64, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def grey(rendered: torch.Tensor) -> np.ndarray:
    return (rendered[:, 0] * 127.5 + 127.5).numpy()


def draw(augmentation: Augmentation, count: int, seed: int = 0) -> torch.Tensor:
    return draw_views(augmentation, count, generator=torch.Generator().manual_seed(seed))


def test_no_augmentation_is_the_face_scaled(faces: torch.Tensor) -> None:
    plain = render(faces, None, Augmentation(), size=48)
    assert torch.equal(plain[:, 0], (faces.float() - 127.5) / 127.5)
    assert torch.equal(render(faces, draw(Augmentation(), 64), Augmentation(), size=48), plain)


def test_flip_crop_rotation_are_torchvisions_on_pillow(faces: torch.Tensor) -> None:
    """The study's chain on Pillow images (flip, zero-padded crop, nearest rotation), pixel by pixel."""
    augmentation = load_recipe("B").augmentation
    views = draw(augmentation, len(faces))
    ours = grey(render(faces, views, augmentation, size=48))
    different = 0
    for face, view, got in zip(faces.numpy(), views.numpy(), ours, strict=True):
        image = face[:, ::-1] if view[AT["flip"]] else face
        padded = np.pad(image, 4)
        x, y = int(view[AT["crop_x"]]) + 4, int(view[AT["crop_y"]]) + 4
        cropped = Image.fromarray(np.ascontiguousarray(padded[y : y + 48, x : x + 48]))
        turned = cropped.rotate(math.degrees(view[AT["angle"]]), resample=Image.Resampling.NEAREST)
        different += int((np.abs(np.asarray(turned, float) - got) > 0.01).sum())
    assert different < 64 * 48 * 48 * 0.001  # a sample point on a pixel's edge may fall to either side


def test_whole_pixel_moves_are_exact(faces: torch.Tensor) -> None:
    augmentation = Augmentation(flip=0.5, crop=4)
    views = draw(augmentation, len(faces))
    ours = grey(render(faces, views, augmentation, size=48))
    for face, view, got in zip(faces.numpy(), views.numpy(), ours, strict=True):
        image = face[:, ::-1] if view[AT["flip"]] else face
        x, y = int(view[AT["crop_x"]]) + 4, int(view[AT["crop_y"]]) + 4
        assert np.allclose(np.pad(image, 4)[y : y + 48, x : x + 48], got, atol=1e-3)


def test_bilinear_sampling_is_pillows_rotation(faces: torch.Tensor) -> None:
    smooth = torch.nn.functional.avg_pool2d(faces.float(), 5, 1, 2).byte()
    augmentation = Augmentation(rotation=30.0)
    views = draw(augmentation, len(faces))
    ours = grey(render(smooth, views, augmentation, size=48))
    for face, view, got in zip(smooth.numpy(), views.numpy(), ours, strict=True):
        image = Image.fromarray(face.astype(np.float32), mode=None)
        turned = np.asarray(image.rotate(math.degrees(view[AT["angle"]]), resample=Image.Resampling.BILINEAR))
        inside = np.hypot(*(np.mgrid[:48, :48] - 23.5)) < 21
        assert np.abs(turned - got)[inside].max() < 1.0


def test_a_shift_moves_the_picture_as_documented() -> None:
    face = torch.zeros(1, 48, 48, dtype=torch.uint8)
    face[0, 20, 30] = 255
    augmentation = Augmentation(shift=0.5)
    view = draw(Augmentation(), 1)
    view[0, AT["shift_x"]], view[0, AT["shift_y"]] = 6 / 48, -3 / 48
    moved = grey(render(face, view, augmentation, size=48))[0]
    assert np.unravel_index(moved.argmax(), moved.shape) == (23, 24)
    view[0, AT["flip"]] = 1.0
    mirrored = grey(render(face, view, augmentation, size=48))[0]
    assert np.unravel_index(mirrored.argmax(), mirrored.shape) == (23, 11)


def test_draws_follow_their_distributions() -> None:
    augmentation = Augmentation(
        flip=0.5, crop=4, rotation=10, scale=0.12, shift=0.1, brightness=0.2, contrast=0.2, cutout=0.5
    )
    views = draw(augmentation, 40_000).double()
    assert abs(views[:, AT["flip"]].mean() - 0.5) < 0.01
    counts = torch.bincount((views[:, AT["crop_x"]] + 4).long(), minlength=9)
    assert len(counts) == 9
    assert (counts - 40_000 / 9).abs().max() < 300
    for name, low, high in (
        ("angle", -math.radians(10), math.radians(10)), ("scale", 0.88, 1.12), ("shift_x", -0.1, 0.1),
        ("brightness", 0.8, 1.2), ("contrast", 0.8, 1.2),
    ):  # fmt: skip
        values = views[:, AT[name]]
        assert low - 1e-6 <= values.min()
        assert values.max() <= high + 1e-6
        assert abs(values.mean() - (low + high) / 2) < 0.01 * (high - low)
        assert abs(values.std() - (high - low) / math.sqrt(12)) < 0.01 * (high - low)
    width, height = views[:, AT["cut_width"]], views[:, AT["cut_height"]]
    erased = width > 0
    assert abs(erased.double().mean() - 0.5) < 0.01
    assert torch.equal(width[erased], height[erased])  # a square
    share = width[erased] * height[erased] / 48**2
    assert 0.009 < share.min() < 0.012
    assert 0.10 < share.max() < 0.115
    assert (views[:, AT["cut_x"]] + width).max() <= 48
    assert torch.equal(draw(augmentation, 100), draw(augmentation, 100))


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=0.5),
        Augmentation(flip=0.5, crop=4, brightness=0.2, contrast=0.2, cutout=0.5, cutout_aspect=3.0),
        Augmentation(
            flip=0.5, crop=3, rotation=12, scale=0.12, shift=0.12, shear=10, cutout=0.7, cutout_aspect=2.0, fill="edge"
        ),
    ],
)
def test_mirrored_rows_show_the_mirrored_view(faces: torch.Tensor, augmentation: Augmentation) -> None:
    views = draw(augmentation, len(faces))
    shown = render(faces, views, augmentation, size=64)
    other = render(faces, mirrored(views), augmentation, size=64)
    assert (other - shown).abs().mean() > 0.1
    assert torch.allclose(other, shown.flip(3), atol=1e-3)
    assert torch.equal(mirrored(mirrored(views)), views)


def test_cutout_is_mid_grey_after_normalising(faces: torch.Tensor) -> None:
    augmentation = Augmentation(cutout=1.0, cutout_area=(0.05, 0.05))
    views = draw(augmentation, len(faces))
    rendered = render(faces, views, augmentation, size=48)
    changed = rendered != render(faces, None, augmentation, size=48)
    assert set(rendered[changed].tolist()) == {0.0}
    side = round(math.sqrt(0.05 * 48 * 48))
    assert (changed.sum((1, 2, 3)) <= side**2).all()
    assert (changed.sum((1, 2, 3)) >= side**2 - 3).all()  # a pixel may have been mid grey before


def test_brightness_and_contrast_change_grey_levels_as_documented(faces: torch.Tensor) -> None:
    augmentation = Augmentation(brightness=0.2, contrast=0.2)
    views = draw(augmentation, len(faces))
    got = grey(render(faces, views, augmentation, size=48))
    for face, view, ours in zip(faces.numpy().astype(float), views.numpy(), got, strict=True):
        bright = np.clip(face * view[AT["brightness"]], 0, 255)
        expected = np.clip(bright.mean() + (bright - bright.mean()) * view[AT["contrast"]], 0, 255)
        assert np.allclose(expected, ours, atol=0.05)


def test_trivial_augment_does_one_thing_to_each_face(faces: torch.Tensor) -> None:
    augmentation = Augmentation(trivial=True)
    views = draw(augmentation, len(faces))
    rendered = render(faces, views, augmentation, size=48)
    plain = render(faces, None, augmentation, size=48)
    operation = views[:, AT["operation"]].long()
    assert len(set(operation.tolist())) > 8
    same = (rendered - plain).abs().amax((1, 2, 3)) < 1e-3
    assert same[operation == OPERATIONS.index("identity")].all()
    assert not same[(operation == OPERATIONS.index("rotate"))].any()
    assert rendered.min() >= -1.001
    assert rendered.max() <= 1.001


@pytest.mark.parametrize("size", [40, 48, 64])
@pytest.mark.parametrize("name", ["B", "C", "D", "E", "plain"])
def test_every_recipes_views_have_the_networks_size(faces: torch.Tensor, name: str, size: int) -> None:
    augmentation = load_recipe(name).augmentation
    rendered = render(faces, draw(augmentation, len(faces)), augmentation, size=size)
    assert rendered.shape == (64, 1, size, size)
    assert rendered.dtype == torch.float32
    assert rendered.abs().max() <= 1.0001


@pytest.mark.parametrize(
    "moved",
    [{"crop": 6}, {"rotation": 40.0, "interpolation": "nearest"}, {"rotation": 40.0}, {"crop": 6, "shift": 0.2}],
)
def test_an_edge_that_is_repeated_leaves_nothing_black(moved: dict[str, object]) -> None:
    bright = torch.full((8, 48, 48), 200, dtype=torch.uint8)
    for fill, least in (("edge", 200.0), ("zero", 0.0)):
        augmentation = Augmentation(**moved, fill=fill)  # type: ignore[arg-type]
        shown = grey(render(bright, draw(augmentation, 8), augmentation, size=48))
        assert shown.min() == pytest.approx(least, abs=1e-3)
