"""Reads a folder of images, `<class>/*` or `{train,test}/<class>/*`, and keeps its test images apart.

What cannot be trained on honestly is refused in one sentence that says what to do.
"""

import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch

from models.pixels import SUFFIXES
from training.cache import Records, cached
from training.errors import TrainingError
from training.options import EVENTS_PREFIX, REPORT_SUFFIX
from training.progress import progress_bar
from training.reading import read_on_all_cores

_MOST_CLASSES = 2000  # a model card has a confusion matrix, and a limit that hostile ones do not pass
TEST_FRACTION = 0.2  # of a class's images, where the folder has no test part


class Listing(NamedTuple):
    """What is seen of a folder, hidden things left out; names are relative to it, and sorted."""

    images: list[str]
    has_test: bool  # a test part of its own
    left_aside: list[str]  # other files, and folders in and beside those of the classes


def list_images(root: Path) -> Listing:
    """The image files of each class of the folder. Raises TrainingError."""
    try:
        if not root.is_dir():
            raise TrainingError(f"there is no folder {root}")
        has_test = (root / "train").is_dir() and (root / "test").is_dir()
        left_aside = [name for name in _visible(root) if name not in ("train", "test")] if has_test else []
        parts = {part: _list_classes(root, part, left_aside) for part in (("train/", "test/") if has_test else ("",))}
    except OSError as error:
        raise TrainingError(f"{error.filename} cannot be read: {error.strerror}") from None
    for part, classes in parts.items():
        _check_classes(root / part, classes)
    if has_test and parts["train/"].keys() != parts["test/"].keys():
        alone = ", ".join(sorted(parts["train/"].keys() ^ parts["test/"].keys()))
        raise TrainingError(f"{root / 'train'} and {root / 'test'} must have the same classes; only one has: {alone}")
    images = (name for classes in parts.values() for names in classes.values() for name in names)
    return Listing(sorted(images), has_test, sorted(left_aside))


def _list_classes(root: Path, part: str, left_aside: list[str]) -> dict[str, list[str]]:
    """The images in each folder of `root/part`; what else is there is added to `left_aside`."""
    classes: dict[str, list[str]] = {}
    for class_name in _visible(root / part):
        folder = root / part / class_name
        is_report = class_name.endswith(REPORT_SUFFIX) and any(folder.glob(f"{EVENTS_PREFIX}*"))
        if not folder.is_dir() or is_report:
            left_aside.append(part + class_name)
            continue
        classes[class_name] = []
        for file in _visible(folder):
            is_image = file.lower().endswith(SUFFIXES)
            (classes[class_name] if is_image else left_aside).append(f"{part}{class_name}/{file}")
    return classes


def _visible(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name[0] != "."]


def _check_classes(folder: Path, classes: dict[str, list[str]]) -> None:
    if not any(classes.values()):
        if "cifar-10-batches-py" in classes:
            raise TrainingError(
                f"{folder} has CIFAR-10 as torchvision keeps it, not as images: without --data it is read from ./data"
            )
        if "train" in classes:
            raise TrainingError(
                f"{folder} has a folder train but none called test: put the test images into {folder / 'test'}, "
                f"or move the classes of {folder / 'train'} up into {folder}"
            )
        raise TrainingError(
            f"there are no images in {folder}: each class needs a folder of its name with its images in it, "
            f"such as {folder / 'cat' / '1.jpg'}"
        )
    if empty := sorted(name for name, files in classes.items() if not files):
        raise TrainingError(
            f"some classes of {folder} have no images ({', '.join(SUFFIXES)}) right in their folder: "
            f"fill or remove {', '.join(empty)}"
        )
    if len(classes) == 1:
        raise TrainingError(f"{folder} has only one class, {next(iter(classes))}: a classifier needs two or more")
    if len(classes) > _MOST_CLASSES:
        raise TrainingError(f"{folder} has {len(classes):,} classes, and a model card has room for {_MOST_CLASSES:,}")
    if unnamed := [name for name in classes if name != name.encode(errors="replace").decode()]:
        raise TrainingError(f"the name of a class of {folder} is not UTF-8: rename {unnamed[0]!a}")


def read_images(root: Path, names: Sequence[str], size: int) -> tuple[torch.Tensor, list[str]]:
    """Decode every file, once and for all, on all cores: uint8 [N, size, size, 3], read-only, and the files' SHA-256.

    Raises TrainingError.
    """

    def decode_all(records: Records) -> None:
        broken: list[tuple[str, str]] = []  # reason and name
        with progress_bar("Reading", len(names)) as advance, closing(read_on_all_cores(root, names, size)) as blocks:
            for block, (pixels, digests, broken_here) in blocks:
                records["pixels"][block], records["digest"][block] = pixels, digests
                broken += broken_here
                advance(len(pixels), "")
        if broken:
            by_reason = groupby(sorted(broken), key=itemgetter(0))
            told = [f"{first_few(20, [name for _, name in group])} ({reason})" for reason, group in by_reason]
            raise TrainingError(
                f"{len(broken)} of the {len(names)} images in {root} cannot be read: {first_few(5, told)}. "
                "Remove or repair them"
            )

    records = cached(root, names, size, decode_all)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it is read-only
        return torch.from_numpy(records["pixels"]), [digest.hex() for digest in records["digest"].tolist()]


def refuse_leaks(names: Sequence[str], digests: Sequence[str], in_test: Sequence[bool]) -> None:
    """Raises TrainingError where a test image is a training image too: its score would be memory, not skill."""
    trained = {digest: name for name, digest, test in zip(names, digests, in_test, strict=True) if not test}
    leaks = [
        f"{name} is {trained[digest]}"
        for name, digest, test in zip(names, digests, in_test, strict=True)
        if test and digest in trained
    ]
    if leaks:
        raise TrainingError(
            f"this would train on test images: {len(leaks)} of {sum(in_test)} are training images too "
            f"({first_few(3, leaks)}). Remove them from one of the two parts"
        )


def hold_out(class_names: Sequence[str], digests: Sequence[str], fraction: float, at_least: int = 0) -> list[bool]:
    """Whether each image is held out: of the distinct images of each class that `fraction`, the smallest by SHA-256.

    That is as good as a random draw, yet the same for every seed, machine and file name: no run trains on what another
    run tests with, except for a few images where the folder has grown since. Copies of a file stay together, whatever
    their classes.
    Raises TrainingError where a class would have none left to train on.
    """
    digests_of = defaultdict(set)
    for class_name, digest in zip(class_names, digests, strict=True):
        digests_of[class_name].add(digest)
    held_out = {
        digest
        for distinct in digests_of.values()
        for digest in sorted(distinct)[: max(at_least, round(fraction * len(distinct)))]
    }
    if too_few := sorted(name for name, distinct in digests_of.items() if distinct <= held_out):
        or_less = "" if at_least else ", or lower --validation"  # how many are for testing is not the user's choice
        raise TrainingError(
            f"holding out {fraction:.0%} of each class leaves no training images in classes with too few distinct "
            f"images: add some to {', '.join(too_few)}{or_less}"
        )
    return [digest in held_out for digest in digests]


def first_few(most: int, items: Sequence[str]) -> str:
    """The first so many `items`, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more
