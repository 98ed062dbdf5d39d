"""Read the pictures of a listing once, keep them with the listing in the cache, and report all faulty ones at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError, one_line, printable
from fer_deploy.faces import cache
from fer_deploy.faces.cache import Kept, Write, stored
from fer_deploy.faces.dataset import SPLITS
from fer_deploy.faces.decode import LARGEST_SIDE, Decoded, decode
from fer_deploy.faces.listing import Found, Listing, PictureSource
from fer_deploy.faces.source import source_errors
from fer_deploy.faces.store import AT_ONCE, Pictures, starts_of
from fer_deploy.faces.summary import Unreadable
from fer_deploy.faces.threads import Progress, in_order, no_progress
from fer_deploy.folders import LeftOut

LISTED = 8
"""Faulty pictures that an error names; the others are counted."""


@dataclass(frozen=True, eq=False)
class ReadListing:
    """A listing with its pictures.

    Attributes:
        listing: the rows; its `pictures` are not used any more.
        pictures: all pictures, grey, in the order of the rows.
        colour: how many of the original pictures have colour; None if only grey values were there.
        notes: how the pictures were stored, one sentence each.
    """

    listing: Listing
    pictures: Pictures
    colour: int | None
    notes: tuple[str, ...]


def read_listing(
    found: Found, *, check: Callable[[Listing], object] = lambda _listing: None, progress: Progress = no_progress
) -> ReadListing:
    """List what was found, and read all its pictures, or take both from the cache.

    Args:
        found: the data set.
        check: raises if the listing cannot be used. It is called before pictures are read, which may take minutes.
        progress: called while pictures are read.

    Raises:
        DataError: the source cannot be understood or changes while it is read, or pictures cannot be read: all of these
            are counted and the first are named.
    """
    listing: Listing | None = None
    if found.key is not None:
        key = found.key()
        contents = None
    else:
        listing = found.read()
        check(listing)
        contents = _content_digests(listing, progress)
        key = _key(listing, contents)

    def build(write: Write) -> dict[str, NDArray[Any]]:
        now = listing if listing is not None else found.read()
        check(now)
        arrays = _store(now, contents, write, progress)
        if found.key is not None and found.key() != key:  # the cache must match the source
            raise DataError(f"{found.name} changed while it was read: start again when no program writes to it")
        return arrays if listing is not None else {**arrays, **_packed(now)}

    entry = stored(key, build)
    pictures = _pictures(entry)
    content = entry.arrays
    kept = listing if listing is not None else _unpacked(found.name, content, pictures)
    reduced = int(content["reduced"])
    notes = (
        *((f"{reduced:,} pictures were reduced to {LARGEST_SIDE} pixels on their shorter side",) if reduced else ()),
        *entry.notes,
    )
    colour = int(content["colour"])
    return ReadListing(kept, pictures, None if colour < 0 else colour, notes)


def _refuse(name: str, faulty: Sequence[Unreadable], count: int) -> DataError:
    """The error about all pictures that cannot be read."""
    named = "; ".join(f"{printable(each.place)}: {each.reason}" for each in faulty[:LISTED])
    more = f"; and {len(faulty) - LISTED:,} more" if len(faulty) > LISTED else ""
    return DataError(
        f"{name}: {len(faulty):,} of {count:,} pictures cannot be read: {named}{more}: replace or remove them "
        "(`ferdeploy data --json` lists all)"
    )


def _reason(error: Exception, place: str) -> str:
    """What is wrong with a picture, without its place."""
    text = one_line(error, limit=400)
    return one_line(text.partition(f"{printable(place)}: ")[2] or text, limit=160)


def _read(pictures: PictureSource, number: int, place: str) -> bytes:
    assert pictures.read is not None
    with source_errors(printable(place)):
        return pictures.read(number)


def _content_digests(listing: Listing, progress: Progress) -> list[bytes]:
    """The SHA-256 of each encoded picture's bytes; of decoded pixels, of each picture."""
    pictures = listing.pictures
    if pictures.pixels is not None:
        return [hashlib.sha256(np.ascontiguousarray(each).data).digest() for each in pictures.pixels]

    def digest(number: int) -> bytes:
        try:
            return hashlib.sha256(_read(pictures, number, listing.places[number])).digest()
        except DataError:
            return b""  # decoding reports it, together with all others

    return list(in_order(digest, pictures.count, what="comparing pictures with the cache", progress=progress))


def _key(listing: Listing, contents: Sequence[bytes]) -> str:
    """The key of a listing's pictures in the cache: a hash of their bytes in their order."""
    whole = hashlib.sha256(b"".join(contents))
    pixels = listing.pictures.pixels
    return f"pictures {len(listing)} {None if pixels is None else pixels.shape[1:]} {whole.hexdigest()}"


def _decoded(listing: Listing, contents: Sequence[bytes] | None, progress: Progress) -> Iterator[Decoded | str]:
    """Each picture, or what is wrong with it."""

    def work(number: int) -> Decoded | str:
        place = listing.places[number]
        try:
            content = _read(listing.pictures, number, place)
            if contents is not None and hashlib.sha256(content).digest() != contents[number]:
                return "changed while it was read"
            return decode(content, printable(place))
        except DataError as error:
            return _reason(error, place)

    return in_order(work, len(listing), what="reading pictures", progress=progress)


def _store(
    listing: Listing, contents: Sequence[bytes] | None, write: Write, progress: Progress
) -> dict[str, NDArray[Any]]:
    """Write all pictures one after the other, and return what describes them."""
    if listing.pictures.pixels is not None:
        return _store_pixels(listing.pictures.pixels, write)
    count = len(listing)
    shapes, digests = np.empty((count, 2), np.int64), np.empty((count, 32), np.uint8)
    faulty: list[Unreadable] = []
    colour = reduced = 0
    for number, result in enumerate(_decoded(listing, contents, progress)):
        if isinstance(result, str):
            faulty.append(Unreadable(listing.places[number], result))
        elif not faulty:  # after the first fault, only other faults are looked for
            shapes[number] = result.grey.shape
            digests[number] = np.frombuffer(hashlib.sha256(result.grey.data).digest(), np.uint8)
            colour, reduced = colour + result.colour, reduced + result.reduced
            write(result.grey)
    if faulty:
        raise _refuse(listing.name, faulty, count)
    return {"shapes": shapes, "digests": digests, "colour": np.array(colour), "reduced": np.array(reduced)}


def _store_pixels(pixels: NDArray[np.uint8], write: Write) -> dict[str, NDArray[Any]]:
    """Write decoded pictures. Few of them are kept as an array, which needs no digests."""
    shapes = np.broadcast_to(np.array(pixels.shape[1:], np.int64), (len(pixels), 2))
    many = pixels.nbytes > cache.IN_MEMORY
    digests = [hashlib.sha256(np.ascontiguousarray(each).data).digest() for each in pixels] if many else []
    step = max(1, AT_ONCE // max(1, pixels[:1].nbytes))
    for start in range(0, len(pixels), step):
        write(pixels[start : start + step])
    return {
        "shapes": np.ascontiguousarray(shapes),
        "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        "colour": np.array(-1),
        "reduced": np.array(0),
    }


def _pictures(entry: Kept) -> Pictures:
    """The pictures of an entry: an array if they have one size and are in memory, as FER2013's are."""
    shapes, digests = entry.arrays["shapes"], entry.arrays["digests"]
    if len(shapes) and len(entry.pixels) <= cache.IN_MEMORY and (shapes == shapes[0]).all():
        return Pictures(entry.pixels.reshape(-1, *shapes[0].tolist()))
    return Pictures(entry.pixels, starts_of(shapes), shapes, digests)


def _packed(listing: Listing) -> dict[str, NDArray[Any]]:
    """A listing without its pictures as arrays."""
    numbers: dict[str | None, int] = {None: -1} | {split: number for number, split in enumerate(SPLITS)}
    arrays: dict[str, NDArray[Any]] = {
        "labels": _texts(listing.labels),
        "splits": np.array([numbers[split] for split in listing.splits], np.int8),
        "places": _texts(listing.places),
        "rows": listing.rows,
        "notes": _texts(listing.notes),
        "left out": _texts(list(listing.left_out.counts)),
        "left out counts": np.array(list(listing.left_out.counts.values()), np.int64),
        "fer2013 numbers": np.array(listing.fer2013_numbers),
    }
    if listing.people is not None:
        arrays["people"] = _texts(listing.people)
    if listing.declared is not None:
        arrays["declared"] = _texts(listing.declared)
    if listing.votes is not None:
        arrays["votes"] = listing.votes
    return arrays | {f"column {name}": _texts(column) for name, column in listing.columns.items()}


def _unpacked(name: str, arrays: Any, pictures: Pictures) -> Listing:
    """The listing of `_packed`."""
    votes = arrays.get("votes")
    left_out = zip(_split(arrays["left out"]), arrays["left out counts"].tolist(), strict=True)
    columns = {key.removeprefix("column "): _split(arrays[key]) for key in arrays if key.startswith("column ")}
    splits: list[str | None] = [*SPLITS, None]  # the last is number -1
    return Listing(
        name,
        labels=_split(arrays["labels"]),
        splits=[splits[number] for number in arrays["splits"].tolist()],
        places=_split(arrays["places"]),
        rows=arrays["rows"],
        pictures=PictureSource.encoded(len(pictures), _no_reading),
        people=_split(arrays["people"]) if "people" in arrays else None,
        columns=columns,
        declared=tuple(_split(arrays["declared"])) if "declared" in arrays else None,
        fer2013_numbers=bool(arrays["fer2013 numbers"]),
        votes=votes,
        notes=tuple(_split(arrays["notes"])),
        left_out=LeftOut(Counter(dict(left_out))),
    )


def _no_reading(_number: int) -> bytes:
    raise DataError("these pictures were read already")


def _texts(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Texts as bytes with their lengths: far smaller than numpy's texts of fixed width."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    lengths = np.array([len(encoded), *map(len, encoded)], "<i8").view(np.uint8)
    return np.concatenate([lengths, np.frombuffer(b"".join(encoded), np.uint8)])


def _split(packed: NDArray[np.uint8]) -> list[str]:
    """The texts of `_texts`."""
    content = packed.tobytes()
    count = int.from_bytes(content[:8], "little")
    ends = 8 * (count + 1) + np.cumsum(np.frombuffer(content, "<i8", count, 8))
    starts = [8 * (count + 1), *ends[:-1].tolist()]
    return [content[a:b].decode("utf-8", "surrogateescape") for a, b in zip(starts, ends.tolist(), strict=False)]
