"""Archives: the table inside is found and read, and a damaged or malicious archive is refused in one line."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_deploy.errors import DataError
from fer_deploy.faces import containers
from fer_deploy.faces.containers import choose_known, kind_of, open_table
from fer_deploy.faces.source import source_errors

TABLE = b"emotion,pixels,Usage\n" + b"0,1 2 3,Training\n" * 40
GZIPPED = gzip.compress(TABLE, mtime=0)
"""Without the time of packing, so that test names are the same in every process."""


def content_of(path: Path) -> tuple[bytes, str]:
    with source_errors(path.name), open_table(path) as (stream, name):
        return stream.read(), name


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "called"),
    [
        ("fer2013.csv", TABLE, "fer2013.csv"),
        ("fer2013.csv.gz", GZIPPED, "fer2013.csv.gz"),
        ("fer2013.csv.zip", zipped({"fer2013.csv": TABLE}), "fer2013.csv.zip: fer2013.csv"),
        (
            "fer2013.tar.gz",
            tarred({"fer2013/README": b"x", "fer2013/fer2013.csv": TABLE}),
            "fer2013.tar.gz: fer2013/fer2013.csv",
        ),
        ("fer2013.tar", tarred({"fer2013/fer2013.csv": TABLE}, "w"), "fer2013.tar: fer2013/fer2013.csv"),
        ("other.tar.gz", tarred({"a.txt": b"x", "faces.csv": TABLE, "z.txt": b"x"}), "other.tar.gz: faces.csv"),
        ("other.tar", tarred({"a.txt": b"x", "faces.csv": TABLE, "z.txt": b"x"}, "w"), "other.tar: faces.csv"),
        (
            "kaggle.zip",
            zipped(
                {
                    "example_submission.csv": b"x",
                    "fer2013.tar.gz": tarred({"fer2013/fer2013.csv": TABLE}),
                    "test.csv": b"pixels\n",
                    "train.csv": b"emotion,pixels\n",
                }
            ),
            "kaggle.zip: fer2013.tar.gz: fer2013/fer2013.csv",
        ),
        (
            "kaggle.zip",
            zipped({"icml_face_data.csv": TABLE, "train.csv": b"", "test.csv": b""}),
            "kaggle.zip: icml_face_data.csv",
        ),
        ("packed.zip", zipped({"fer2013.csv.gz": GZIPPED}), "packed.zip: fer2013.csv.gz"),
        (
            "mac.zip",
            zipped({"__MACOSX/fer2013.csv": b"x", "a/._fer2013.csv": b"x", "a/faces.csv": TABLE}),
            "mac.zip: a/faces.csv",
        ),
        (
            "both.zip",
            zipped({"deep/er/fer2013.csv": b"x", "fer2013.csv": TABLE, "fer2013new.csv": b"x"}),
            "both.zip: fer2013.csv",
        ),
        ("misnamed.csv", GZIPPED, "misnamed.csv"),
    ],
)
def test_the_table_is_found(tmp_path: Path, name: str, content: bytes, called: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert content_of(tmp_path / name) == (TABLE, called)


def encrypted_zip() -> bytes:
    content = bytearray(zipped({"fer2013.csv": TABLE}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return bytes(content)


def broken_zip() -> bytes:
    content = bytearray(zipped({"fer2013.csv": TABLE}, zipfile.ZIP_STORED))
    content[content.index(b"1 2 3")] = ord("9")
    return bytes(content)


def broken_gzip() -> bytes:
    content = bytearray(GZIPPED)
    content[-6] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv.gz",
            GZIPPED[:-20],
            "a.csv.gz ends in the middle of its packed data: it is cut short",
        ),
        ("a.csv.gz", broken_gzip(), "a.csv.gz is a damaged archive"),
        (
            "a.tar.gz",
            tarred({"fer2013.csv": TABLE * 50})[:-60],
            "a.tar.gz ends in the middle|a.tar.gz is a damaged archive",
        ),
        ("a.zip", zipped({"fer2013.csv": TABLE})[:-30], "a.zip is a damaged archive"),
        ("a.zip", broken_zip(), "a.zip is a damaged archive: .*CRC"),
        ("a.zip", encrypted_zip(), "a.zip is encrypted: unpack it yourself"),
        ("a.zip", zipped({}), "a.zip holds no table of faces"),
        ("a.zip", zipped({"notes.txt": b"x"}), "a.zip holds no table of faces"),
        ("a.zip", zipped({"fer2013new.csv": b"x", "example_submission.csv": b"x"}), "a.zip holds no table of faces"),
        ("a.zip", zipped({"one.csv": TABLE, "two.csv": TABLE}), r"a.zip holds several data sets \(one.csv, two.csv\)"),
        ("a.zip", zipped({"fer2013.zip": zipped({"fer2013.csv": TABLE})}), "an archive inside an archive: unpack it"),
        ("a.tar.gz", tarred({"notes.txt": b"x"}), "a.tar.gz holds no table of faces"),
        ("a.xz", b"\xfd7zXZ\0\0\0", "a.xz is packed with xz"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "a.7z is packed with 7-Zip"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "a.csv is a picture"),
        ("a.csv", b"\x7fELF\0\0\0", "a.csv is neither a table nor an archive"),
        ("a.csv", b"", "a.csv is empty"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        content_of(tmp_path / name)
    assert "\n" not in str(caught.value)


def lying_zip() -> bytes:
    """Its directory says 100 bytes; what it unpacks to has a mebibyte."""
    content = bytearray(zipped({"fer2013.csv": b"0" * (1 << 20)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 100)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        lambda zeros: gzip.compress(zeros, mtime=0),
        lambda zeros: zipped({"fer2013.csv": zeros}),
        lambda zeros: tarred({"fer2013.csv": zeros}),
        lambda zeros: tarred({"junk.bin": zeros, "fer2013.csv": TABLE}),
        lambda zeros: zipped({"fer2013.tar.gz": tarred({"fer2013.csv": zeros})}),
    ],
    ids=["gz", "zip", "tar.gz", "beside the table", "tar.gz in zip"],
)
@pytest.mark.parametrize("limit", ["LARGEST_UNPACKED", "_RATIO_COUNTS_FROM"])
def test_bombs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Callable[[bytes], bytes], limit: str
) -> None:
    """Four mebibytes of zeros against limits of one: the same as gigabytes against the real ones."""
    monkeypatch.setattr(containers, limit, 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(content(b"0" * (4 << 20)))
    with pytest.raises(DataError, match=r"unpacks to (more than|over 50 times its size)"):
        content_of(path)


def test_a_zip_that_lies_about_its_size_gives_no_more_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "lying.zip"
    path.write_bytes(lying_zip())
    with pytest.raises(DataError, match="damaged archive"):
        content_of(path)


def test_a_real_table_is_far_from_the_limits() -> None:
    containers.refuse_bomb(301_050_559, 97_000_000, "fer2013.csv.gz")
    containers.refuse_bomb(containers.LARGEST_UNPACKED, containers.LARGEST_UNPACKED // 50 + 1, "large.gz")
    with pytest.raises(DataError):
        containers.refuse_bomb(containers.LARGEST_UNPACKED + 1, containers.LARGEST_UNPACKED, "large.gz")


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("fer2013.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    (tmp_path / "a.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="holds no table"):
        content_of(tmp_path / "a.tar.gz")


def test_known_names_are_preferred_in_their_order_and_near_the_top() -> None:
    assert choose_known(["x/icml_face_data.csv", "y/z/FER2013.csv"]) == "y/z/FER2013.csv"
    assert choose_known(["b/fer2013.csv", "a/a/fer2013.csv"]) == "b/fer2013.csv"
    assert choose_known(["fer2013.tar.gz", "icml_face_data.csv"]) == "icml_face_data.csv"
    assert choose_known(["train.csv", ".fer2013.csv", ".hidden/fer2013.csv"]) is None


def test_a_file_is_known_by_its_content() -> None:
    assert kind_of(b"") == "empty"
    assert kind_of(gzip.compress(b"x", mtime=0)) == "gzip"
    assert kind_of(tarred({"a": b"x"}, "w")[:512]) == "tar"
    assert kind_of(b"PAR1....") == "parquet"
    assert kind_of(b"emotion,pixels") == "table"
