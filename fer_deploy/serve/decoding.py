"""Decode one uploaded picture, and explain the usual mistakes of clients in words that help."""

from __future__ import annotations

import base64
import binascii

from fer_deploy.errors import DataError
from fer_deploy.pictures import Pixels, read_picture

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""The first bytes of JPEG, PNG, GIF, WebP, BMP and TIFF files."""


def decode_picture(content: bytes, *, name: str, maximum_pixels: int) -> Pixels:
    """The pixels of an encoded picture.

    Args:
        content: the bytes that a client sent.
        name: what the error calls it.
        maximum_pixels: refuse a picture whose header states more.

    Returns:
        uint8 (height, width, 3), RGB, upright.

    Raises:
        DataError: it is not a picture, is damaged, or is too large.
    """
    if mistake := _mistake(content):
        raise DataError(f"{name}: {mistake}")
    return read_picture(content, name=name, maximum_pixels=maximum_pixels).pixels


def _mistake(content: bytes) -> str | None:
    """How the picture was wrapped into something else; None for what may be a picture."""
    start = content[:400].lstrip()
    if start[:5].lower() == b"data:":
        return "a data: URL: decode the base64 text after its comma and send the bytes (a browser's canvas: toBlob)"
    if _decoded_start(start).startswith(_MAGIC):
        return "base64 text: decode it and send the bytes"
    if start.startswith(b"--") and b"content-disposition:" in start.lower():
        return "a form without its Content-Type header: send forms to /v1/faces, with the header of your HTTP library"
    if start.startswith((b"{", b'"', b"[")):
        return "JSON, not a picture: send the picture's bytes as the body"
    return None


def _decoded_start(text: bytes) -> bytes:
    """The first bytes of base64 text; empty for anything else. Quotes and percent signs of forms are tolerated."""
    letters = text.partition(b"=")[2] if b"=" in text[:40] else text  # `image=iVBORw0…`, as forms send it
    letters = (
        letters.replace(b"%2F", b"/").replace(b"%2f", b"/").replace(b"%2B", b"+").replace(b"%2b", b"+").strip(b"\"' ")
    )
    try:
        return base64.b64decode(letters[:32], validate=True)
    except (binascii.Error, ValueError):
        return b""
