"""An encoded image becomes pixels: the one decoder that training, serving and evaluation share."""

import io
import math

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

# uint8 [..., H, W, 3], RGB, 0..255: the one image type that crosses the seams between our packages.
Pixels = npt.NDArray[np.uint8]

# Named, so that a file never reaches a Pillow plugin that starts another program (EPS starts Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of their files
MAX_PIXELS = 64_000_000
_MAX_JPEG_SCANS = 500  # a progressive JPEG has some 10; each goes over the whole picture, and can be 10 bytes
_MAX_COMMENTS = 500  # of a PPM in decimals: Pillow copies the rest of a block for each
_TURNS = {  # by EXIF orientation: what makes a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns, and is another: ours is judged by the same header


class ImageError(ValueError):
    """An image that cannot become pixels: `code` is stable and for programs, `detail` is a sentence for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def decode(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Encoded image → uint8 [size, size, 3], RGB, 0..255.

    A picture that is size × size RGB already passes untouched. Any other is turned upright by its EXIF
    orientation, laid over white where it is transparent, converted to RGB, and its centre square is resized with
    antialiasing. Of an animation the first frame counts.

    Raises ImageError: `empty`, `not_an_image`, `too_many_pixels` (judged by the header, before anything that large
    is allocated) or `corrupt_image`.
    """
    if not data:
        raise ImageError("empty", "the image is empty (0 bytes)")
    if data.startswith(b"\xff\xd8\xff") and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise ImageError("corrupt_image", f"the JPEG has more than {_MAX_JPEG_SCANS} scans")
    if data[:2] in (b"P1", b"P2", b"P3") and data.count(b"#") > _MAX_COMMENTS:
        raise ImageError("corrupt_image", f"the PPM has more than {_MAX_COMMENTS} comments")
    if (pixels := _decode_exact_jpeg(data, size)) is not None:
        return pixels
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if (count := _decoded_pixels(image)) > max_pixels:
                raise ImageError("too_many_pixels", f"the picture has {count:,} pixels; the limit is {max_pixels:,}")
            return np.asarray(_square_rgb(image, size))
    except (ImageError, MemoryError):  # the latter is no fault of the image
        raise
    except UnidentifiedImageError:
        raise ImageError(
            "not_an_image", f"not an image that we read ({', '.join(FORMATS)}), or cut off in its header"
        ) from None
    except Exception as error:  # Pillow's plugins answer damage with whatever their parser meets: struct.error, ...
        raise ImageError("corrupt_image", f"the image is truncated or damaged: {error}") from None


def _decode_exact_jpeg(data: bytes, size: int) -> Pixels | None:
    """A plain colour JPEG of just that size, bit for bit as Pillow decodes it at a fifth of the cost; else None."""
    # \xff\xe1 starts the segment where an EXIF or XMP orientation would stand; compressed data cannot hold it.
    if not data.startswith(b"\xff\xd8\xff") or b"\xff\xe1" in data:
        return None
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width, colour_space) != (size, size, "YCbCr"):
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # damaged: Pillow finds out how
        return None
    return pixels


def _decoded_pixels(image: Image.Image) -> int:
    """As the header says. The tiles of a TIFF may be larger than the picture, and are decoded whole."""
    pixels = image.width * image.height
    if isinstance(image, TiffImageFile):
        sides = (image.tag_v2.get(tag, 0) for tag in (TILEWIDTH, TILELENGTH))
        return max(pixels, math.prod(side if isinstance(side, int) else 0 for side in sides))
    return pixels


def _square_rgb(image: Image.Image, size: int) -> Image.Image:
    # JPEG can decode at 1/2, 1/4 or 1/8 for a fraction of the work; twice the size is left for the antialiasing.
    image.draft(None, (2 * size, 2 * size))
    rgb = _to_rgb(_upright(image))
    return rgb if rgb.size == (size, size) else ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)


def _upright(image: Image.Image) -> Image.Image:
    """As ImageOps.exif_transpose, which refuses good pictures where the EXIF or another tag in it is damaged."""
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # what Pillow's parser meets
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode[0] in "IF":  # grey of 16 bits, of 32, or in fractions: Pillow's own conversion clips it at 255
        grey = np.nan_to_num(np.asarray(image).astype(np.float32))
        wide = image.mode.startswith("I;16") or grey.max() > 255
        scale = 255 if image.mode == "F" and grey.max() <= 1 else 1 / 256 if wide else 1
        clear = grey == image.info.get("transparency", np.nan)  # a PNG's: the shade that is
        image = Image.fromarray(np.where(clear, 255, np.clip(grey * scale, 0, 255)).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
