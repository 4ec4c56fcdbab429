"""Reads a folder of images, `<class>/*` or `{train,test}/<class>/*`, and keeps its test images apart.

What cannot be trained on honestly is refused in one sentence that says what to do: DataError.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from training.cache import Records, cached
from training.errors import DataError
from training.progress import progress_bar
from training.reading import read_on_all_cores

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
HELD_OUT = 0.2  # of a class's images, where the folder has no test part


def list_images(root: Path) -> tuple[list[str], bool]:
    """The image files, relative to `root` and sorted, and whether it has a test part of its own. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    has_test = (root / "train").is_dir() and (root / "test").is_dir()
    if has_test:
        train, test = _list_classes(root / "train"), _list_classes(root / "test")
        if train.keys() != test.keys():
            alone = ", ".join(sorted(train.keys() ^ test.keys()))
            raise DataError(f"{root / 'train'} and {root / 'test'} must have the same classes; only one has: {alone}")
        parts = {"train/": train, "test/": test}
    else:
        parts = {"": _list_classes(root)}
    names = (
        f"{part}{class_name}/{file}"
        for part, classes in parts.items()
        for class_name, files in classes.items()
        for file in files
    )
    return sorted(names), has_test


def _list_classes(folder: Path) -> dict[str, list[str]]:
    try:
        classes = {path.name: _list_files(path) for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    if not any(classes.values()):
        raise DataError(
            f"there are no images in {folder}: each class needs a folder of its name with its images in it, "
            f"such as {folder / 'cat' / '1.jpg'}"
        )
    if empty := sorted(name for name, files in classes.items() if not files):
        raise DataError(f"some classes of {folder} have no images: fill or remove {', '.join(empty)}")
    if len(classes) == 1:
        raise DataError(f"{folder} has only one class, {next(iter(classes))}: a classifier needs two or more")
    return classes


def _list_files(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES]


def read_images(root: Path, names: Sequence[str], size: int) -> tuple[torch.Tensor, list[str]]:
    """Decode every file, once and for all, on all cores: uint8 [N, size, size, 3] and the files' SHA-256.

    Raises TrainingError.
    """

    def decode_all(records: Records) -> None:
        broken: list[str] = []
        with progress_bar("Reading", len(names)) as advance, closing(read_on_all_cores(root, names, size)) as blocks:
            for block, (pixels, digests, broken_here) in blocks:
                records["pixels"][block], records["digest"][block] = pixels, digests
                broken += broken_here
                advance(len(pixels), "")
        if broken:
            raise DataError(
                f"{len(broken)} of the {len(names)} images in {root} cannot be read: {_first(5, sorted(broken))}. "
                "Remove or repair them"
            )

    records = cached(root, names, size, decode_all)
    return torch.from_numpy(records["pixels"]), [digest.hex() for digest in records["digest"].tolist()]


def refuse_leaks(names: Sequence[str], digests: Sequence[str], in_test: Sequence[bool]) -> None:
    """Raises DataError where a test image is a training image too: its score would be memory, not skill."""
    trained = {digest: name for name, digest, test in zip(names, digests, in_test, strict=True) if not test}
    leaks = [
        f"{name} is {trained[digest]}"
        for name, digest, test in zip(names, digests, in_test, strict=True)
        if test and digest in trained
    ]
    if leaks:
        raise DataError(
            f"this would train on test images: {len(leaks)} of {sum(in_test)} are training images too "
            f"({_first(3, leaks)}). Remove them from one of the two parts"
        )


def hold_out(class_names: Sequence[str], digests: Sequence[str]) -> list[bool]:
    """Which images to test with: of each class a fifth, at least one. Raises DataError where that leaves none to train.

    A class's smallest SHA-256 are held out. That is as good as a draw, yet the same for every seed, machine and file
    name: no run trains on what another run tests with, and copies of a file stay together.
    """
    digests_of = defaultdict(set)
    for class_name, digest in zip(class_names, digests, strict=True):
        digests_of[class_name].add(digest)
    held_out = {
        digest
        for distinct in digests_of.values()
        for digest in sorted(distinct)[: max(1, round(HELD_OUT * len(distinct)))]
    }
    if too_few := sorted(name for name, distinct in digests_of.items() if distinct <= held_out):
        raise DataError(
            f"too few images to hold some out for testing: each class needs two that differ, not {', '.join(too_few)}"
        )
    return [digest in held_out for digest in digests]


def _first(most: int, items: Sequence[str]) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more
