"""JPEG's own 1/2, 1/4, 1/8 decode of large pictures: what it saves, and what it does to the accuracy.

    CIFAR_DATA=data python -m benchmarks.scaled_decode

Every test image is enlarged to 480x480 in the middle of 640x480, saved as JPEG and classified twice: as the service
decodes it, and with the scaled decode switched off.
"""

import argparse
import io
import os
import sys
import time
import unittest.mock
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from models.card import TUTORIAL_NET
from models.checkpoint import load
from models.pixels import Pixels, decode


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaled_decode", description="Scaled JPEG decode.")
    parser.add_argument("--every", type=int, default=5, help="use one test image of so many (%(default)s)")
    options = parser.parse_args(argv)
    files = sorted(Path(os.environ.get("CIFAR_DATA", "data"), "test").glob("*/*"))[:: options.every]
    if not files:
        print("benchmarks.scaled_decode: no test images: name their folder in CIFAR_DATA", file=sys.stderr)
        return 1
    photographs = [enlarge(path) for path in files]
    with unittest.mock.patch("PIL.JpegImagePlugin.JpegImageFile.draft"):  # what Pillow calls the scaled decode
        full_ms, full = decode_all(photographs)
    scaled_ms, scaled = decode_all(photographs)
    _, original = decode_all([path.read_bytes() for path in files])
    kilobytes = sum(map(len, photographs)) / len(files) / 1e3
    print(f"{len(files):,} test images, enlarged to 640x480 JPEGs of {kilobytes:.0f} kB")
    ways = {"as they are": original, "full": full, "scaled": scaled}
    predicted = {name: classify(pixels) for name, pixels in ways.items()}
    for name, labels in predicted.items():
        right = sum(path.parent.name == label for path, label in zip(files, labels, strict=True))
        print(f"{name:12} {right / len(files):7.2%} right")
    differ = sum(one != other for one, other in zip(predicted["full"], predicted["scaled"], strict=True))
    print(f"decode and resize {full_ms:.2f} ms full, {scaled_ms:.2f} ms scaled; {differ} predictions differ")
    return 0


def enlarge(path: Path) -> bytes:
    """640x480, the test image in the square that the decoder cuts out, its surroundings the image stretched."""
    with Image.open(path) as image:
        picture = image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC)
        picture.paste(ImageOps.fit(image.convert("RGB"), (480, 480), Image.Resampling.BICUBIC), (80, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def decode_all(images: Sequence[bytes]) -> tuple[float, Pixels]:
    """Milliseconds an image, and all of them."""
    started = time.perf_counter()
    pixels = np.stack([decode(image, 32) for image in images])
    return (time.perf_counter() - started) / len(images) * 1e3, pixels


def classify(pixels: Pixels) -> list[str]:
    classifier = load(TUTORIAL_NET)
    with torch.inference_mode():
        predicted = torch.cat([classifier(part).argmax(dim=1) for part in torch.split(torch.tensor(pixels), 256)])
    return [classifier.card.classes[class_id] for class_id in predicted.tolist()]


if __name__ == "__main__":
    sys.exit(main())
