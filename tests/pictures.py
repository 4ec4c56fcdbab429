"""Pictures drawn on the spot, two classes of them easy to tell apart."""

import colorsys
import io
import struct

from PIL import Image, ImageDraw


def draw_shape(shape: str, number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture of a `circle` or a `square`: each number another place and other colours, the classes easy to tell."""
    image = Image.new("RGB", size, (30 + number * 7 % 60, 40, 60 + number * 11 % 60))
    x, y = 4 + number * 5 % 16, 3 + number * 3 % 12
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((x, y, x + 22, y + 22), fill=(230, 120 + number % 50, 40))
    else:
        draw.rectangle((x, y, x + 22, y + 22), fill=(40, 130 + number % 50, 230))
    return image


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def draw_flat(class_id: int, number: int) -> Image.Image:
    """A picture all of one colour: of each of ten classes another hue, and each number another shade of it."""
    red, green, blue = colorsys.hsv_to_rgb(class_id / 10, 0.9, 0.6 + number % 12 / 30)
    return Image.new("RGB", (32, 32), (round(255 * red), round(255 * green), round(255 * blue)))


def exif_with_a_damaged_tag(orientation: int) -> bytes:
    """EXIF of that orientation, and a resolution that is text, which it must not be."""
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack("<HHI4s", 0x011A, 2, 3, b"72\0\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
