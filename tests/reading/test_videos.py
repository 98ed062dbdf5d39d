from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import grey_face, write_tiny_model

from fer_deploy.detection import Box
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.reading.decode import Video
from fer_deploy.reading.inputs import Source
from fer_deploy.reading.outputs import Outputs
from fer_deploy.reading.pictures import FaceReader
from fer_deploy.reading.videos import Follower, FrameFaces, Remarks, read_frames, write_outputs
from fer_deploy.recognizer import Recognition, Recognizer

av = pytest.importorskip("av")


def face(label: str, box: Box | None = None) -> Recognition:
    return Recognition.from_row([float(name == label) for name in EMOTIONS], EMOTIONS, box=box)


def write_clip(path: Path, sizes: list[tuple[int, int]], *, shape: Fraction = Fraction(1)) -> Source:
    """A video with one grey frame of each size (height, width), 10 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.sample_aspect_ratio = *sizes[0], "yuv420p", shape
        for height, width in sizes:
            frame = av.VideoFrame.from_ndarray(grey_face("sad", height=height, width=width), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Source(path, Path(path.name))


def test_a_follower_gives_each_face_its_track_and_smooths_it() -> None:
    follower = Follower("a.mp4", 0.4)
    left, right = Box(0, 0, 40, 40), Box(100, 0, 140, 40)
    first = follower.rows(FrameFaces(0, 0.0, [face("sad", left), face("happy", right)]))
    second = follower.rows(FrameFaces(1, 0.04, [face("fear", right), face("sad", left)]))
    assert [(row.file, row.frame, row.time_s, row.track) for row in [*first, *second]] == [
        ("a.mp4", 0, 0.0, 1),
        ("a.mp4", 0, 0.0, 2),
        ("a.mp4", 1, 0.04, 2),
        ("a.mp4", 1, 0.04, 1),
    ]
    assert second[0].smoothed is not None
    assert (second[0].face.label, second[0].smoothed.label) == ("fear", "happy")


def test_faces_that_fill_their_frames_are_one_track() -> None:
    follower = Follower("a.mp4")
    assert [follower.rows(FrameFaces(n, n / 25, [face("sad")]))[0].track for n in range(3)] == [1, 1, 1]


def test_remarks_are_filled_after_the_last_frame(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", [(48, 64)] * 4, shape=Fraction(2))
    reader = FaceReader(Recognizer(write_tiny_model(tmp_path / "tiny.onnx")))
    remarks, progress = Remarks(), list[tuple[int, int | None]]()
    frames = read_frames(source.path, reader, remarks, every=2, start=0, on_frame=lambda *done: progress.append(done))
    assert [frame.number for frame in frames] == [0, 2]
    assert [done for done, _ in progress] == [1, 3]
    assert "are read at 128x48" in remarks.notes[0]
    assert remarks.loss is None


@pytest.mark.parametrize(("shape", "size"), [(Fraction(2), (48, 128)), (Fraction(1, 2), (96, 64))])
def test_a_copy_has_the_shape_that_players_show(tmp_path: Path, shape: Fraction, size: tuple[int, int]) -> None:
    source = write_clip(tmp_path / "a.mkv", [(48, 64)] * 3, shape=shape)
    write_outputs(source, [], Outputs(copy=tmp_path / "copy.mp4"), labels=EMOTIONS, every=1)
    with Video(tmp_path / "copy.mp4") as video:
        assert [frame.pixels.shape[:2] for frame in video.frames()] == [size] * 3
        assert video.notes() == []


def test_a_copy_of_frames_that_change_their_size_keeps_them_all(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_bytes(b"")
    parts = []
    for number, size in enumerate([(48, 64), (96, 128)]):
        write = tmp_path / f"{number}.ts"
        with av.open(str(write), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for position in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 200, np.uint8), format="rgb24")
                frame.pts, frame.time_base = 5 * number + position, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(write.read_bytes())
    path.write_bytes(b"".join(parts))
    with Video(path) as video:
        frames = list(video.frames())
        assert len({frame.pixels.shape for frame in frames}) == 2
        assert any("frames change from 64x48 to 128x96" in note for note in video.notes())
    write_outputs(Source(path, Path("a.ts")), [], Outputs(copy=tmp_path / "copy.mp4"), labels=EMOTIONS, every=1)
    with Video(tmp_path / "copy.mp4") as video:
        copied = list(video.frames())
    assert len(copied) == len(frames)
    assert {frame.pixels.shape for frame in copied} == {(48, 64, 3)}


def test_frames_between_those_that_were_read_show_the_last_boxes(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", [(96, 128)] * 6)
    rows = Follower("a.mp4").rows(FrameFaces(3, 0.3, [face("happy", Box(30, 30, 90, 90))]))
    write_outputs(source, rows, Outputs(copy=tmp_path / "copy.mp4"), labels=EMOTIONS, every=3)
    with Video(source.path) as video:
        originals = [frame.pixels.astype(int) for frame in video.frames()]
    with Video(tmp_path / "copy.mp4") as video:
        changed = [
            np.abs(frame.pixels - original).max() > 60
            for frame, original in zip(video.frames(), originals, strict=True)
        ]
    assert changed == [False] * 3 + [True] * 3


def test_a_plot_reports_how_many_faces_it_leaves_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = Source(tmp_path / "a.mp4", Path("a.mp4"))
    boxes = [Box(100 * number, 0, 100 * number + 40, 40) for number in range(8)]
    rows = Follower("a.mp4").rows(FrameFaces(0, 0.0, [face("sad", box) for box in boxes]))
    (note,) = write_outputs(source, rows, Outputs(plot=tmp_path / "plot.png"), labels=EMOTIONS, every=1)
    assert note.endswith("leaves out 2")
    assert Image.open(tmp_path / "plot.png").size[1] > 1000


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", [(48, 64)] * 2)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"file.*: cannot be written"):
        write_outputs(source, [], Outputs(copy=tmp_path / "file" / "copy.mp4"), labels=EMOTIONS, every=1)
