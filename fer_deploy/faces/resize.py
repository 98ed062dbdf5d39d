"""Pictures at the input size of a network, resized once from the originals and kept in a memory-mapped file."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fer_deploy.faces.cache import IN_MEMORY, Write, stored
from fer_deploy.faces.decode import resize
from fer_deploy.faces.store import AT_ONCE, Pictures
from fer_deploy.faces.threads import Progress, in_order, no_progress


def pictures_at(pictures: Pictures, input_size: int, *, progress: Progress = no_progress) -> NDArray[np.uint8]:
    """Pictures for a network of this input size, uint8 (n, side, side). Do not write to them.

    Squares of one size that is not above `input_size` stay unchanged: the network enlarges them itself. All others are
    resized to `input_size`, each once and from its original, with Pillow's bilinear filter and antialiasing, as the
    exported graph does. Many pictures are a mapped file, in the cache if it can be written.

    Args:
        pictures: the originals.
        input_size: pixels, 1 or more.
        progress: called while pictures are resized.

    Raises:
        DataError: neither the disk nor the memory has room.
    """
    if input_size < 1:
        raise ValueError(f"the input size must be 1 or more, got {input_size}")
    size = pictures.uniform
    side = input_size
    if size is not None and size[0] == size[1] <= input_size:
        side = size[0]
        if pictures.is_one_array or len(pictures) * side * side <= IN_MEMORY:
            return pictures.array()
    keys = hashlib.sha256(b"".join(pictures.keys())).hexdigest()

    mean_area = int(pictures.sizes.prod(axis=1).mean()) if len(pictures) else 1
    often = max(1, AT_ONCE // mean_area)  # pictures after which memory that holds parts of the mapped file is let go

    def build(write: Write) -> dict[str, NDArray[np.uint8]]:
        def work(number: int) -> NDArray[np.uint8]:
            return resize(pictures[number], side, side)

        for number, picture in enumerate(
            in_order(work, len(pictures), what=f"resizing pictures to {side} pixels", progress=progress)
        ):
            write(picture)
            if number % often == 0:
                pictures.release()
        return {}

    pixels = stored(f"pictures {keys} at {side}", build).pixels
    pictures.release()
    return pixels.reshape(-1, side, side)
