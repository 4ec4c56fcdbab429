"""Folders of images that cannot be trained on, and what is said of each."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training.data import load_folder
from training.errors import TrainingError

Draw = Callable[..., Path]


def refusal(root: Path) -> str:
    """What load_folder says about a folder that it refuses: one line."""
    with pytest.raises(TrainingError) as caught:
        load_folder(root, 32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == f"there is no folder {tmp_path / 'nowhere'}"


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat.jpg").touch()
    assert f"there are no images in {tmp_path}" in refusal(tmp_path)


def test_the_tutorials_own_data_folder_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert refusal(tmp_path).endswith(
        "has CIFAR-10 as torchvision keeps it, not as images: without --data it is read from ./data"
    )


def test_a_train_part_without_a_test_part_is_refused(draw_folder: Draw) -> None:
    root = draw_folder(splits=("train", "val"))
    assert f"none called test: put the test images into {root / 'test'}" in refusal(root)


def test_a_class_name_that_no_card_can_hold_is_refused(draw_folder: Draw) -> None:
    root = draw_folder()
    (root / "circle").rename(root / "caf\udce9")
    assert refusal(root).endswith(r"is not UTF-8: rename 'caf\udce9'")


def test_more_classes_than_a_card_has_room_for_are_refused(tmp_path: Path) -> None:
    for number in range(2001):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.png").touch()
    assert refusal(tmp_path).endswith("has 2,001 classes, and a model card has room for 2,000")


def test_a_single_class_is_refused(draw_folder: Draw) -> None:
    root = draw_folder()
    shutil.rmtree(root / "square")
    assert "has only one class, circle" in refusal(root)


def test_a_class_without_images_is_refused(draw_folder: Draw) -> None:
    root = draw_folder()
    (root / "triangle").mkdir()
    assert "fill or remove triangle" in refusal(root)


@pytest.mark.parametrize("lacking", ["train", "test"])
def test_a_class_that_only_one_part_has_is_refused(draw_folder: Draw, lacking: str) -> None:
    root = draw_folder(splits=("train", "test"))
    for part in ("train", "test"):
        shutil.copytree(root / part / "square", root / part / "triangle")
    shutil.rmtree(root / lacking / "triangle")
    assert "only one has: triangle" in refusal(root)


def test_a_class_with_too_few_images_to_split_is_refused(draw_folder: Draw) -> None:
    root = draw_folder(per_class=3)
    (root / "lonely").mkdir()
    Image.new("RGB", (8, 8), "red").save(root / "lonely" / "1.png")
    shutil.copy(root / "lonely" / "1.png", root / "lonely" / "2.png")
    assert refusal(root).endswith("too few distinct images: add some to lonely")


def test_unreadable_images_are_counted_and_the_first_twenty_of_each_reason_named(draw_folder: Draw) -> None:
    root = draw_folder(per_class=24)
    for number in range(23):
        (root / "circle" / f"{number:03}.png").write_bytes(b"" if number else b"text")
    (root / "square" / "000.png").write_bytes((root / "square" / "000.png").read_bytes()[:80])
    sentence = refusal(root)
    assert sentence.startswith(f"24 of the 48 images in {root} cannot be read: circle/000.png (not an image")
    assert "; circle/001.png; circle/002.png; " in sentence
    assert "; circle/020.png and 2 more (the image is empty" in sentence
    assert "; square/000.png (" in sentence
    assert sentence.endswith("). Remove or repair them")


def test_a_link_to_nowhere_is_named(draw_folder: Draw) -> None:
    root = draw_folder()
    load_folder(root, 32)
    (root / "circle" / "link.png").symlink_to("nowhere.png")
    assert "circle/link.png (No such file or directory)" in refusal(root)


def test_training_on_test_images_is_refused(draw_folder: Draw) -> None:
    root = draw_folder(per_class=8, splits=("train", "test"))
    for number in range(4):
        shutil.copy(root / "train" / "circle" / f"00{number}.png", root / "test" / "square" / f"leak{number}.png")
    sentence = refusal(root)
    assert "4 of 20 are training images too" in sentence
    assert "test/square/leak0.png is train/circle/000.png" in sentence
    assert "leak3" not in sentence
