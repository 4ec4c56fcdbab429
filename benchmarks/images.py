"""The images that most benchmarks measure with."""

import os
import sys
from pathlib import Path


def cifar10_folder() -> Path:
    """The folder that CIFAR_DATA names (default: data), with train/ and test/. Ends the program where it has none."""
    folder = Path(os.environ.get("CIFAR_DATA", "data")).resolve()
    if not ((folder / "train" / "cat").is_dir() and (folder / "test" / "cat").is_dir()):
        sys.exit(f"no images of CIFAR-10 in {folder}: unpack them there as {{train,test}}/<class>/*, or set CIFAR_DATA")
    return folder
