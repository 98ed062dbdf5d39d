from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fer_deploy import pictures
from fer_deploy.errors import DataError
from fer_deploy.pictures import array_to_rgb, read_picture


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises `width` x `height` pixels and holds none of them."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    across = np.linspace(0, 255, width)[None, :, None]
    down = np.linspace(0, 255, height)[:, None, None]
    return np.concatenate([across + 0 * down, down + 0 * across, 255 - across + 0 * down], axis=2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    pixels = gradient()
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read_picture(encode(Image.fromarray(pixels), kind, **options))
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(picture.pixels, pixels)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "JPEG2000"])
def test_lossy_formats_keep_the_picture(kind: str) -> None:
    pixels = gradient()
    got = read_picture(encode(Image.fromarray(pixels), kind)).pixels.astype(int)
    assert np.abs(got - pixels).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = gradient()
    # The transposition that a camera applied when it stored the picture: the inverse of what the tag says.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(read_picture(content).pixels, upright)
    np.testing.assert_array_equal(read_picture(Image.open(io.BytesIO(content))).pixels, upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored() -> None:
    pixels = gradient()
    for exif in (
        b"Exif\x00\x00broken",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff",
    ):
        content = encode(Image.fromarray(pixels), "JPEG", exif=exif)
        assert read_picture(content).pixels.shape == pixels.shape


class TestKindsOfPixels:
    def test_sixteen_bits_are_scaled_and_not_clipped(self) -> None:
        wide = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
        content = encode(Image.fromarray(wide), "PNG")
        for source in (content, Image.open(io.BytesIO(content)), Image.fromarray(wide)):
            got = read_picture(source).pixels
            np.testing.assert_array_equal(got[:, :, 0], np.round(wide / 257).astype(np.uint8))
            np.testing.assert_array_equal(got[:, :, 0], got[:, :, 2])

    def test_more_than_sixteen_bits_are_refused(self) -> None:
        for image in (
            Image.fromarray(np.full((4, 4), 1_000_000, np.int32)),
            Image.fromarray(np.full((4, 4), 0.5, np.float32)),
        ):
            with pytest.raises(DataError, match="save it with 8 or 16 bits"):
                read_picture(encode(image, "TIFF"), name="a.tiff")

    def test_cmyk_becomes_rgb(self) -> None:
        image = Image.fromarray(gradient()).convert("CMYK")
        got = read_picture(encode(image, "JPEG", quality=95)).pixels.astype(int)
        assert np.abs(got - gradient()).mean() < 8

    @pytest.mark.parametrize(
        "mode", ["RGB", "RGBX", "RGBA", "RGBa", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr", "HSV"]
    )
    def test_images_of_every_mode_become_rgb(self, mode: str) -> None:
        image = Image.new("RGB", (9, 7), "white")
        steps = {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(mode, (mode,))
        for step in steps:
            image = image.convert(step)
        assert (read_picture(image).pixels == 255).all()

    def test_palettes_and_bits_become_rgb(self) -> None:
        white = Image.new("RGB", (9, 7), "white")
        for mode in ("P", "1", "L"):
            assert (read_picture(encode(white.convert(mode))).pixels == 255).all()

    def test_transparent_parts_become_white(self) -> None:
        for mode in ("RGBA", "LA"):
            assert (read_picture(encode(Image.new(mode, (5, 5)))).pixels == 255).all()
        palette = Image.new("P", (5, 5), 0)
        palette.info["transparency"] = 0
        assert (read_picture(encode(palette, "GIF", transparency=0)).pixels == 255).all()

    def test_the_first_frame_of_an_animation_is_read(self) -> None:
        frames = [Image.new("L", (8, 8), level) for level in (10, 100, 200)]
        for kind in ("GIF", "WEBP", "TIFF", "PNG"):
            options = {"lossless": True} if kind == "WEBP" else {}
            picture = read_picture(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
            assert picture.frames == 3
            assert (picture.pixels == 10).all()


class TestBadPictures:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "empty"),
            (b"hello, I am text\n", "a text file, not a picture"),
            ("Grüße, ".encode() * 200, "a text file, not a picture"),
            (b"%PDF-1.7 \x00\x01", "a PDF"),
            (b"PK\x03\x04\x00\x00", "a zip archive"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
            (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
            (bytes(range(256)), "not a picture"),
            (encode(Image.fromarray(gradient()), "JPEG")[:300], "damaged"),
            (encode(Image.fromarray(gradient()), "PNG")[:-40], "damaged or truncated"),
            (encode(Image.fromarray(gradient()), "TIFF")[:-40], "damaged"),
            (encode(Image.fromarray(gradient()), "WEBP")[:-40], "damaged"),
            (png_header(60_000, 60_000), "pixels"),
            (png_header(9_000, 9_000), "9000x9000 pixels, more than the 80,000,000"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_each_has_one_line_with_its_name(self, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "bad.jpg"
        path.write_bytes(content)
        for source in (path, content):
            with pytest.raises(DataError) as caught:
                read_picture(source, name=None if source == path else "bad.jpg")
            assert words in str(caught.value)
            assert "bad.jpg: " in str(caught.value)
            assert "\n" not in str(caught.value)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_any_damage_is_a_data_error(self) -> None:
        """Whatever bytes are hit, a picture or a DataError comes back."""
        generator = np.random.default_rng(5)
        for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
            good = encode(Image.fromarray(gradient(20, 20)), kind)
            for _ in range(60):
                bad = bytearray(good)
                for position in generator.integers(0, len(bad), 4):
                    bad[position] = generator.integers(0, 256)
                try:
                    read_picture(bytes(bad), maximum_pixels=1_000_000)
                except DataError as error:
                    assert "\n" not in str(error)  # noqa: PT017

    def test_limits_can_be_set(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(encode(Image.fromarray(gradient())))
        with pytest.raises(DataError, match="60x40 pixels, more than the 2,399"):
            read_picture(path, maximum_pixels=60 * 40 - 1)
        with pytest.raises(DataError, match="more than the 10 bytes that a picture may have"):
            read_picture(path, maximum_bytes=10)
        assert read_picture(path, maximum_pixels=60 * 40).pixels.shape == (40, 60, 3)


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg: a named pipe, not a picture"):
        read_picture(tmp_path / "pipe.jpg")


def test_arrays_are_checked_and_made_rgb() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    rgb = array_to_rgb(grey)
    assert rgb.shape == (3, 4, 3)
    assert rgb.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(rgb[:, :, 1], grey)
    np.testing.assert_array_equal(array_to_rgb(rgb[::-1, ::2]), rgb[::-1, ::2])


FACE = gradient(48, 48)
BLACK_TO_WHITE = np.linspace(0, 255, 48 * 48).reshape(48, 48).round().astype(np.uint8)
WIDE = BLACK_TO_WHITE.astype(np.float64)


class TestAdvice:
    """The remedy in the error, followed to the letter, gives the picture that the array shows."""

    @pytest.mark.parametrize(
        "array",
        [
            pytest.param(WIDE / 255, id="0 to 1"),
            pytest.param((WIDE / 255).astype(np.float16), id="half precision"),
            pytest.param(WIDE / 255 * 1.02 - 0.01, id="0 to 1, overshot"),
            pytest.param(WIDE / 127.5 - 1, id="-1 to 1"),
            pytest.param(WIDE.astype(np.float32), id="0 to 255"),
            pytest.param(WIDE * 1.02 - 2, id="0 to 255, overshot"),
            pytest.param(BLACK_TO_WHITE > 127, id="bool"),
            pytest.param(BLACK_TO_WHITE.astype(np.int64), id="int64"),
            pytest.param(BLACK_TO_WHITE.astype(np.uint16), id="uint16 of 8 bits"),
            pytest.param((WIDE * 1023 / 255).round().astype(np.uint16), id="10 bits"),
            pytest.param((WIDE * 4095 / 255).round().astype(np.uint16), id="12 bits"),
            pytest.param((WIDE * 16383 / 255).round().astype(np.int32), id="14 bits"),
            pytest.param(BLACK_TO_WHITE.astype(np.uint16) * 257, id="16 bits"),
            pytest.param(WIDE * 257, id="16 bits as float"),
            pytest.param((BLACK_TO_WHITE.astype(np.int16) - 128).astype(np.int8), id="int8"),
        ],
    )
    def test_the_remedy_gives_the_picture(self, array: np.ndarray) -> None:
        with pytest.raises(DataError) as caught:
            array_to_rgb(array)
        remedy = str(caught.value).partition("use ")[2]
        followed = array_to_rgb(eval(remedy, {"array": array}))[:, :, 0]
        wanted = (BLACK_TO_WHITE > 127) * 255 if array.dtype == bool else BLACK_TO_WHITE
        assert np.abs(followed.astype(int) - wanted).max() <= 3

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.full((9, 9), np.nan), "values that are not finite"),
            (np.full((9, 9), -np.inf), "values that are not finite"),
            (np.linspace(-2.1, 2.6, 81).reshape(9, 9), "from -2.1 to 2.6: undo their normalisation"),
            (np.full((9, 9), 3.5), "undo their normalisation"),
            (np.full((9, 9), -500, np.int16), "undo their normalisation"),
            (np.full((9, 9), 1 << 20), "undo their normalisation"),
            (np.zeros((9, 9), complex), "got complex128: numbers are needed"),
            (np.full((9, 9), "a"), "got <U1: numbers are needed"),
            (np.zeros((9, 9), "datetime64[s]"), "numbers are needed"),
            (np.zeros((0, 9), np.float32), "got float32"),
            (np.array([FACE, FACE[:9]], dtype=object), "give a list of arrays"),
        ],
    )
    def test_no_conversion_is_advised_if_the_scale_is_unknown(self, array: np.ndarray, words: str) -> None:
        with pytest.raises(DataError) as caught:
            array_to_rgb(array)
        assert words in str(caught.value)
        assert "use " not in str(caught.value)

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_channels_that_come_first_are_named(self, channels: int) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
        with pytest.raises(DataError, match="channels come first") as caught:
            array_to_rgb(picture.transpose(2, 0, 1))
        followed = eval(str(caught.value).partition("use ")[2], {"array": picture.transpose(2, 0, 1)})
        np.testing.assert_array_equal(followed, picture)

    def test_images_in_memory_get_advice_by_their_values(self) -> None:
        for image, words in (
            (Image.fromarray(BLACK_TO_WHITE.astype(np.int32)), r"from 0 to 255: use image\.convert\('L'\)"),
            (Image.fromarray((WIDE / 255).astype(np.float32)), r"use \(np\.asarray\(image\) \* 255\)"),
            (Image.fromarray(WIDE.astype(np.float32)), r"use np\.asarray\(image\)\.round\(\)"),
            (Image.fromarray(np.full((9, 9), 1 << 20, np.int32)), "undo their normalisation"),
        ):
            with pytest.raises(DataError, match=words):
                read_picture(image)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize(("bits", "is_noted"), [(8, True), (10, True), (12, True), (14, False), (16, False)])
    def test_a_16_bit_file_of_fewer_bits_has_a_note(self, kind: str, bits: int, is_noted: bool) -> None:
        samples = (WIDE * (2**bits - 1) / 255).round().astype(np.uint16)
        for source in (encode(Image.fromarray(samples), kind), Image.fromarray(samples)):
            notes = read_picture(source).notes
            assert ["less than a sixteenth of their range" in note for note in notes] == [True] * is_noted

    @pytest.mark.parametrize(("bits", "is_noted"), [(10, True), (12, True), (16, False)])
    def test_a_16_bit_colour_file_of_fewer_bits_has_a_note(self, bits: int, is_noted: bool) -> None:
        """Pillow cannot write such a file: the rows of a PNG are put together by hand."""

        def chunk(name: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        samples = (np.repeat(WIDE[:, :, None], 3, axis=2) * (2**bits - 1) / 255).round().astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in samples)
        header = struct.pack(">IIBBBBB", 48, 48, 16, 2, 0, 0, 0)
        content = (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        )
        for source in (content, Image.open(io.BytesIO(content))):
            picture = read_picture(source)
            assert len(picture.notes) == is_noted
            assert (picture.pixels[-1, -1] == min(255, 2**bits - 1 >> 8)).all()

    def test_a_black_16_bit_picture_is_black(self) -> None:
        assert read_picture(Image.fromarray(np.zeros((9, 9), np.uint16))).notes == ()


class TestOddJpegs:
    """As webcams, surveillance cameras and programs that cut their streams leave them."""

    @pytest.fixture(params=[{}, {"quality": 95, "subsampling": 0}, {"restart_marker_blocks": 3}], ids=str)
    def whole(self, request: pytest.FixtureRequest) -> bytes:
        noise = np.random.default_rng(0).integers(-20, 21, (43, 61, 3))
        return encode(
            Image.fromarray((gradient(43, 61) + noise).clip(0, 255).astype(np.uint8)), "JPEG", **request.param
        )

    @pytest.mark.parametrize("end", [b"", b"\xff", b"\x00" * 50, b"\r\n"])
    def test_without_its_end_marker_a_jpeg_is_read(self, whole: bytes, end: bytes) -> None:
        np.testing.assert_array_equal(read_picture(whole[:-2] + end).pixels, read_picture(whole).pixels)

    def test_without_any_of_its_pixels_it_is_refused(self, whole: bytes) -> None:
        start = whole.index(b"\xff\xda") + 14
        for length in range(start + 10, len(whole) - 6, 7):
            with pytest.raises(DataError, match="damaged or truncated"):
                read_picture(whole[:length])

    def test_a_progressive_one_without_its_end_marker_is_refused(self) -> None:
        """Whole scans could be missing, which no look at the rest can tell."""
        with pytest.raises(DataError, match="damaged or truncated"):
            read_picture(encode(Image.fromarray(FACE), "JPEG", progressive=True)[:-2])

    @pytest.mark.parametrize("breaks", [b"\n", b"\r\n", b"\r\n\r\n"])
    def test_line_breaks_before_it_are_skipped(self, whole: bytes, breaks: bytes) -> None:
        np.testing.assert_array_equal(read_picture(breaks + whole).pixels, read_picture(whole).pixels)
        with pytest.raises(DataError, match="not a picture"):
            read_picture(breaks + b"\x00\x01")

    def test_bytes_behind_it_are_ignored(self, whole: bytes) -> None:
        np.testing.assert_array_equal(read_picture(whole + b"\r\n--frame").pixels, read_picture(whole).pixels)


def test_a_colour_profile_is_kept_if_it_fits_the_pixels() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(FACE)
    assert read_picture(encode(image, "JPEG", icc_profile=profile)).icc_profile == profile
    assert read_picture(encode(image, "JPEG")).icc_profile is None
    grey = profile[:16] + b"GRAY" + profile[20:]
    assert read_picture(encode(image, "PNG", icc_profile=grey)).icc_profile is None


class TestBands:
    @pytest.fixture(params=[7, 2**18])
    def band(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pictures, "_BAND", request.param)

    @pytest.fixture
    def traced(self) -> Iterator[None]:
        tracemalloc.start()
        yield
        tracemalloc.stop()

    @pytest.mark.usefixtures("band")
    @pytest.mark.parametrize("size", [(1, 1), (1, 53), (53, 1), (13, 7), (31, 29)])
    def test_alpha_is_the_same_in_bands_and_at_once(self, size: tuple[int, int]) -> None:
        rgba = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
        for array in (rgba, rgba[::-1, ::2]):
            alpha = array[:, :, 3:].astype(np.int64)
            whole = (array[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
            np.testing.assert_array_equal(array_to_rgb(array), whole)
        np.testing.assert_array_equal(read_picture(encode(Image.fromarray(rgba))).pixels, array_to_rgb(rgba))

    @pytest.mark.usefixtures("band")
    def test_every_colour_under_every_alpha_and_every_16_bit_grey(self) -> None:
        colour, alpha = (axis.astype(np.uint8) for axis in np.indices((256, 256)))
        whole = (colour * alpha.astype(np.int64) + 255 * (255 - alpha.astype(np.int64)) + 127) // 255
        rgb = array_to_rgb(np.stack([colour, 255 - colour, colour, alpha], axis=2))
        np.testing.assert_array_equal(rgb[:, :, 0], whole)
        np.testing.assert_array_equal(rgb[:, :, 1], whole[::-1])
        wide = np.arange(65536, dtype=np.uint16).reshape(-1, 128)
        grey = read_picture(encode(Image.fromarray(wide))).pixels[:, :, 0]
        np.testing.assert_array_equal(grey, (wide.astype(np.int64) + 128) // 257)

    @pytest.mark.usefixtures("traced")
    @pytest.mark.parametrize("size", [(3000, 2000), (1, 6_000_000)])
    def test_transparency_takes_about_the_memory_of_the_picture(self, size: tuple[int, int]) -> None:
        rgba = np.zeros((*size, 4), np.uint8)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        array_to_rgb(rgba)
        assert tracemalloc.get_traced_memory()[1] - before < 1.5 * rgba.nbytes

    @pytest.mark.usefixtures("traced")
    def test_16_bit_grey_takes_a_few_times_the_memory_of_the_picture(self) -> None:
        image = Image.fromarray(np.zeros((3000, 2000), np.uint16))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        pixels = read_picture(image).pixels
        assert tracemalloc.get_traced_memory()[1] - before < 2.5 * pixels.nbytes


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    plain = encode(Image.fromarray(gradient()), "JPEG", progressive=True)
    last_scan = plain[plain.rfind(b"\xff\xda") : -2]
    assert 3 < plain.count(b"\xff\xda") < 20
    assert read_picture(plain[:-2] + last_scan * 5 + b"\xff\xd9").pixels.shape == gradient().shape
    for between in (b"", b"\xff\x01\xff\xff", b"\xff\xff\xfe\x00\x04\xff\xda"):
        with pytest.raises(DataError, match="more than 64 scans"):
            read_picture(plain[:-2] + (between + last_scan) * 100 + b"\xff\xd9")
    motion_photo = plain + b"\xff\xda\x00\x08" * 1000  # what follows the picture is not read
    np.testing.assert_array_equal(read_picture(motion_photo).pixels, read_picture(plain).pixels)
    remarks = plain[:2] + (b"\xff\xfe\xff\xff" + b"\xff\xda" * 32767)[:65537] + plain[2:]  # a comment of 64 kB
    np.testing.assert_array_equal(read_picture(remarks).pixels, read_picture(plain).pixels)


@pytest.mark.parametrize(("kind", "frames"), [("GIF", 300), ("TIFF", 256)])
def test_frames_are_counted_with_bounded_work(kind: str, frames: int) -> None:
    images = [Image.new("L", (1, 1), i % 2 * 255) for i in range(300)]
    picture = read_picture(encode(images[0], kind, save_all=True, append_images=images[1:]))
    assert picture.frames == frames
    assert picture.pixels.max() == 0, "the first is read"
