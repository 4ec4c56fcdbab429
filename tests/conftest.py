"""What tests share: pictures drawn on the spot, real data where CIFAR_DATA (default: data/) has it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

Draw = Callable[..., Path]


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


@pytest.fixture
def draw_folder(tmp_path: Path) -> Draw:
    """Call it for a folder of `per_class` PNGs of circles and of squares; with `splits`, one such pair under each."""

    def draw(name: str = "shapes", per_class: int = 12, splits: tuple[str, ...] = ()) -> Path:
        root = tmp_path / name
        for offset, split in enumerate(splits or ("",)):
            for shape in ("circle", "square"):
                folder = root / split / shape
                folder.mkdir(parents=True)
                for number in range(per_class):
                    draw_shape(shape, number + 1000 * offset).save(folder / f"{number:03}.png")
        return root

    return draw


@pytest.fixture(scope="session")
def cifar_data() -> Path:
    """The folder with all of CIFAR-10 as JPEG: train/<class>/*.jpg and test/<class>/*.jpg."""
    root = Path(os.environ.get("CIFAR_DATA", "data"))
    if not (root / "test" / "cat").is_dir():
        pytest.skip(f"no CIFAR-10 images in {root}: unpack them there or set CIFAR_DATA")
    return root.resolve()
