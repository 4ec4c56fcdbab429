"""Every picture that people send becomes the same 32×32 RGB pixels, or a clear refusal."""

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from models.pixels import ImageError, Pixels, decode
from tests.pictures import exif_with_a_damaged_tag

RED, BLUE = (220, 30, 40), (30, 40, 220)


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def two_halves(width: int = 64, height: int = 64) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def assert_about(pixels: Pixels, colour: tuple[int, int, int], tolerance: int = 12) -> None:
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance


def test_a_picture_of_the_right_size_passes_untouched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (decode(encode(Image.fromarray(noise)), 32) == noise).all()


def test_a_small_jpeg_is_what_pillow_decodes() -> None:
    jpeg = encode(two_halves(32, 32), "JPEG", quality=75)
    assert (decode(jpeg, 32) == np.asarray(Image.open(io.BytesIO(jpeg)))).all()


def test_a_cut_jpeg_of_the_right_size_is_refused() -> None:
    jpeg = encode(two_halves(32, 32), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        decode(jpeg[:-40], 32)


def test_a_small_jpeg_too_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    assert_about(decode(encode(two_halves(32, 32), "JPEG", exif=exif, quality=95), 32)[:, :12], BLUE)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_every_format_gives_the_same_picture(image_format: str) -> None:
    pixels = decode(encode(two_halves(), image_format), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert_about(pixels[:, :14], RED)
    assert_about(pixels[:, 18:], BLUE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("L", (40, 40), 255)
    converted = Image.fromarray(np.full((40, 40), 65535, np.uint16)) if mode == "I;16" else image.convert(mode)
    if mode == "I":
        converted = Image.fromarray(np.full((40, 40), 65535, np.int32))
    container = (
        "PNG" if mode in ("1", "L", "P", "LA", "RGBA", "I;16") else "JPEG" if mode in ("CMYK", "YCbCr") else "TIFF"
    )
    assert_about(decode(encode(converted, container), 32), (255, 255, 255), tolerance=3)


def test_fractions_of_grey_are_scaled() -> None:
    half = Image.fromarray(np.full((40, 40), 0.5, np.float32))
    assert_about(decode(encode(half, "TIFF"), 32), (127, 127, 127), tolerance=1)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    half = Image.fromarray(np.full((40, 40), 32768, np.uint16))
    assert_about(decode(encode(half), 32), (128, 128, 128), tolerance=1)
    dark = Image.fromarray(np.full((40, 40), 200, np.uint16))
    assert_about(decode(encode(dark), 32), (0, 0, 0), tolerance=1)


def test_what_is_no_number_is_black_and_spoils_nothing_else() -> None:
    grey = np.full((40, 40), 0.5, np.float32)
    grey[0, 0], grey[20:] = np.nan, -1
    assert_about(decode(encode(Image.fromarray(grey), "TIFF"), 32)[2:14], (127, 127, 127), tolerance=1)
    assert_about(decode(encode(Image.fromarray(grey), "TIFF"), 32)[18:], (0, 0, 0), tolerance=1)


def test_sixteen_bit_grey_that_is_transparent_lies_over_white() -> None:
    clear = Image.fromarray(np.full((40, 40), 16384, np.uint16))
    assert_about(decode(encode(clear, transparency=16384), 32), (255, 255, 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(mode: str) -> None:
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image = clear.convert(mode) if mode != "P" else clear.quantize()
    assert_about(decode(encode(image), 32), (255, 255, 255))


def test_a_photo_is_turned_upright_by_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left of the file is the top of the scene
    pixels = decode(encode(two_halves(), "JPEG", exif=exif, quality=95), 32)
    assert_about(pixels[:12], RED)
    assert_about(pixels[20:], BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does_whatever_else_the_exif_says(orientation: int) -> None:
    corners = Image.fromarray(np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3) * 20)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encode(corners, exif=exif)))))
    assert np.array_equal(decode(encode(corners, exif=exif_with_a_damaged_tag(orientation)), 2), expected)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
def test_exif_that_cannot_be_read_does_no_harm(image_format: str) -> None:
    picture = encode(two_halves(), image_format, exif=b"Exif\0\0garbage!garbage!", dpi=(72, 72))
    assert_about(decode(picture, 32)[:, :12], RED)


def test_a_ppm_of_comments_is_refused_before_pillow_goes_through_them() -> None:
    with pytest.raises(ImageError, match="more than 500 comments"):
        decode(b"P3 2 2 255\n" + b"#\n" * 501 + b"0 " * 12, 2)
    assert decode(b"P3 2 2 255\n" + b"#\n" * 500 + b"7 " * 12, 2).tolist() == [[[7] * 3] * 2] * 2


def test_the_centre_square_counts() -> None:
    wide = Image.new("RGB", (300, 100), BLUE)
    wide.paste(RED, (100, 0, 200, 100))
    assert_about(decode(encode(wide), 32)[:, 1:-1], RED)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, BLUE)]
    assert_about(decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), 32), RED)


def test_a_large_photo_scaled_by_the_jpeg_decoder_stays_the_same_picture() -> None:
    gradient = np.linspace(0, 255, 1600, dtype=np.uint8)
    photo = Image.fromarray(np.stack([np.tile(gradient, (1200, 1))] * 3, axis=2))
    scaled = decode(encode(photo, "JPEG", quality=95), 32)
    exact = decode(encode(photo), 32)
    assert np.abs(scaled.astype(int) - exact).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000), (31, 33)])
def test_pictures_of_extreme_sizes_are_decoded(size: tuple[int, int]) -> None:
    assert_about(decode(encode(Image.new("RGB", size, RED)), 32), RED, tolerance=1)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and ends there."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"hello, world", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (encode(two_halves(), "JPEG")[:-200], "corrupt_image"),
        (encode(two_halves())[:60], "corrupt_image"),
        (png_header(40_000, 40_000), "too_many_pixels"),
        (png_header(9_000, 9_000), "too_many_pixels"),
    ],
    ids=["empty", "text", "eps", "cut-jpeg", "cut-png", "bomb", "over-our-limit"],
)
def test_what_is_no_picture_is_refused_with_its_code(data: bytes, code: str) -> None:
    with pytest.raises(ImageError) as refusal:
        decode(data, 32)
    assert refusal.value.code == code
    assert refusal.value.detail


def test_too_little_memory_is_no_fault_of_the_image() -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 50_000_000, limits[1]))
    try:
        with pytest.raises(MemoryError):
            decode(png_header(7_900, 7_900), 32)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_real_images_pass_untouched(cifar_data: Path) -> None:
    for path in sorted((cifar_data / "test").glob("*/*"))[::10]:
        with Image.open(path) as image:
            assert (decode(path.read_bytes(), 32) == np.asarray(image)).all()
