"""The images of a run as tensors: `cifar10`, which torchvision downloads and checks, or a folder of images.

Test images are never trained on: a folder where the same file contents stand in both parts is refused.
"""

import hashlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch

from models.card import CIFAR10_CLASSES
from training.errors import DataError
from training.folder import hold_out, list_images, read_images, refuse_leaks

CIFAR10_ROOT = Path("data")


@dataclass(frozen=True)
class Data:
    """Pixels are uint8 [N, size, size, 3] RGB 0..255, labels int64 [N]: positions in `classes`; all on the CPU."""

    name: str
    classes: tuple[str, ...]
    train_pixels: torch.Tensor
    train_labels: torch.Tensor
    test_pixels: torch.Tensor
    test_labels: torch.Tensor
    fingerprint: str  # SHA-256: other images, names or classes give another
    test_files: tuple[str, ...]  # of a folder: where the test images lie, relative to it, sorted
    split_here: bool  # whether we held the test images out of a folder that has no test part


def load(source: str, size: int) -> Data:
    """The data of `--data source`: `cifar10`, or the path of a folder. Raises DataError."""
    return load_cifar10(CIFAR10_ROOT) if source == "cifar10" else load_folder(Path(source), size)


def hold_back(pixels: torch.Tensor, labels: torch.Tensor, part: float) -> torch.Tensor:
    """Which training images to validate with: of each class so large a part, the smallest by SHA-256. bool [N].

    As with test images, the seed has no say, so that no run chooses by what another was trained on.
    """
    digests = [hashlib.sha256(image.numpy().tobytes()).digest() for image in pixels]
    held_back = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        members = sorted(torch.nonzero(labels == label).flatten().tolist(), key=digests.__getitem__)
        held_back[members[: round(part * len(members))]] = True
    return held_back


def load_folder(root: Path, size: int) -> Data:
    """A folder with the images of each class in a folder of the class's name. Raises DataError.

    `root/{train,test}/<class>/*` keeps its parts; from `root/<class>/*` a fifth of each class is held out for testing.
    """
    names, has_test = list_images(root)
    pixels, digests = read_images(root, names, size)
    class_names = [name.split("/")[-2] for name in names]
    if has_test:
        in_test = [name.startswith("test/") for name in names]
        refuse_leaks(names, digests, in_test)
    else:
        in_test = hold_out(class_names, digests)
    classes = tuple(sorted(set(class_names)))
    label_of = {name: label for label, name in enumerate(classes)}
    labels, test = torch.tensor([label_of[name] for name in class_names]), torch.tensor(in_test)
    listing = "".join(f"{digest}  {name}\n" for name, digest in zip(names, digests, strict=True))  # as sha256sum's
    return Data(
        name=root.absolute().name,
        classes=classes,
        train_pixels=pixels[~test],
        train_labels=labels[~test],
        test_pixels=pixels[test],
        test_labels=labels[test],
        fingerprint=hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest(),
        test_files=tuple(name for name, tested in zip(names, in_test, strict=True) if tested),
        split_here=not has_test,
    )


def load_cifar10(root: Path) -> Data:
    """CIFAR-10's 50,000 and 10,000 images of 32×32; downloaded into `root` unless they are there. Raises DataError."""
    from torchvision.datasets import CIFAR10  # seconds, which no other data needs
    from torchvision.datasets.utils import check_integrity

    try:
        train, test = (CIFAR10(root, train=part, download=True) for part in (True, False))
    except (OSError, HTTPException, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded ({error}): try again, or give a folder of images with --data DIR"
        ) from None
    finally:
        archive = root / CIFAR10.filename
        if archive.exists() and not check_integrity(archive, CIFAR10.tgz_md5):
            archive.unlink()  # half a download
    fingerprint = hashlib.sha256()
    for part in (train, test):
        fingerprint.update(part.data.tobytes() + bytes(part.targets))
    return Data(
        name="cifar10",
        classes=CIFAR10_CLASSES,
        train_pixels=torch.from_numpy(train.data),
        train_labels=torch.tensor(train.targets),
        test_pixels=torch.from_numpy(test.data),
        test_labels=torch.tensor(test.targets),
        fingerprint=fingerprint.hexdigest(),
        test_files=(),
        split_here=False,
    )
