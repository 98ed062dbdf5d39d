"""Videos as players show them: each odd file is compared with what ffprobe and ffmpeg make of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_deploy.errors import DataError
from fer_deploy.reading.decode import Frame, Video
from fer_deploy.reading.inputs import find_inputs

av = pytest.importorskip("av")

NEEDS_FFMPEG = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None,
    reason="ffmpeg and ffprobe are not installed (Debian: apt install ffmpeg)",
)
SCENE = ("-f", "lavfi", "-i", "testsrc2=s=176x144:r=25:d=0.8")
SOUND = ("-f", "lavfi", "-i", "sine=d=1.4")


def ffmpeg(*arguments: object) -> None:
    """Run ffmpeg; the test is skipped if this build lacks an encoder."""
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Unknown encoder" in done.stderr or "Error selecting an encoder" in done.stderr:
        pytest.skip(done.stderr.splitlines()[0])
    assert done.returncode == 0, done.stderr


def probe(path: Path) -> list[float | None]:
    """The times of all frames, as ffprobe decodes them; None where it knows none, as in streams without a container."""
    entries = ["-select_streams", "V:0", "-show_entries", "frame=best_effort_timestamp_time", "-of", "json"]
    done = subprocess.run(["ffprobe", "-v", "quiet", *entries, str(path)], capture_output=True, text=True, timeout=60)
    times = [frame.get("best_effort_timestamp_time") for frame in json.loads(done.stdout)["frames"]]
    return [None if time is None else float(time) for time in times]


def frames_of_ffmpeg(path: Path, height: int, width: int) -> np.ndarray:
    """The frames that ffmpeg shows, turned upright and scaled to square pixels."""
    arguments = ["-vf", f"scale={width}:{height}:flags=bilinear", "-vsync", "passthrough"]
    arguments += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:V:0", *arguments]
    content = subprocess.run(command, capture_output=True, timeout=60).stdout
    return np.frombuffer(content, np.uint8).reshape(-1, height, width, 3)


def read(path: Path) -> tuple[list[Frame], str | None, list[str]]:
    with Video(path) as video:
        return list(video.frames()), video.loss(), video.notes()


def check_as_players_show_it(path: Path) -> tuple[list[Frame], list[str]]:
    """Compare number, times and pictures of all frames; returns the frames and notes."""
    frames, loss, notes = read(path)
    times = probe(path)
    assert loss is None
    assert [frame.number for frame in frames] == list(range(len(times)))
    if times[0] is None:
        assert [frame.time_s for frame in frames] == pytest.approx([number / 25 for number in range(len(times))])
    else:
        known = [(frame.time_s, time - times[0]) for frame, time in zip(frames, times, strict=True) if time is not None]
        assert [ours for ours, _ in known] == pytest.approx([theirs for _, theirs in known], abs=0.002)
    expected = frames_of_ffmpeg(path, *frames[0].pixels.shape[:2])
    assert len(expected) == len(frames)
    for frame, picture in zip(frames, expected, strict=True):
        assert np.abs(frame.pixels.astype(int) - picture).mean() < 6  # a neighbouring frame of the scene: 12 and more
    return frames, notes


@NEEDS_FFMPEG
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.3gp", "-c:v h263"),
        ("a.asf", "-c:v msmpeg4"),
        ("b-frames.avi", "-c:v libx264 -bf 3"),
        ("raw.avi", "-c:v rawvideo -pix_fmt bgr24"),
        ("a.f4v", "-c:v libx264"),
        ("a.flv", "-c:v flv"),
        ("a.h264", "-c:v libx264 -bf 2"),
        ("a.hevc", "-c:v libx265 -x265-params log-level=error"),
        ("a.ivf", "-c:v libvpx"),
        ("a.m2ts", "-c:v libx264"),
        ("a.m2v", "-c:v mpeg2video"),
        ("a.m4v", "-c:v mpeg4 -f m4v"),
        ("ten-bit.mkv", "-c:v libx264 -pix_fmt yuv420p10le"),
        ("grey.mkv", "-c:v ffv1 -pix_fmt gray"),
        ("a.mj2", "-c:v jpeg2000 -f mov"),
        ("a.mjpeg", "-c:v mjpeg -pix_fmt yuvj420p"),
        ("prores.mov", "-c:v prores"),
        ("a.mpg", "-c:v mpeg1video"),
        ("fragments.mp4", "-c:v libx264 -g 10 -movflags frag_keyframe+empty_moov"),
        ("a.mxf", "-c:v mpeg2video"),
        ("a.nut", "-c:v ffv1"),
        ("a.ogv", "-c:v libtheora"),
        ("a.rm", "-c:v rv20"),
        ("interlaced.ts", "-c:v libx264 -flags +ildct+ilme -x264opts bff=1"),
        ("telecine.mpg", "-c:v mpeg2video -vf telecine -r 30000/1001"),
        ("a.vob", "-c:v mpeg2video -f vob"),
        ("alpha.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -pix_fmt yuva420p"),
        ("a.wmv", "-c:v wmv2"),
        ("a.wtv", "-c:v mpeg2video"),
        ("a.y4m", ""),
        ("late-sound.mkv", f"{' '.join(SOUND)} -c:v libx264"),
        ("late-start.ts", "-c:v libx264 -output_ts_offset 100"),
        ("uneven.mkv", "-c:v libx264 -vf setpts=PTS+0.5*mod(N\\,3)/25/TB -vsync passthrough"),
        ("pauses.mp4", "-c:v libx264 -vf select=not(mod(n\\,7))+lt(n\\,9) -vsync vfr"),
    ],
)
def test_every_container_and_codec(tmp_path: Path, name: str, options: str) -> None:
    path = tmp_path / name
    ffmpeg(*SCENE, *options.split(), path)
    _, notes = check_as_players_show_it(path)
    assert notes == []


@pytest.mark.parametrize("kind", ["mp4", "mov", "matroska", "avi", "mpegts", "flv", "ogg", "asf", "ivf", "mpeg", "mxf"])
def test_a_video_without_a_known_ending_is_known_by_its_first_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "video"
    codec = {"ogg": "libvpx", "ivf": "libvpx", "mpeg": "mpeg2video", "mxf": "mpeg2video"}.get(kind, "mpeg4")
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream({"flv": "flv"}.get(kind, codec), rate=25, width=64, height=48, pix_fmt="yuv420p")
        for level in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 50 * level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (source,) = find_inputs([path]).sources
    assert source.is_video


@pytest.mark.parametrize(
    "content", [b"", b"G", b"GIF89a", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"RIFF\0\0\0\0WEBPVP8 "]
)
def test_other_files_without_a_known_ending_are_no_videos(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    (source,) = find_inputs([tmp_path / "file"]).sources
    assert not source.is_video


@NEEDS_FFMPEG
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", "-c:v libx264 -vf setsar=16/11"),
        ("a.mp4", "-c:v libx264 -vf setsar=16/11"),
        ("a.avi", "-c:v mpeg4 -vf setsar=16/11"),
        ("a.mpg", "-c:v mpeg2video -aspect 16:9"),
        ("a.ts", "-c:v mpeg2video -aspect 16:9"),
        ("a.wmv", "-c:v wmv2 -vf setsar=16/11"),
        ("a.webm", "-c:v libvpx -vf setsar=16/11"),
    ],
)
def test_pixels_that_are_not_square(tmp_path: Path, name: str, options: str) -> None:
    path = tmp_path / name
    ffmpeg(*SCENE, *options.split(), path)
    frames, notes = check_as_players_show_it(path)
    assert frames[0].pixels.shape == (144, 256, 3)
    assert notes == [f"{path}: frames of 176x144 with pixels of shape 16:11 are read at 256x144"]


@NEEDS_FFMPEG
def test_narrow_pixels_make_the_picture_higher(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    ffmpeg(*SCENE, "-c:v", "libx264", "-vf", "setsar=8/9", path)
    frames, _ = check_as_players_show_it(path)
    assert frames[0].pixels.shape == (162, 176, 3)


def encode(
    path: Path, count: int = 10, *, size: tuple[int, int] = (64, 48), codec: str = "libx264", **more: Any
) -> None:
    """A video of noise that moves to the right by one pixel per frame, made with PyAV."""
    scene = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    with av.open(str(path), "w", options=more.pop("options", {})) as container:
        stream = container.add_stream(
            codec, rate=25, options=more.pop("codec_options", {"g": "5", "tune": "zerolatency"})
        )
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for name, value in more.items():
            setattr(stream, name, value)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(scene, number, 1)), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def with_matrix(source: Path, target: Path, **turn: Any) -> Path:
    """A copy of a video with another display matrix."""
    degrees = turn.pop("degrees", 0)
    with av.open(str(source)) as original, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(original.streams.video[0])
        stream.set_display_rotation(degrees, **turn)
        for packet in original.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    encode(path)
    return path


@NEEDS_FFMPEG
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flips", [{}, {"hflip": True}, {"vflip": True}])
def test_all_eight_orientations(plain: Path, tmp_path: Path, degrees: int, flips: dict[str, bool]) -> None:
    path = with_matrix(plain, tmp_path / "turned.mp4", degrees=degrees, **flips)
    frames, notes = check_as_players_show_it(path)
    assert frames[0].pixels.shape == ((64, 48, 3) if degrees in (90, 270) else (48, 64, 3))
    assert len(notes) == (1 if degrees or flips else 0)


@NEEDS_FFMPEG
def test_pixels_that_are_not_square_in_a_turned_video(tmp_path: Path) -> None:
    ffmpeg(*SCENE, "-c:v", "libx264", "-vf", "setsar=2", tmp_path / "wide.mp4")
    frames, notes = check_as_players_show_it(with_matrix(tmp_path / "wide.mp4", tmp_path / "turned.mp4", degrees=90))
    assert frames[0].pixels.shape == (352, 144, 3)
    assert len(notes) == 2


def test_a_mirrored_video_is_mirrored_and_not_turned(plain: Path, tmp_path: Path) -> None:
    original, mirrored = (read(path)[0] for path in (plain, with_matrix(plain, tmp_path / "m.mp4", hflip=True)))
    assert (mirrored[0].pixels == original[0].pixels[:, ::-1]).all()


def test_a_tilted_video_is_read_at_the_nearest_right_angle_and_noted(plain: Path, tmp_path: Path) -> None:
    frames, _, notes = read(with_matrix(plain, tmp_path / "tilted.mp4", degrees=30))
    assert frames[0].pixels.shape == (48, 64, 3)
    assert "tilted" in notes[0]


@pytest.mark.parametrize("shape", [Fraction(1, 40), Fraction(40, 1)])
def test_an_absurd_pixel_shape_is_ignored_and_noted(tmp_path: Path, shape: Fraction) -> None:
    path = tmp_path / "a.mkv"
    encode(path, sample_aspect_ratio=shape)
    frames, _, notes = read(path)
    assert frames[0].pixels.shape == (48, 64, 3)
    assert "read as square" in notes[0]


def two_videos(path: Path, *, default: int | None = None) -> Path:
    """Two streams: grey frames of 64x48, and white ones of 96x64."""
    with av.open(str(path), "w") as container:
        streams = []
        for size in ((64, 48), (96, 64)):
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            streams.append(stream)
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for stream, level in zip(streams, (100, 255), strict=True):
            for _ in range(5):
                pixels = np.full((stream.height, stream.width, 3), level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("default", "expected"), [(0, (48, 64, 3)), (1, (64, 96, 3)), (None, (64, 96, 3))])
def test_the_default_video_is_read_or_else_the_largest(tmp_path: Path, default: int | None, expected: tuple) -> None:
    path = two_videos(tmp_path / "two.mkv", default=default)
    frames, _, notes = read(path)
    assert (len(frames), frames[0].pixels.shape) == (5, expected)
    assert "2 videos in this file: only stream" in notes[0]


@NEEDS_FFMPEG
def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    ffmpeg(*SCENE, "-c:v", "libx264", tmp_path / "a.mp4")
    ffmpeg("-f", "lavfi", "-i", "color=red:s=320x240", "-frames:v", 1, tmp_path / "cover.png")
    path = tmp_path / "cover.mp4"
    inputs = ["-i", tmp_path / "cover.png", "-i", tmp_path / "a.mp4", "-map", 0, "-map", 1]
    ffmpeg(*inputs, "-c", "copy", "-disposition:v:0", "attached_pic", path)
    frames, notes = check_as_players_show_it(path)
    assert (len(frames), frames[0].pixels.shape, notes) == (20, (144, 176, 3), [])
    ffmpeg(
        "-i",
        tmp_path / "cover.png",
        *SOUND,
        "-map",
        0,
        "-map",
        1,
        "-c:v",
        "copy",
        "-disposition:v:0",
        "attached_pic",
        tmp_path / "song.m4a",
    )
    with pytest.raises(DataError, match="only a cover picture, no video in this file"):
        read(tmp_path / "song.m4a")


class TestDamage:
    """100 frames at 25 per second: the frames that remain after damage keep the numbers that fit their times."""

    def damaged(self, path: Path, change: str, **options: Any) -> tuple[list[Frame], str | None, list[str]]:
        encode(path, 100, size=(128, 128), **options)
        content = path.read_bytes()
        size = len(content)
        if change == "cut":
            content = content[: size * 6 // 10]
        else:
            content = content[: size // 3] + bytes(size // 2 - size // 3) + content[size // 2 :]
        path.write_bytes(content)
        return read(path)

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("a.mp4", {"options": {"movflags": "+faststart"}}, "ends after 58 of 100 frames, at 2.28 s"),
            ("a.mkv", {}, "ends at 2."),
            ("a.flv", {}, "ends at 2."),
            ("a.avi", {"codec": "mpeg4", "codec_options": {}}, "of 100 frames are missing"),
        ],
    )
    def test_cut_short(self, tmp_path: Path, name: str, options: dict[str, Any], words: str) -> None:
        frames, loss, _ = self.damaged(tmp_path / name, "cut", **options)
        assert 40 < len(frames) < 62
        assert [frame.number for frame in frames] == list(range(len(frames)))
        assert loss is not None
        assert words in loss
        assert loss.endswith("cut short or damaged")

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("a.mp4", {"options": {"movflags": "+faststart"}}),
            ("a.mkv", {}),
            ("a.flv", {}),
            ("a.ts", {}),
            ("a.mpg", {"codec": "mpeg2video", "codec_options": {"g": "5"}}),
            ("prores.mov", {"codec": "mpeg4", "codec_options": {"g": "1"}}),
        ],
    )
    def test_a_hole_in_the_middle(self, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
        frames, loss, notes = self.damaged(tmp_path / name, "hole", **options)
        assert [frame.number for frame in frames] == [round(25 * frame.time_s) for frame in frames]
        assert frames[-1].number == 99
        if len(frames) < 100:
            assert loss is not None
            assert f"{100 - len(frames)} of 100 frames cannot be decoded" in loss
        else:  # an MPEG-4 decoder fills the hole
            assert "with damaged parts" in notes[0]

    def test_what_was_noted_before_the_damage_is_kept(self, tmp_path: Path) -> None:
        _, loss, notes = self.damaged(tmp_path / "a.mkv", "cut", sample_aspect_ratio=Fraction(2))
        assert loss is not None
        assert "are read at 256x128" in notes[0]

    def test_a_video_can_be_read_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        whole, _, _ = self.damaged(path, "hole", options={"movflags": "+faststart"})
        with Video(path) as video:
            for _ in range(2):
                assert [frame.number for frame in video.frames()] == [frame.number for frame in whole]
                assert video.loss() is not None

    def test_an_mp4_file_without_its_index_is_named_as_such(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"its index \(moov\) is missing"):
            self.damaged(tmp_path / "a.mp4", "cut")

    def test_a_long_hole_does_not_end_the_video(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        encode(path, 300, size=(128, 128), options={"movflags": "+faststart"})
        content = path.read_bytes()
        size = len(content)
        path.write_bytes(content[: size // 5] + bytes(size * 3 // 5) + content[size * 4 // 5 :])
        frames, loss, _ = read(path)
        assert frames[-1].number == 299
        assert loss is not None
        assert f"{300 - len(frames)} of 300 frames cannot be decoded" in loss

    def test_joined_transport_streams(self, tmp_path: Path) -> None:
        encode(tmp_path / "a.ts", 20)
        path = tmp_path / "joined.ts"
        path.write_bytes((tmp_path / "a.ts").read_bytes() * 2)
        frames, loss, notes = read(path)
        assert [frame.time_s for frame in frames] == pytest.approx([number / 25 for number in range(40)], abs=1e-3)
        assert loss is None
        assert "its clock jumps once" in notes[0]

    def test_a_recording_that_starts_between_keyframes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ts"
        encode(path, 40, size=(128, 128), codec_options={"g": "10", "tune": "zerolatency"})
        content = path.read_bytes()
        path.write_bytes(content[len(content) // 5 // 188 * 188 :])
        frames, loss, notes = read(path)
        assert (frames[0].number, frames[0].time_s, loss) == (0, 0.0, None)
        assert "before the first keyframe" in notes[0]

    def test_reading_can_start_at_any_frame_with_the_same_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        whole, _, _ = self.damaged(path, "hole", options={"movflags": "+faststart"})
        with Video(path) as video:
            rest = [(frame.number, frame.time_s) for frame in video.frames(every=3, start=20)]
        assert rest == [(frame.number, frame.time_s) for frame in whole if frame.number >= 20 and frame.number % 3 == 0]
