"""What tests share: pictures drawn on the spot, real data where CIFAR_DATA (default: data/) has it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it: test files run side by side, on a core each
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process that tests start compiles all of our sources again

import hashlib
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import draw_shape

sys.dont_write_bytecode = False  # which this process took from there when it began

Draw = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded pictures go where pytest's other files go, those of the commands that tests start too."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("UV_CACHE_DIR", f"{caches}/uv")  # but uv's, lest `make sbom` fetch and unpack its tool again
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def heeds_signals() -> None:
    """In the background of a script SIGINT is ignored, under nohup SIGHUP, and would be so in all that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


@pytest.fixture
def cifar10_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 as it is published, but for its 60 pictures of noise and hence for its checksums."""
    from torchvision.datasets import CIFAR10

    random = np.random.default_rng(0)
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def write_batch(name: str) -> list[str]:
        pixels = random.integers(0, 256, (10, 3 * 32 * 32), np.uint8)
        return write(name, {"data": pixels, "labels": list(range(10)), "batch_label": name, "filenames": []})

    monkeypatch.setattr(CIFAR10, "train_list", [write_batch(f"data_batch_{number}") for number in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write_batch("test_batch")])
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = CIFAR10.meta | {"md5": write("batches.meta", {"label_names": names})[1]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return tmp_path
