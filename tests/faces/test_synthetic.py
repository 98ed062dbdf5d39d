"""Drawn faces: the same everywhere, seven expressions that a network learns quickly and a linear model does not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fer_deploy.emotions import EMOTIONS
from fer_deploy.faces.dataset import Faces
from fer_deploy.faces.synthetic import colour_faces, synthetic_faces


@pytest.fixture(scope="module")
def drawn() -> Faces:
    return synthetic_faces(1400, seed=11)


def test_the_bytes_are_pinned() -> None:
    """Golden outputs are recorded on these: other bytes on some platform, or with some numpy, would break them all."""
    grey = synthetic_faces(70, seed=5).images
    colour = colour_faces([0, 1, 2, 3, 4, 5, 6], height=65, width=93, seed=7)
    assert (
        hashlib.sha256(grey.tobytes()).hexdigest() == "3c48b08954bb010fae95fddec71faca9a5158170708f651dd3cc07f87d36e72a"
    )
    assert (
        hashlib.sha256(colour.tobytes()).hexdigest()
        == "c988a0d6a85f83b7ec1635e5823c6bf50ac5c797620525ec6ac9fa43a1b238c6"
    )


def test_more_faces_of_a_seed_begin_with_the_same_ones() -> None:
    few, many = synthetic_faces(50, seed=3), synthetic_faces(150, seed=3)
    assert np.array_equal(many.images[:50], few.images)
    assert not np.array_equal(synthetic_faces(50, seed=4).images, few.images)


def test_classes_take_turns_and_no_two_faces_are_equal(drawn: Faces) -> None:
    assert drawn.counts == (200,) * 7
    assert drawn.labels[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert len({image.tobytes() for image in drawn.images}) == len(drawn)
    assert drawn.rows.tolist() == list(range(1400))


def test_pose_light_and_noise_vary(drawn: Faces) -> None:
    happy = drawn.images[drawn.labels == EMOTIONS.index("happy")].astype(np.float64)
    assert happy.mean(axis=(1, 2)).std() > 15  # skin, background and brightness
    assert happy.std(axis=(1, 2)).min() > 5  # none is blank
    halves = happy[:, :, :24].mean(axis=(1, 2)) - happy[:, :, 24:].mean(axis=(1, 2))
    assert halves.min() < -20
    assert halves.max() > 20  # light from both sides
    rough = np.abs(happy[:, 1:6, 1:6] - happy[:, 0:5, 0:5]).mean(axis=(1, 2))
    assert np.quantile(rough, 0.9) > 2 * np.quantile(rough, 0.1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (48, 48), (33, 57), (240, 320)])
def test_colour_faces_of_any_size(height: int, width: int) -> None:
    faces = colour_faces([3, 5], height=height, width=width, seed=1)
    assert (faces.shape, faces.dtype) == ((2, height, width, 3), np.uint8)
    grey = colour_faces([3, 5], height=height, width=width, seed=1, grey=True)
    assert grey.shape == faces.shape
    assert (grey == grey[..., :1]).all()
    if height * width > 100:
        assert (faces != faces[..., :1]).any()


def test_a_grey_drawing_at_48_is_a_synthetic_face() -> None:
    assert np.array_equal(colour_faces([0, 1, 2], seed=6, grey=True)[..., 0], synthetic_faces(3, seed=6).images)


def test_no_faces_and_impossible_ones() -> None:
    assert len(synthetic_faces(0, seed=1)) == 0
    assert colour_faces([], seed=1).shape == (0, 48, 48, 3)
    with pytest.raises(ValueError, match="labels must be 0 to 6"):
        colour_faces([7])
    with pytest.raises(ValueError, match="height and width must be 1 or more"):
        colour_faces([1], height=0)


def test_a_linear_model_does_not_solve_them(drawn: Faces) -> None:
    """Ridge regression on pixels, its strength chosen in its favour: well above chance, far from solved."""
    test = synthetic_faces(350, seed=12)
    pixels, test_pixels = (
        (each.images[:, ::2, ::2].reshape(len(each), -1).astype(np.float64) - 128) / 64 for each in (drawn, test)
    )
    wanted = np.eye(7)[drawn.labels] - 1 / 7
    square, right = pixels.T @ pixels, pixels.T @ wanted
    best = max(
        float(
            (
                (test_pixels @ np.linalg.solve(square + strength * np.eye(len(square)), right)).argmax(1) == test.labels
            ).mean()
        )
        for strength in (10.0, 100.0, 1000.0)
    )
    assert 0.3 < best < 0.8


def test_a_small_network_learns_them_in_seconds() -> None:
    torch = pytest.importorskip("torch", reason="torch comes with fer-deploy[train]")
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)

    def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    network = nn.Sequential(
        layer(1, 8, 2),
        layer(8, 16, 2),
        layer(16, 32, 1),
        layer(32, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 7),
    )
    training, test = synthetic_faces(1400, seed=1), synthetic_faces(350, seed=2)
    faces, labels = torch.from_numpy(training.images).float()[:, None] / 127.5 - 1, torch.from_numpy(training.labels)
    steps = 6 * len(faces) // 32
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=steps + 8)
    for _ in range(6):
        for batch in torch.randperm(len(faces)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(faces[batch]), labels[batch]).backward()
            optimiser.step()
            schedule.step()
    with torch.inference_mode():
        answers = network.eval()(torch.from_numpy(test.images).float()[:, None] / 127.5 - 1).argmax(1).numpy()
    assert (answers == test.labels).mean() > 0.9
