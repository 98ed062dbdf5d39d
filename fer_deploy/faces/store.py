"""Grey pictures of one size or of many, in memory or memory-mapped from a file."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SIZE = 48
"""Height and width of FER2013's faces, in pixels."""

AT_ONCE = 64 << 20
"""Bytes of pictures that are copied from a mapped file at a time."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Grey pictures, uint8, 0 black to 255 white. Make them with `of` or `ragged`.

    Pictures of one size may be one array. All others lie one after the other in a flat array, often a mapped file, so
    that choosing some of them copies no pixels.

    Attributes:
        pixels: uint8 (n, height, width); or flat, with `starts` and `shapes`.
        starts: int64 (n,), where each picture begins in the flat array; None for an array of pictures.
        shapes: int64 (n, 2), the height and width of each picture; None for an array of pictures.
        digests: uint8 (n, 32), the SHA-256 of each picture's pixels in a flat array; None for an array of pictures.
    """

    pixels: NDArray[np.uint8]
    starts: NDArray[np.int64] | None = None
    shapes: NDArray[np.int64] | None = None
    digests: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8:
            raise ValueError(f"pictures must be uint8, got {self.pixels.dtype}")
        if self.starts is None and self.pixels.ndim != 3:
            raise ValueError(f"pictures must be (n, height, width), got {self.pixels.shape}")

    @classmethod
    def of(cls, pictures: Pictures | NDArray[np.uint8]) -> Pictures:
        """The same pictures: an array uint8 (n, height, width) becomes `Pictures`, without a copy."""
        return pictures if isinstance(pictures, Pictures) else cls(pictures)

    @classmethod
    def ragged(cls, pictures: Sequence[NDArray[np.uint8]]) -> Self:
        """Pictures of any sizes, each uint8 (height, width), copied into memory."""
        flat = [np.ascontiguousarray(picture, np.uint8).reshape(-1) for picture in pictures]
        shapes = np.array([picture.shape for picture in pictures], np.int64).reshape(-1, 2)
        digests = np.array([list(sha256(each.data).digest()) for each in flat], np.uint8).reshape(-1, 32)
        pixels = np.concatenate(flat) if flat else np.empty(0, np.uint8)
        return cls(pixels, starts_of(shapes), shapes, digests)

    def __len__(self) -> int:
        return len(self.pixels if self.starts is None else self.starts)

    def __getitem__(self, place: int) -> NDArray[np.uint8]:
        """One picture, uint8 (height, width). It is a view: copy it before you change it."""
        if self.starts is None or self.shapes is None:
            picture: NDArray[np.uint8] = self.pixels[place]
            return picture
        start, (height, width) = self.starts[place], self.shapes[place].tolist()
        return self.pixels[start : start + height * width].reshape(height, width)

    def take(self, which: NDArray[Any] | slice) -> Pictures:
        """The pictures that an index array, a boolean mask (n,) or a slice picks, in that order."""
        if self.starts is None or self.shapes is None or self.digests is None:
            return Pictures(self.pixels[_as_slice(which)])
        return Pictures(self.pixels, self.starts[which], self.shapes[which], self.digests[which])

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The height and width of each picture, int64 (n, 2)."""
        if self.shapes is not None:
            return self.shapes
        return np.broadcast_to(np.array(self.pixels.shape[1:], np.int64), (len(self.pixels), 2))

    @cached_property
    def uniform(self) -> tuple[int, int] | None:
        """The height and width that all pictures have; None if they differ. An empty set counts as 48x48."""
        if self.shapes is None:
            height, width = self.pixels.shape[1:]
            return height, width
        if not len(self.shapes):
            return SIZE, SIZE
        height, width = self.shapes[0].tolist()
        return (height, width) if (self.shapes == self.shapes[0]).all() else None

    @cached_property
    def is_one_array(self) -> bool:
        """Whether `array` copies nothing: the pictures have one size and lie one after the other."""
        if self.starts is None or not len(self.starts):
            return True
        return self.uniform is not None and bool((np.diff(self.starts) == self.uniform[0] * self.uniform[1]).all())

    def release(self) -> None:
        """Free the memory that holds parts of a mapped file; later reads load them again."""
        mapped: Any = self.pixels
        while isinstance(mapped, np.ndarray):
            mapped = mapped.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def array(self) -> NDArray[np.uint8]:
        """All pictures as one array uint8 (n, height, width): a view where they lie one after the other, else a copy.

        Raises:
            ValueError: the pictures have several sizes.
        """
        if self.starts is None or self.shapes is None:
            return self.pixels
        if self.uniform is None:
            raise ValueError("these pictures have several sizes: use at(input_size) or by_shape()")
        height, width = self.uniform
        if not len(self):
            return np.empty((0, height, width), np.uint8)
        area = height * width
        if self.is_one_array:
            first = int(self.starts[0])
            return self.pixels[first : first + len(self) * area].reshape(-1, height, width)
        return np.stack([self[place] for place in range(len(self))])

    def by_shape(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Pictures of equal size together, about 64 MiB at a time: their places int64 (m,), and uint8 (m, h, w).

        An array of pictures is yielded as a whole. Sizes come in the order of their height, then their width.
        """
        if self.shapes is None:
            if len(self):
                yield np.arange(len(self)), self.pixels
            return
        for height, width in np.unique(self.shapes, axis=0).tolist():
            places = np.flatnonzero((self.shapes == (height, width)).all(axis=1))
            step = max(1, AT_ONCE // (height * width))
            for first in range(0, len(places), step):
                some = places[first : first + step]
                yield some, self.take(some).array()
                self.release()

    def keys(self) -> list[bytes]:
        """Bytes for each picture: equal for exact copies, and only for them."""
        if self.digests is not None and self.shapes is not None:
            return [
                b"%dx%d " % (height, width) + digest.tobytes()
                for (height, width), digest in zip(self.shapes.tolist(), self.digests, strict=True)
            ]
        height, width = self.pixels.shape[1:]
        head = b"%dx%d " % (height, width)
        return [head + sha256(np.ascontiguousarray(picture).data).digest() for picture in self.pixels]


def starts_of(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each picture begins if pictures of these shapes, int64 (n, 2), lie one after the other; int64 (n,)."""
    areas = shapes.prod(axis=1, dtype=np.int64)
    starts: NDArray[np.int64] = np.cumsum(areas) - areas
    return starts


def _as_slice(which: NDArray[Any] | slice) -> NDArray[Any] | slice:
    """A slice for an index array or mask of consecutive places, so that an array of pictures is not copied."""
    if isinstance(which, slice):
        return which
    places = np.flatnonzero(which) if which.dtype == bool else which
    if len(places) and places[-1] - places[0] == len(places) - 1 and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return which
