from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_deploy.errors import DataError, UnavailableError
from fer_deploy.reading.decode import Video, load_av

av = pytest.importorskip("av")


def test_frames_come_with_their_numbers_and_times(clip: Path) -> None:
    with Video(clip) as video:
        assert (video.facts.width, video.facts.height, video.facts.frames) == (360, 240, 24)
        frames = list(video.frames())
    assert [frame.number for frame in frames] == list(range(24))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 12 for number in range(24)], abs=1e-3)
    assert {frame.pixels.shape for frame in frames} == {(240, 360, 3)}
    assert frames[0].pixels.dtype == np.uint8
    assert np.abs(frames[10].pixels.astype(int) - 60).max() < 12  # the frame without a face is as it was written


def test_some_frames_from_somewhere(clip: Path) -> None:
    with Video(clip) as video:
        assert [frame.number for frame in video.frames(every=5, start=6)] == [10, 15, 20]


def test_an_unknown_codec_is_reported(clip: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.mp4"
    content = clip.read_bytes()
    assert content.count(b"avc1") >= 1
    strange.write_bytes(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(DataError, match=r"strange.mp4: its video codec cannot be decoded here") as error:
        Video(strange)
    assert "NoneType" not in str(error.value)


class TestBadVideos:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "empty"),
            (b"hello, I am no video\n" * 50, "not a video"),
            (bytes(range(256)) * 40, "not a video"),
            (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n", "not a video"),
            (b"ffconcat version 1.0\nfile other.mp4\n", "not a video"),
        ],
    )
    def test_each_has_one_line(self, tmp_path: Path, content: bytes, words: str, capfd: pytest.CaptureFixture) -> None:
        path = tmp_path / "bad.mp4"
        path.write_bytes(content)

        def read() -> None:
            with Video(path) as video:
                list(video.frames())

        with pytest.raises(DataError) as caught:
            read()
        assert "bad.mp4: " in str(caught.value)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert capfd.readouterr().err == ""  # FFmpeg itself says nothing

    def test_a_playlist_does_not_open_other_files(self, tmp_path: Path, clip: Path) -> None:
        """A playlist in the clothes of a video could otherwise read any file, or any address."""
        (tmp_path / "other.mp4").write_bytes(clip.read_bytes())
        path = tmp_path / "list.mp4"
        path.write_text("ffconcat version 1.0\nfile other.mp4\n")
        with pytest.raises(DataError, match=r"list\.mp4: not a video in a format that is read here"):
            Video(path)

    def test_a_stream_s_description_does_not_listen_on_a_port(self, tmp_path: Path) -> None:
        """FFmpeg would wait for frames for ever, and for Ctrl-C as well: in a process that can be killed."""
        path = tmp_path / "sdp.mp4"
        lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0"]
        path.write_text("\n".join([*lines, "m=video 45678 RTP/AVP 96", "a=rtpmap:96 H264/90000", ""]))
        program = f"from pathlib import Path; from fer_deploy.reading.decode import Video; Video(Path({str(path)!r}))"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        assert "DataError: " in done.stderr
        assert "sdp.mp4: not a video in a format that is read here" in done.stderr

    @pytest.mark.parametrize(
        ("kind", "codec"),
        [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("flv", "flv")],
    )
    def test_containers_of_frames_are_read(self, tmp_path: Path, kind: str, codec: str) -> None:
        path = tmp_path / "video"
        with av.open(str(path), "w", format=kind) as container:
            stream = container.add_stream(codec, rate=25, width=64, height=64, pix_fmt="yuv420p")
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with Video(path) as video:
            assert len(list(video.frames())) == 10

    def test_sound_without_pictures(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(DataError, match="no video in this file"):
            Video(path)

    def test_a_video_cut_short_or_damaged_gives_what_it_has_or_a_line(self, tmp_path: Path, clip: Path) -> None:
        content = clip.read_bytes()
        generator = np.random.default_rng(2)
        path = tmp_path / "cut.mp4"
        for size in [len(content) * share // 10 for share in range(1, 10)]:
            path.write_bytes(content[:size])
            self._read(path)
        for _ in range(25):
            damaged = bytearray(content)
            for position in generator.integers(0, len(content), 40):
                damaged[position] = generator.integers(0, 256)
            path.write_bytes(bytes(damaged))
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            with Video(path) as video:
                assert sum(1 for _ in video.frames()) > 0
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017

    def test_pipes_folders_and_absent_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.mp4")
        for path, words in (
            (tmp_path / "pipe.mp4", "a named pipe, not a video"),
            (tmp_path, "a folder, not a video"),
            (tmp_path / "absent.mp4", "no such file"),
        ):
            with pytest.raises(DataError, match=words):
                Video(path)


def test_without_pyav_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UnavailableError, match=r"fer-deploy\[video\]"):
        load_av()
