"""What tests share: pictures drawn on the spot, real data where CIFAR_DATA (default: data/) has it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it: test files run side by side, on a core each

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pictures import draw_shape

Draw = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded pictures go where pytest's other files go, those of the commands that tests start too."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


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
