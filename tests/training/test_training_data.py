"""How images are read, from folders and from CIFAR-10 as it is published."""

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import data as data_module
from training.data import load_cifar10, load_folder, split_validation
from training.errors import TrainingError

Draw = Callable[..., Path]


def test_a_folder_with_train_and_test_keeps_its_parts(draw_folder: Draw) -> None:
    root = draw_folder(per_class=3, splits=("train", "test"))
    data = load_folder(root, 32)
    assert (data.name, data.classes, data.split_here) == ("shapes", ("circle", "square"), False)
    assert data.pixels[data.train].shape == data.pixels[data.test].shape == (6, 32, 32, 3)
    assert data.pixels[data.train].dtype == torch.uint8
    assert data.labels[data.train].tolist() == data.labels[data.test].tolist() == [0, 0, 0, 1, 1, 1]
    assert data.labels[data.train].dtype == torch.int64
    assert data.test_files == tuple(f"test/{name}/00{n}.png" for name in ("circle", "square") for n in range(3))


def test_a_picture_of_the_networks_size_arrives_untouched(draw_folder: Draw) -> None:
    root = draw_folder(per_class=2)
    exact = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(exact).save(root / "circle" / "000.png")
    data = load_folder(root, 32)
    everything = data.pixels
    assert any(torch.equal(picture, torch.from_numpy(exact)) for picture in everything)


def test_without_a_test_part_a_fifth_of_each_class_is_held_out(draw_folder: Draw) -> None:
    data = load_folder(draw_folder(per_class=20), 32)
    assert data.split_here
    assert data.labels[data.train].tolist() == [0] * 16 + [1] * 16
    assert data.labels[data.test].tolist() == [0] * 4 + [1] * 4
    assert list(data.test_files) == sorted(data.test_files)
    assert [name.split("/")[0] for name in data.test_files] == ["circle"] * 4 + ["square"] * 4
    for label in range(2):
        trained, tested = (
            [data.digests[image] for image in part if data.labels[image] == label] for part in (data.train, data.test)
        )
        assert max(tested) < min(trained), "the smallest, in every process"


def test_the_held_out_images_do_not_depend_on_file_names(draw_folder: Draw) -> None:
    root = draw_folder(per_class=20)
    before = load_folder(root, 32)
    for number, path in enumerate(sorted((root / "circle").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed-{number:03}.png"))
    after = load_folder(root, 32)
    assert sorted(map(bytes, after.pixels[after.test].numpy())) == sorted(
        map(bytes, before.pixels[before.test].numpy())
    )
    assert after.fingerprint != before.fingerprint


def test_copies_of_a_file_stay_in_one_part(draw_folder: Draw) -> None:
    root = draw_folder(per_class=10)
    for path in sorted((root / "circle").iterdir()) + sorted((root / "square").iterdir()):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    data = load_folder(root, 32)
    trained = {hashlib.sha256(picture.numpy()).digest() for picture in data.pixels[data.train]}
    tested = {hashlib.sha256(picture.numpy()).digest() for picture in data.pixels[data.test]}
    assert not trained & tested
    assert len(data.test_files) == 8  # of each class, a fifth of ten different images, twice


def test_copies_of_a_file_are_never_trained_on_and_validated_with(draw_folder: Draw) -> None:
    root = draw_folder(per_class=10, splits=("train", "test"))
    for number, path in enumerate(sorted((root / "train" / "circle").iterdir())):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
        shutil.copy(path, root / "train" / "square" / f"mistaken-{number}.png")
    data = load_folder(root, 32)
    for part in (0.25, 0.45):  # of 20 circles, 10 of which differ: both cut between copies
        kept, held_back = split_validation(data, part)
        digests = [{data.digests[image] for image in images.tolist()} for images in (kept, held_back)]
        assert not digests[0] & digests[1]
        assert sorted(torch.cat([kept, held_back]).tolist()) == data.train.tolist()
    assert [len(images) for images in split_validation(data, 0)] == [40, 0]
    with pytest.raises(
        TrainingError, match=r"^holding out 99% of each class .* add some to circle, square, or lower --validation$"
    ):
        split_validation(data, 0.99)


def test_a_class_of_two_images_gives_one_to_each_part(draw_folder: Draw) -> None:
    data = load_folder(draw_folder(per_class=2), 32)
    assert data.labels[data.train].tolist() == data.labels[data.test].tolist() == [0, 1]


def test_hidden_files_and_other_files_are_no_images_and_suffixes_have_no_case(draw_folder: Draw) -> None:
    root = draw_folder(per_class=4)
    for name in (".DS_Store", "._000.png", "notes.txt"):
        (root / "circle" / name).write_text("no image")
    (root / ".cache").mkdir()
    (root / "circle" / "000.png").rename(root / "circle" / "000.PNG")
    data = load_folder(root, 32)
    assert data.classes == ("circle", "square")
    assert len(data.labels[data.train]) + len(data.labels[data.test]) == 8
    assert data.remarks == (f"Files and folders of {root} that are not read: 1 (circle/notes.txt)",)


def test_a_class_may_be_named_as_a_report(draw_folder: Draw) -> None:
    root = draw_folder()
    (root / "circle").rename(root / "home.run")
    assert load_folder(root, 32).classes == ("home.run", "square")


def test_files_that_are_not_read_are_listed(draw_folder: Draw) -> None:
    root = draw_folder(splits=("train", "test", "val"))
    (root / "train" / "circle" / "more").mkdir()
    (root / "test" / "circle" / "photo.HEIC").touch()
    (root / "train" / "loose.png").touch()
    report = root / "train" / "cifar_net.run"  # of a run in that folder: its pictures are no class
    report.mkdir()
    (report / "events.out.tfevents.1").touch()
    shutil.copy(root / "train" / "circle" / "000.png", report / "curves.png")
    data = load_folder(root, 32)
    assert data.classes == ("circle", "square")
    (remark,) = data.remarks
    assert remark.endswith("not read: 5 (test/circle/photo.HEIC; train/cifar_net.run; train/circle/more and 2 more)")


def test_a_picture_in_two_classes_is_said(draw_folder: Draw) -> None:
    root = draw_folder()
    shutil.copy(root / "circle" / "003.png", root / "square" / "copy.png")
    assert load_folder(root, 32).remarks == (
        "Pictures that are in more than one class: 1 (circle/003.png is also in square)",
    )


def test_the_data_has_its_folders_name_however_it_is_given(draw_folder: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_folder("shapes")
    (root.parent / "link").symlink_to(root)
    monkeypatch.chdir(root / "circle")
    assert [load_folder(Path(given), 32).name for given in ("..", "../../link")] == ["shapes", "link"]


def test_the_fingerprint_is_of_names_and_contents(draw_folder: Draw) -> None:
    root = draw_folder(per_class=3)
    before = load_folder(root, 32).fingerprint
    assert load_folder(root, 32).fingerprint == before
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    listing = "".join(f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert before == hashlib.sha256(listing.encode()).hexdigest()
    with (root / "circle" / "000.png").open("ab") as file:
        file.write(b"\0")
    assert load_folder(root, 32).fingerprint != before


def test_cifar10_is_read_as_published(cifar10_folder: Path) -> None:
    data = load_cifar10(cifar10_folder)
    assert (data.name, len(data.classes), data.split_here) == ("cifar10", 10, False)
    assert data.pixels[data.train].shape == (50, 32, 32, 3)
    assert data.labels[data.test].tolist() == list(range(10))
    raw = pickle.loads((cifar10_folder / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    assert data.pixels[data.test][3, 5, 7].tolist() == raw[3].reshape(3, 32, 32)[:, 5, 7].tolist()


def test_a_download_that_fails_is_one_sentence(cifar10_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    (cifar10_folder / CIFAR10.base_folder / "test_batch").unlink()
    monkeypatch.setattr(CIFAR10, "url", (cifar10_folder / "not-there.tar.gz").as_uri())
    monkeypatch.setattr(data_module, "CIFAR10_ROOT", cifar10_folder)
    with pytest.raises(TrainingError, match=r"^CIFAR-10 could not be downloaded \(.*\): try again, or .* --data DIR$"):
        data_module.load("cifar10", 32)
