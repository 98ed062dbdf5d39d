"""Data sets: tables, archives around them, Parquet, and shards of pictures."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import polars
from face_bytes import FACE, table
from harness import changed_bytes, refuses_cleanly, search

from fer_deploy.faces.load import load_dataset
from fer_deploy.folders import LeftOut
from fer_deploy.pictures import read_picture
from fer_deploy.score.options import InputOptions
from fer_deploy.score.places import Place
from fer_deploy.score.sources.webdataset import WebDataset

WORDS = [b"\n", b",", b'"', b"emotion", b"pixels", b"Usage", b"Training", b"256 ", b"-1 ", b"\xef\xbb\xbf", b"9" * 400]


def packed(content: bytes, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("fer2013/fer2013.csv", content)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:
            member = tarfile.TarInfo("fer2013/fer2013.csv")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def load(content: bytes, name: str) -> None:
    path = Path(name)
    path.write_bytes(content)
    refuses_cleanly(lambda: load_dataset(path))


def test_tables() -> None:
    originals = [table(), table().replace(b"\n", b"\r\n"), table(header=b'"emotion"," Usage"," pixels"')]

    def check(content: bytes) -> None:
        load(content, "fer2013.csv")

    search(check, content=changed_bytes(originals, WORDS))


def test_archives() -> None:
    originals = [gzip.compress(table()), *(packed(table(), kind) for kind in ("zip", "gz", ""))]
    originals.append(packed(gzip.compress(table()), "zip"))

    def check(content: bytes) -> None:
        load(content, "fer2013.zip")

    search(check, content=changed_bytes(originals, [b"PK\x05\x06", b"PK\x01\x02", b"ustar", b"\x1f\x8b\x08"]))


def test_parquet() -> None:
    buffer = io.BytesIO()
    polars.DataFrame({"image": [FACE] * 14, "label": list(range(7)) * 2}).write_parquet(buffer)

    def check(content: bytes) -> None:
        load(content, "faces.parquet")

    search(check, content=changed_bytes([buffer.getvalue()], [b"PAR1"]))


def test_shards() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.jpg", "a.json", "b.png", "folder/c.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(FACE)
            archive.addfile(member, io.BytesIO(FACE))
    shards = [buffer.getvalue(), gzip.compress(buffer.getvalue())]
    path = Path("shard.tar")

    def check(content: bytes) -> None:
        path.write_bytes(content)

        def read() -> None:
            source = WebDataset(Place(str(path)), InputOptions(block_rows=2))
            for part in source.parts(LeftOut()):
                for block in source.blocks(part):
                    assert block.keys.num_rows == len(block.pictures)

        refuses_cleanly(read)

    words = [
        b"ustar",
        b"77777777777\0",
        b"\x80" + b"\xff" * 11,
        b"x\0",
        b"L\0",
        b"20 path=b.jpg\n",
        b"30 size=99999999\n",
    ]
    search(check, content=changed_bytes(shards, words))


def test_pictures() -> None:
    from PIL import Image

    originals = [FACE]
    for kind in ("JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)).save(buffer, kind)
        originals.append(buffer.getvalue())

    def check(content: bytes) -> None:
        def read() -> None:
            pixels = read_picture(content, name="fuzzed").pixels
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3

        refuses_cleanly(read)

    search(check, content=changed_bytes(originals, [b"Exif\0\0", b"\xff\xd9", b"IHDR", b"IDAT"]))
