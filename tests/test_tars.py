"""Tar archives that claim more than they hold are refused at once; honest ones are read, however they end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fer_deploy import tars
from fer_deploy.tars import DAMAGE, members_of

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip
FILES = {"a.png": b"1" * 700, "folder/b.png": b"2" * 512, "c.png": b"", "d" * 150 + ".png": b"3" * 10_000}


def tar(files: dict[str, bytes], *, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = size, kind, pax or {}
    return member.tobuf(tarfile.GNU_FORMAT if pax is None else tarfile.PAX_FORMAT)


def read(content: bytes) -> dict[str, bytes]:
    read_files = {}
    for member, archive in members_of(io.BytesIO(content)):
        file = archive.extractfile(member)
        read_files[member.name] = b"" if file is None else file.read()
        if member.isreg() and len(read_files[member.name]) != member.size:
            raise tarfile.ReadError("cut short")
    return read_files


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """No archive here may take seconds: what is to be found are readers that go on for hours."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_honest_archives_are_read(pack: str, form: int) -> None:
    content = tar(FILES, form=form)
    assert read(PACKERS[pack](content)) == FILES
    without_end_mark = content.rstrip(b"\0")
    without_end_mark += bytes(-len(without_end_mark) % tarfile.BLOCKSIZE)
    assert read(PACKERS[pack](without_end_mark)) == FILES


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize(
    "claim",
    [
        header("a.png", 1 << 40),
        header("a.png", (1 << 63) - 1),
        header("a.png", 5000),
        header("a.txt", 1 << 40),
        header("a", 1 << 40, kind=tarfile.GNUTYPE_LONGNAME),
        header("a", 1 << 40, kind=tarfile.GNUTYPE_LONGLINK),
        header("a", 1 << 40, kind=tarfile.XHDTYPE),
        header("a", 1 << 40, kind=tarfile.XGLTYPE),
        header("a", 1 << 40, kind=tarfile.SOLARIS_XHDTYPE),
        header("a.png", 1 << 40, kind=tarfile.CONTTYPE),
        header("a.png", 1 << 40, kind=tarfile.GNUTYPE_SPARSE),
        header("a.png", 1 << 40, kind=b"9"),
        header("a.png", 3, pax={"size": str(1 << 40)}),
    ],
)  # fmt: skip
def test_claims_beyond_the_end_are_refused_at_once(pack: str, claim: bytes) -> None:
    good = tar({"first.png": b"1" * 100})[:1024]
    for more in (b"", bytes(1024), bytes(3000), tar(FILES)[:3000]):
        with pytest.raises(DAMAGE):
            assert "never" not in read(PACKERS[pack](good + claim + more))


def test_the_error_names_the_member_and_its_claim() -> None:
    content = header("huge.png", 1 << 40) + bytes(2000)
    with pytest.raises(tarfile.ReadError, match=r"huge\.png claims 1,099,511,627,776 bytes, more than the rest"):
        read(content)


@pytest.mark.parametrize("size", [-1, -512, -(1 << 40)])
def test_negative_sizes_are_refused(size: int) -> None:
    member = bytearray(header("a.png", 0))
    member[124:136] = b"\xff" + (size & ((1 << 88) - 1)).to_bytes(11, "big")
    member[148:156] = b" " * 8
    member[148:156] = b"%06o\0 " % sum(member)
    with pytest.raises(DAMAGE):
        read(bytes(member) + bytes(4096))


@pytest.mark.parametrize("pack", ["gzip", "bzip2", "xz"])
def test_archives_that_unpack_without_end_are_refused(pack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "RATIO_COUNTS_FROM", 1 << 20)
    bomb = PACKERS[pack](tar({"a.png": bytes(64 << 20)}))
    assert len(bomb) < 1 << 18
    with pytest.raises(tarfile.ReadError, match="unpacks to more than 100 times its size"):
        read(bomb)


def test_damage_anywhere_ends_the_reading() -> None:
    """Two hundred archives, each with a few changed bytes or cut short: an error or members, but never endless."""
    generator = np.random.default_rng(0)
    original = tar(FILES)
    for number in range(200):
        content = bytearray(original)
        for position in generator.integers(0, len(content), 3):
            content[position] = generator.integers(256)
        if number % 3 == 0:
            del content[int(generator.integers(len(content))) :]
        packed = [*PACKERS.values()][number % 2](bytes(content))
        try:
            read(packed)
        except DAMAGE:
            continue
