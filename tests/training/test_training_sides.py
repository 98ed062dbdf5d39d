"""Faces of any side: the same view at every size, networks of 64 and 96 pixels on faces of 200, and their teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_data import SMALL_NETWORK, VALENCE, drawn_dataset

from fer_deploy.recipes import Augmentation, Recipe, apply_settings, parse_recipe
from fer_deploy.training.augment import draw_views, render
from fer_deploy.training.data import TrainingData
from fer_deploy.training.fit import Settings, train

CPU = torch.device("cpu")
RECIPE = f"""
name = "sides"
title = "a small network"
{SMALL_NETWORK}
augmentation = {{ flip = 0.5, crop = 4, rotation = 10.0, cutout = 0.5 }}
[[stage]]
epochs = 1
batch_size = 12
"""


def recipe(size: int, *settings: str) -> Recipe:
    return apply_settings(parse_recipe(RECIPE, source="sides.toml"), [f"network.input_size={size}", *settings])


@pytest.mark.parametrize("fill", ["zero", "edge"])
def test_crops_and_cut_boxes_scale_with_the_face(fill: str) -> None:
    """A face of 96 pixels, each pixel of one of 48 twice, gives the same view, each pixel twice."""
    augmentation = Augmentation(flip=0.5, crop=6, cutout=1.0, cutout_area=(0.05, 0.3), fill=fill)  # type: ignore[arg-type]
    images = torch.randint(256, (12, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = draw_views(augmentation, 12, generator=torch.Generator().manual_seed(1))

    def twice(pictures: torch.Tensor) -> torch.Tensor:
        return pictures.repeat_interleave(2, -1).repeat_interleave(2, -2)

    small = render(images, views, augmentation, size=48)
    assert torch.equal(render(twice(images), views, augmentation, size=96), twice(small))
    assert not torch.equal(small, render(images, None, augmentation, size=48))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_turned_and_shifted_faces_look_the_same_at_every_side(interpolation: str) -> None:
    augmentation = Augmentation(flip=0.5, rotation=20, scale=0.2, shift=0.1, crop=4, interpolation=interpolation)  # type: ignore[arg-type]
    ramp = torch.linspace(0, 255, 192)
    large = ((ramp[:, None] + ramp[None, :]) / 2).byte().expand(8, 192, 192)
    small = torch.nn.functional.avg_pool2d(large[:, None].float(), 4)[:, 0].byte()
    views = draw_views(augmentation, 8, generator=torch.Generator().manual_seed(1))
    one, two = (render(images, views, augmentation, size=48) for images in (small, large))
    inside = slice(12, 36)
    assert float((one - two)[:, :, inside, inside].abs().max()) < 0.1


@pytest.mark.parametrize(("side", "size", "kept"), [(48, 96, 48), (48, 32, 48), (96, 96, 96), (64, 96, 64)])
def test_small_faces_stay_as_they_are(side: int, size: int, kept: int, tmp_path: Path) -> None:
    dataset = drawn_dataset(VALENCE, side=side)
    data = TrainingData.of(dataset, recipe(size), workspace=tmp_path, device=CPU)
    assert data.images.shape == (36, kept, kept)
    assert data.validation_images.shape == (9, kept, kept)
    assert torch.equal(data.images, torch.from_numpy(dataset.training.images))


@pytest.mark.parametrize("size", [64, 96])
def test_large_faces_are_reduced_once_to_the_networks_input(size: int, tmp_path: Path) -> None:
    dataset = drawn_dataset(VALENCE, side=200)
    data = TrainingData.of(dataset, recipe(size), workspace=tmp_path, device=CPU)
    assert data.images.shape == (36, size, size)
    assert data.at(size) is data.images
    outcome = train(recipe(size), dataset, workspace=tmp_path, settings=Settings(device="cpu"))
    assert outcome.run().network()(torch.zeros(1, 1, size, size)).shape == (1, 3)


@pytest.mark.parametrize("view", ["same", "cached", "plain"])
def test_a_teacher_with_another_input_size_gets_its_own_pictures(view: str, tmp_path: Path) -> None:
    dataset, settings = drawn_dataset(VALENCE, side=200), Settings(device="cpu")
    train(recipe(64, "name=teacher"), dataset, workspace=tmp_path, settings=settings)
    student = recipe(96, 'distillation.teachers=["teacher"]', f"distillation.view={view}", "distillation.views=1")
    assert train(student, dataset, workspace=tmp_path, settings=settings).status == "complete"
    data = TrainingData.of(dataset, student, workspace=tmp_path, device=CPU)
    assert [data.at(side).shape[-1] for side in (64, 96)] == [64, 96]
