"""Small data sets of faces that the tiny model reads."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_model import grey_face, tiny_model, write_tiny_model

from fer_deploy import EMOTIONS, Recognizer


def encoded(label: str, kind: str = "PNG", *, height: int = 48, width: int = 48) -> bytes:
    """A picture that the tiny model reads as `label`."""
    buffer = io.BytesIO()
    Image.fromarray(grey_face(label, height=height, width=width)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {label: encoded(label) for label in EMOTIONS}


def some_labels(count: int, *, seed: int = 0) -> list[str]:
    return [EMOTIONS[i] for i in np.random.default_rng(seed).integers(0, 7, count)]


def write_parquet(path: Path, labels: Sequence[str], *, group_rows: int = 100, first: int = 0) -> None:
    """A file of encoded pictures, each with its label and a number that no other row has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "image": pa.array([PICTURES[label] for label in labels], pa.binary()),
            "label": list(labels),
            "number": range(first, first + len(labels)),
        }
    )
    pq.write_table(table, path, row_group_size=group_rows)


def read_output(folder: Path) -> pa.Table:
    """All rows of an output in the order of its parts."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


@pytest.fixture(scope="session")
def recognizer() -> Recognizer:
    return Recognizer(tiny_model(), threads=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.onnx")


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The address of a bucket on an S3 server of this machine, with a place for the path: `.format("path")`."""
    program = os.environ.get("MOTO_SERVER") or str(Path(sys.executable).with_name("moto_server"))
    if not Path(program).exists():
        pytest.skip("there is no S3 server: pip install 'moto[server]>=5.2', or name its program in $MOTO_SERVER")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = subprocess.DEVNULL
    with subprocess.Popen([program, "-p", str(port)], stdout=quiet, stderr=quiet) as server:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        options = f"scheme=http&endpoint_override=127.0.0.1:{port}&allow_bucket_creation=true&region=us-east-1"
        address = f"s3://user:secret@bucket/{{}}?{options}"
        filesystem, _path = pyarrow.fs.FileSystem.from_uri(address.format("x"))
        filesystem.create_dir("bucket")
        yield address
        server.terminate()
