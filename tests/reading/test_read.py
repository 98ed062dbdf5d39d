from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import grey_face, write_tiny_model

from fer_deploy.reading.inputs import find_inputs
from fer_deploy.reading.journal import Journal
from fer_deploy.reading.pictures import FaceReader
from fer_deploy.reading.read import Done, SourceReader
from fer_deploy.reading.rows import FaceRow
from fer_deploy.recognizer import Recognizer


@pytest.fixture
def recognizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recognizer:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Recognizer(write_tiny_model(tmp_path / "tiny.onnx"))


def read(recognizer: Recognizer, *words: str, journal: Journal | None = None) -> tuple[list[FaceRow], list[Done]]:
    faces = FaceReader(recognizer)
    steps = list(SourceReader(faces, faces, journal=journal).read(find_inputs(words).sources))
    return [step for step in steps if isinstance(step, FaceRow)], [step for step in steps if isinstance(step, Done)]


def test_a_bad_file_does_not_stop_the_others(recognizer: Recognizer) -> None:
    Image.fromarray(grey_face("sad")).save("a.png")
    Path("b.png").write_text("no picture")
    Image.fromarray(grey_face("happy")).save("c.png")
    rows, done = read(recognizer, ".")
    assert [(row.file, row.face.label) for row in rows] == [("a.png", "sad"), ("c.png", "happy")]
    assert [(step.faces, step.error) for step in done] == [
        (1, None),
        (0, "b.png: a text file, not a picture"),
        (1, None),
    ]


def test_a_resumed_run_repeats_rows_notes_and_counts(recognizer: Recognizer) -> None:
    frames = [Image.fromarray(grey_face(label)) for label in ("sad", "happy")]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    frames[0].save("b.jpg", exif=exif)
    journal = Journal(Path("out.partial"), {})
    first = read(recognizer, ".", journal=journal)
    journal.close()
    journal = Journal(Path("out.partial"), {})
    second = read(recognizer, ".", journal=journal)
    assert [row.face.as_dict() for row in second[0]] == [row.face.as_dict() for row in first[0]]
    assert [(step.notes, step.turned, step.resumed) for step in first[1]] == [
        (("a.gif: 2 frames or pages: only the first was read",), False, False),
        ((), True, False),
    ]
    assert [(step.notes, step.turned, step.resumed) for step in second[1]] == [
        (("a.gif: 2 frames or pages: only the first was read",), False, True),
        ((), True, True),
    ]


def test_a_resumed_run_repeats_what_a_video_lacks(recognizer: Recognizer) -> None:
    av = pytest.importorskip("av")
    with av.open("a.mp4", "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        generator = np.random.default_rng(0)
        for _ in range(20):
            pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    content = Path("a.mp4").read_bytes()
    Path("a.mp4").write_bytes(content[: len(content) * 7 // 10])
    journal = Journal(Path("out.partial"), {})
    rows, (done,) = read(recognizer, "a.mp4", journal=journal)
    assert 8 < len(rows) < 16
    assert done.error is not None
    assert "of 20 frames" in done.error
    again, (resumed,) = read(recognizer, "a.mp4", journal=journal)
    assert (len(again), resumed.error, resumed.notes, resumed.resumed) == (len(rows), done.error, done.notes, True)


def test_a_changed_file_is_read_again(recognizer: Recognizer) -> None:
    Image.fromarray(grey_face("sad")).save("a.png")
    journal = Journal(Path("out.partial"), {})
    read(recognizer, "a.png", journal=journal)
    Image.fromarray(grey_face("happy", height=70, width=50)).save("a.png")
    rows, (done,) = read(recognizer, "a.png", journal=journal)
    assert ([row.face.label for row in rows], done.resumed) == (["happy"], False)
