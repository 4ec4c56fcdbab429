"""A folder is decoded once, and again when anything in it has changed."""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from models.card import ModelCard
from models.classifier import Classifier
from tests.pictures import draw_shape
from training import cache, folder
from training.errors import TrainingError
from training.evaluation import evaluate
from training.folder import list_images, read_images
from training.loop import Examples, train
from training.recipe import TUTORIAL

Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifar-service"


def read(root: Path) -> tuple[torch.Tensor, list[str]]:
    return read_images(root, list_images(root).images, 32)


def refuse_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_again(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(folder, "read_on_all_cores", decode_again)


def test_the_second_time_nothing_is_decoded(draw_folder: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_folder()
    pixels, digests = read(root)
    refuse_to_decode(monkeypatch)
    again, digests_again = read(root)
    assert torch.equal(pixels, again)
    assert digests == digests_again


def test_a_changed_file_is_seen_though_size_and_time_are_the_same(draw_folder: Draw, cache_folder: Path) -> None:
    root = draw_folder()
    before, _ = read(root)
    path = root / "circle" / "000.png"
    stat, content = path.stat(), path.read_bytes()
    draw_shape("square", 7).save(path)
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after, _ = read(root)
    assert torch.equal(before[0], after[0]) is False
    assert torch.equal(before[1:], after[1:])
    assert len(list(cache_folder.iterdir())) == 1, "what it held before is gone"


def test_two_runs_may_decode_a_folder_at_once(draw_folder: Draw, cache_folder: Path) -> None:
    root = draw_folder()
    names = list_images(root).images

    def decode(records: cache.Records) -> None:
        records["pixels"] = 7

    def meanwhile_another_does(records: cache.Records) -> None:
        decode(records)
        cache.cached(root, names, 32, decode)

    assert (cache.cached(root, names, 32, meanwhile_another_does)["pixels"] == 7).all()
    assert len(list(cache_folder.iterdir())) == 1


def sparse_records(path: Path, count: int) -> Path:
    """A cache of so many black pictures, of which nothing is on the disk."""
    record = np.dtype([("pixels", np.uint8, (32, 32, 3)), ("digest", "V32")])
    np.lib.format.open_memmap(path, "w+", record, (count,))
    return path


def test_a_folder_larger_than_memory_is_mapped(draw_folder: Draw, cache_folder: Path) -> None:
    def refuse_to_fill(_: cache.Records) -> None:
        raise AssertionError("decoded again")

    root = draw_folder()
    read(root)
    (path,) = cache_folder.iterdir()
    path.unlink()
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    sparse_records(path, 2 * memory // 3104)
    pixels = cache.cached(root, list_images(root).images, 32, refuse_to_fill)["pixels"]
    assert pixels.nbytes > memory
    assert not pixels[-1].any()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_takes_no_memory_for_pictures_that_lie_on_the_disk(tmp_path: Path) -> None:
    def anonymous_megabytes() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) // 1000

    count = 200_000
    with warnings.catch_warnings(action="ignore"):
        pixels = torch.from_numpy(np.load(sparse_records(tmp_path / "many.npy", count), mmap_mode="r")["pixels"])
    small = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))  # which takes little memory, and little time
    classifier = Classifier(small, ModelCard())
    examples = Examples(pixels, torch.zeros(count, dtype=torch.int64), torch.arange(0, count, 8))
    before, most = anonymous_megabytes(), 0

    def look(*_: object) -> None:
        nonlocal most
        most = max(most, anonymous_megabytes() - before)

    train(classifier, examples, replace(TUTORIAL, epochs=1, batch_size=400, report_every=10), 0, on_loss=look)
    evaluate(classifier, pixels, torch.arange(count) % 10, torch.arange(0, count, 7), "black")
    look()
    assert most < 70, f"{most} MB more for {pixels.nbytes // 10**6} MB of pictures"


def test_pictures_of_another_size_have_a_file_of_their_own(draw_folder: Draw) -> None:
    root = draw_folder()
    assert read(root)[0].shape[1:] == (32, 32, 3)
    assert read_images(root, list_images(root).images, 16)[0].shape[1:] == (16, 16, 3)


def test_a_damaged_cache_is_made_anew(draw_folder: Draw, cache_folder: Path) -> None:
    root = draw_folder()
    pixels = read(root)[0].clone()  # a file that is mapped into memory must not shrink
    (path,) = cache_folder.iterdir()
    for kept in (1000, 0):
        path.write_bytes(path.read_bytes()[:kept])
        assert torch.equal(pixels, read(root)[0])


def test_a_picture_that_cannot_be_read_leaves_no_cache(draw_folder: Draw, cache_folder: Path) -> None:
    root = draw_folder()
    (root / "circle" / "bad.png").write_bytes(b"text")
    with pytest.raises(TrainingError, match=r"bad\.png"):
        read(root)
    assert list(cache_folder.iterdir()) == []


def test_without_room_for_a_cache_the_pictures_are_held_in_memory(
    draw_folder: Draw, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert len(read(draw_folder())[0]) == 24
    assert list(cache_folder.iterdir()) == []


def test_a_home_that_may_not_be_written_to_is_no_obstacle(
    draw_folder: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(read(draw_folder())[0]) == 24
    assert "(Not a directory): memory holds them, for this run alone" in capsys.readouterr().out


def test_a_user_without_a_home_is_no_obstacle(
    draw_folder: Draw, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    assert len(read(draw_folder())[0]) == 24
    assert (
        "cannot be kept in /dev/null/.cache/cifar-service (Not a directory): memory holds them"
        in capsys.readouterr().out
    )


def test_more_than_disk_and_memory_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        TrainingError, match=r"images, 10066.3 GB, cannot be kept in .* nor in memory: make room, or name"
    ):
        cache.cached(tmp_path, ["missing"] * 200_000, 4096, fill=lambda records: None)
