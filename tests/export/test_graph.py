"""The front against Pillow, and the classifier against its parts put together by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fer_deploy.ensemble import AdaptiveTemperature, Weights, fuse
from fer_deploy.export.graph import FaceClassifier, FacePlane, Member
from fer_deploy.faces.synthetic import colour_faces

SIZES = [(1, 1), (1, 2), (2, 1), (5, 700), (47, 49), (48, 48), (96, 96), (97, 31), (224, 224), (480, 640), (2000, 1500)]


def _pillow(pictures: np.ndarray, size: int) -> np.ndarray:
    """Luma in floating point, then Pillow's own bilinear resize in mode F: grey levels 0 to 255."""
    luma = (pictures.astype(np.float64) @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    resized = [Image.fromarray(face, mode="F").resize((size, size), Image.Resampling.BILINEAR) for face in luma]
    return np.stack([np.asarray(face) for face in resized])


@pytest.mark.parametrize("grey", [True, False], ids=["grey", "colour"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_is_pillows(height: int, width: int, grey: bool) -> None:
    pictures = colour_faces([3], height=height, width=width, grey=grey)
    if height * width < 100_000:  # noise has the hardest edges there are
        noise = np.random.default_rng(0).integers(0, 256, pictures.shape, np.uint8)
        pictures = np.concatenate([pictures, noise[..., :1].repeat(3, axis=3) if grey else noise])
    planes = FacePlane(48)(torch.from_numpy(pictures)).numpy()
    assert planes.shape == (len(pictures), 1, 48, 48)
    levels = (planes[:, 0] + 1) * 127.5
    assert np.abs(levels - _pillow(pictures, 48)).max() < 1e-2


@pytest.mark.parametrize("size", [32, 40, 64])
def test_resize_to_other_input_sizes_is_pillows(size: int) -> None:
    pictures = colour_faces([1, 2], height=53, width=61)
    levels = (FacePlane(size)(torch.from_numpy(pictures)).numpy()[:, 0] + 1) * 127.5
    assert np.abs(levels - _pillow(pictures, size)).max() < 1e-2


def test_a_48x48_grey_face_reaches_the_network_unchanged() -> None:
    pictures = colour_faces(range(7), grey=True)
    planes = FacePlane(48)(torch.from_numpy(pictures))
    trained_on = (torch.from_numpy(pictures[..., 0]).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(planes[:, 0], trained_on, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 0, 48, 3), (1, 48, 0, 3)])
def test_an_empty_picture_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(IndexError):
        FacePlane(48)(torch.zeros(shape, dtype=torch.uint8))


class _Counted(nn.Module):
    """A linear network that counts how often it is run."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(7, size * size, generator=generator) / size)
        self.calls = 0

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return faces.flatten(1) @ self.weight.t()


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.from_numpy(colour_faces([0, 3, 5], height=60, width=50))


@pytest.mark.parametrize("fusion", ["wap", "rrf"])
def test_members_and_fusion_equal_a_computation_by_hand(pictures: torch.Tensor, fusion: str) -> None:
    first, second = _Counted(48, 0), _Counted(40, 1)
    weights = Weights.of([0.2, 0.3, 0.5], source="given")
    classifier = FaceClassifier(
        [
            Member("B", first, temperature=1.7),
            Member("B~mirror", first, mirrored=True),
            Member("E", second, input_size=40),
        ],
        weights=weights,
        fusion=fusion,
    )
    with torch.inference_mode():
        found = classifier(pictures).numpy()
        assert first.calls == 1  # a network that two members share runs once, on both views
        plane = FacePlane(48)(pictures)
        mirrored = FacePlane(48)(pictures.flip(2))
        own = [
            (first(plane) / 1.7).softmax(1).numpy(),
            first(mirrored).softmax(1).numpy(),
            second(FacePlane(40)(pictures)).softmax(1).numpy(),
        ]
        for member, expected in zip(classifier.member_probabilities(pictures), own, strict=True):
            np.testing.assert_allclose(member.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(found, fuse(own, weights.values, fusion=fusion), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_equal_probabilities_are_ranked_as_in_numpy() -> None:
    classifier = FaceClassifier(
        [Member(name, nn.Identity()) for name in "BE"], weights=Weights.of([1, 3], source="given"), fusion="rrf"
    )
    tied = [np.array([[0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1]], np.float32), np.full((1, 7), 1 / 7, np.float32)]
    found = classifier.fuse([torch.from_numpy(own) for own in tied]).numpy()
    np.testing.assert_allclose(found, fuse(tied, [1, 3], fusion="rrf"), atol=1e-7)


@pytest.mark.parametrize("members", [1, 2])
def test_calibration_is_as_in_numpy_and_probability_0_stays_0(members: int) -> None:
    how = AdaptiveTemperature(0.7, 0.1)
    weights = Weights.equal(members)
    classifier = FaceClassifier(
        [Member(name, nn.Identity()) for name in "BE"[:members]], weights=weights, calibration=how
    )
    own = [np.array([row, row[::-1]], np.float32) for row in ([0.5, 0.2, 0.3, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0])]
    found = classifier.fuse([torch.from_numpy(rows) for rows in own[:members]]).numpy()
    np.testing.assert_allclose(found, how.apply(fuse(own[:members], weights.values)), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert found[0, 3] < 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: FaceClassifier([]), "needs a member"),
        (lambda network: FaceClassifier([Member("B", network)], weights=Weights.equal(2)), "as many weights"),
        (lambda network: FaceClassifier([Member("B", network)], fusion="sum"), "fusion must be"),  # type: ignore[arg-type]
        (lambda network: Member("B", network, temperature=0), "temperature 0"),
        (lambda network: Member("B", network, input_size=0), "input size 0"),
    ],
)
def test_wrong_arguments_are_errors(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(nn.Identity())  # type: ignore[operator]
