"""An environment for each server that ours is measured against, with this project's torch and what the server asks for.

They lie in ~/.cache/cifar-service/peers, made by uv, which links the files that they share instead of copying them.
"""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from models.architectures import build
from models.card import ModelCard
from models.checkpoint import save

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "cifar-service" / "peers"
_UV = Path(sys.executable).with_name("uv")
_MODELS_NEED = ("numpy", "pillow", "pydantic", "simplejpeg")  # what models/ imports besides torch


def python_with(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of the environment `name`, made where it is missing. Raises subprocess.CalledProcessError."""
    folder = CACHE / name
    ready, python = folder / "packages.txt", folder / "bin" / "python"
    same_torch = [f"{ours}=={importlib.metadata.version(ours)}" for ours in ("torch", "torchvision")]
    wanted = "\n".join([*packages, *_MODELS_NEED, *same_torch])
    if not ready.exists() or ready.read_text() != wanted:
        print(f"making an environment for {name} ...", file=sys.stderr)
        subprocess.run([_UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        install: list[str | Path] = [_UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
        subprocess.run([*install, *wanted.splitlines()], check=True)
        ready.write_text(wanted)
    return python


def version_in(python: Path, distribution: str) -> str:
    code = f"import importlib.metadata; print(importlib.metadata.version({distribution!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def resnet18() -> Path:
    """A checkpoint of ResNet-18 for pictures of 32x32, with untrained weights: they are as fast as any."""
    path = CACHE / "resnet18.pth"
    if not path.exists():
        torch.manual_seed(0)
        save(path, build("resnet18", num_classes=10), ModelCard(architecture="resnet18"))
    return path
