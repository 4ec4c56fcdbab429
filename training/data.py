"""The images of a run as tensors: `cifar10`, which torchvision downloads and checks, or a folder of images.

Test images are never trained on: a folder where the same file contents stand in both parts is refused.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from models.card import CIFAR10_CLASSES
from training.errors import TrainingError
from training.folder import TEST_FRACTION, first_few, hold_out, list_images, read_images, refuse_leaks

CIFAR10_ROOT = Path("data")
CIFAR10_SIZE = 32


@dataclass(frozen=True)
class Data:
    """All images of a run, on the CPU, perhaps of a file that is mapped into memory; the parts are int64 positions."""

    name: str
    classes: tuple[str, ...]
    pixels: torch.Tensor  # uint8 [N, size, size, 3], RGB, 0..255
    labels: torch.Tensor  # int64 [N], positions in `classes`
    digests: list[str]  # of each image: the SHA-256 of its file, or of its pixels where it has none
    train: torch.Tensor
    test: torch.Tensor
    fingerprint: str  # SHA-256: other images, names or classes give another
    test_files: tuple[str, ...]  # of a folder: where the test images lie, relative to it, sorted
    split_here: bool  # whether we held the test images out of a folder that has no test part
    remarks: tuple[str, ...] = ()  # what a user may not know of this data: a sentence each


def load(source: str, size: int) -> Data:
    """The data of `--data source`: `cifar10`, or the path of a folder. Raises TrainingError."""
    if source != "cifar10":
        return load_folder(Path(source), size)
    if size != CIFAR10_SIZE:
        raise TrainingError(
            f"cifar10 is {CIFAR10_SIZE} pixels a side: leave --image-size out, or give a folder by --data"
        )
    return load_cifar10(CIFAR10_ROOT)


def split_validation(data: Data, fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The training images without those that are kept back to validate with, and those: int64 positions, in order.

    Which ones is decided as with test images. Raises TrainingError where a class would have none left.
    """
    class_names = [data.classes[label] for label in data.labels[data.train].tolist()]
    held_back = torch.tensor(hold_out(class_names, [data.digests[image] for image in data.train.tolist()], fraction))
    return data.train[~held_back], data.train[held_back]


def load_folder(root: Path, size: int) -> Data:
    """A folder with the images of each class in a folder of the class's name. Raises TrainingError.

    `root/{train,test}/<class>/*` keeps its parts; from `root/<class>/*` a fifth of each class is held out for testing.
    """
    names, has_test, left_aside = list_images(root)
    pixels, digests = read_images(root, names, size)
    class_names = [name.split("/")[-2] for name in names]
    if has_test:
        in_test = [name.startswith("test/") for name in names]
        refuse_leaks(names, digests, in_test)
    else:
        in_test = hold_out(class_names, digests, TEST_FRACTION, at_least=1)
    classes = tuple(sorted(set(class_names)))
    label_of = {name: label for label, name in enumerate(classes)}
    labels, test = torch.tensor([label_of[name] for name in class_names]), torch.tensor(in_test)
    listing = "".join(f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True))  # as sha256sum's
    return Data(
        name=Path(os.path.abspath(root)).name,  # of a link its own, and of `..` the folder's
        classes=classes,
        pixels=pixels,
        labels=labels,
        digests=digests,
        train=torch.nonzero(~test).flatten(),
        test=torch.nonzero(test).flatten(),
        fingerprint=hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest(),
        test_files=tuple(name for name, tested in zip(names, in_test, strict=True) if tested),
        split_here=not has_test,
        remarks=tuple(_remarks(root, left_aside, names, class_names, digests)),
    )


def _remarks(
    root: Path,
    left_aside: Sequence[str],
    names: Sequence[str],
    class_names: Sequence[str],
    digests: Sequence[str],
) -> Iterator[str]:
    if left_aside:
        yield f"Files and folders of {root} that are not read: {len(left_aside)} ({first_few(3, left_aside)})"
    class_of = dict(zip(digests, class_names, strict=True))
    other = [
        f"{name} is also in {class_of[digest]}"
        for name, class_name, digest in zip(names, class_names, digests, strict=True)
        if class_of[digest] != class_name
    ]
    if other:
        yield f"Pictures that are in more than one class: {len(other)} ({first_few(3, other)})"


def load_cifar10(root: Path) -> Data:
    """CIFAR-10's 50,000 and 10,000 images of 32×32; downloaded into `root` if need be. Raises TrainingError."""
    from torchvision.datasets import CIFAR10  # seconds, which no other data needs

    try:
        train, test = (CIFAR10(root, train=part, download=True) for part in (True, False))
    except (OSError, HTTPException, RuntimeError) as error:
        reason = getattr(error, "reason", error)  # what urllib puts inside its own
        raise TrainingError(
            f"CIFAR-10 could not be downloaded ({reason}): try again, or give a folder of images with --data DIR"
        ) from None
    fingerprint = hashlib.sha256()
    for part in (train, test):
        fingerprint.update(part.data.tobytes() + bytes(part.targets))
    pixels = np.concatenate([train.data, test.data])
    positions = torch.arange(len(pixels))
    return Data(
        name="cifar10",
        classes=CIFAR10_CLASSES,
        pixels=torch.from_numpy(pixels),
        labels=torch.tensor(train.targets + test.targets),
        digests=[hashlib.sha256(image.tobytes()).hexdigest() for image in pixels],
        train=positions[: len(train.data)],
        test=positions[len(train.data) :],
        fingerprint=fingerprint.hexdigest(),
        test_files=(),
        split_here=False,
    )
