"""Near copies: which changes of a picture are found again, and that different faces are not confused."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from fer_deploy.faces.near_copies import BITS, THRESHOLD, near_groups, perceptual_hashes
from fer_deploy.faces.synthetic import synthetic_faces

FACES = synthetic_faces(200, seed=5).images


def hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return perceptual_hashes([(np.arange(len(pictures)), pictures)], len(pictures))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("L")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda image: jpeg(image, 30),
    "twice as large": lambda image: image.resize((96, 96), Image.Resampling.BILINEAR),
    "smaller": lambda image: image.resize((32, 32), Image.Resampling.BILINEAR),
    "brighter": lambda image: image.point(lambda value: min(255, value + 30)),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_picture_is_a_near_copy(change: str) -> None:
    changed = np.stack([np.asarray(CHANGES[change](Image.fromarray(face))) for face in FACES])
    both = np.concatenate([hashes(FACES), hashes(changed)])
    groups = near_groups(both)
    assert (groups[: len(FACES)] == groups[len(FACES) :]).mean() >= 0.95


def test_different_faces_are_no_near_copies() -> None:
    assert len(set(near_groups(hashes(FACES)))) >= len(FACES) - 1  # of 19,900 pairs at most one


def test_all_pairs_within_the_threshold_are_found() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 2, (3000, BITS), np.uint8)
    second = first.copy()
    for row, bits in enumerate(second):
        bits[random.choice(BITS, row % THRESHOLD + 1, replace=False)] ^= 1
    groups = near_groups(np.packbits(np.concatenate([first, second]), axis=1).view(np.uint16))
    assert groups[: len(first)].tolist() == list(range(len(first)))
    assert (groups[len(first) :] == np.arange(len(first))).mean() >= 0.998


def test_thousands_of_alike_pictures_take_no_time_and_are_one_group() -> None:
    random = np.random.default_rng(0)
    bits = np.repeat(random.integers(0, 2, (1, BITS), np.uint8), 5000, axis=0)
    bits[np.arange(5000), random.integers(0, BITS, 5000)] ^= 1
    began = time.process_time()
    assert set(near_groups(np.packbits(bits, axis=1).view(np.uint16))) == {0}
    assert time.process_time() - began < 5


def test_pictures_of_several_sizes_are_compared() -> None:
    large = np.stack([np.asarray(Image.fromarray(face).resize((130, 110))) for face in FACES[:5]])
    both = perceptual_hashes([(np.arange(5), FACES[:5]), (np.arange(5, 10), large)], 10)
    assert near_groups(both).tolist() == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (31, 33)])
def test_any_size_has_a_hash(shape: tuple[int, int]) -> None:
    assert hashes(np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)).shape == (2, BITS // 16)


def test_no_pictures_have_no_pairs() -> None:
    assert near_groups(np.zeros((0, BITS // 16), np.uint16)).shape == (0,)


def test_a_chain_of_near_copies_is_one_group() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (9, BITS), np.uint8)
    chain = [8, 5, 3, 1]  # 30 bits from one to the next, 90 from end to end
    for place, (before, after) in enumerate(pairwise(chain)):
        bits[after] = bits[before]
        bits[after, place * 30 : place * 30 + 30] ^= 1
    assert near_groups(np.packbits(bits, axis=1).view(np.uint16)).tolist() == [0, 1, 2, 1, 4, 1, 6, 7, 1]
