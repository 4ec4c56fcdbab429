"""Reads and writes a checkpoint: `cifar_net.pth`, a plain state_dict, and beside it its card, `cifar_net.json`.

torch is imported where tensors are made, since not every process that reads the files makes any.
"""

import glob
import hashlib
import io
import json
import logging
import os
import re
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import ValidationError

from models.card import ModelCard

if TYPE_CHECKING:
    import torch

    from models.classifier import Classifier

_OTHER_HALF_S = 1.0  # a writer renames the two files one after the other: how long a reader waits for the second
_MOST_CARD_BYTES = 16 * 2**20  # one of 2,000 classes has some 10 million, for its confusion matrix
_MOST_SAID = 1000  # characters of a sentence that quotes a file
_ZIP = b"PK\x03\x04"  # what torch.save writes; it looks for these bytes too

log = logging.getLogger(__name__)


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says which file, what is wrong and what to do."""


def card_path(path: Path) -> Path:
    return path.with_suffix(".json")


def save(path: Path, net: "torch.nn.Module", card: ModelCard) -> ModelCard:
    """Write weights and card, both or neither; returns the card with the weights' SHA-256. Raises OSError."""
    import torch

    buffer = io.BytesIO()
    torch.save({name: tensor.cpu() for name, tensor in net.state_dict().items()}, buffer)
    weights = buffer.getvalue()
    card = card.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
    text = json.dumps(card.model_dump(), indent=2, ensure_ascii=False) + "\n"
    text = re.sub(r"\[\n[^]\[{}\"]+\]", lambda numbers: "".join(numbers[0].split()), text)  # on one line, thousands too
    write_atomically({path: weights, card_path(path): text.encode(errors="replace")})  # a path need not be UTF-8
    return card


def load(path: Path) -> "Classifier":
    """The classifier in `path`: on the CPU, in evaluation mode, its card complete. Raises CheckpointError."""
    return build_classifier(path, *read(path))


def build_classifier(path: Path, weights: bytes, card: ModelCard) -> "Classifier":
    """The classifier of `weights` and `card`, as `read` returns them; `path` is for errors. Raises CheckpointError."""
    from models.classifier import Classifier

    state = _read_state(path, weights)
    try:
        _check_sizes(card, state)
        net = _build(card)
        net.load_state_dict(state)
    except Exception as error:  # of a network, which may raise anything
        raise CheckpointError(
            _said(
                f"{path} does not fit the architecture {card.architecture!r} with {len(card.classes)} classes: {error}"
            )
            + f" Its model card is {card_path(path)}; without one the tutorial's Net is assumed"
        ) from None
    return Classifier(net, card).eval()


def _build(card: ModelCard) -> "torch.nn.Module":
    from models.architectures import build

    return build(card.architecture, num_classes=len(card.classes), **card.arguments)


def _check_sizes(card: ModelCard, state: dict[str, "torch.Tensor"]) -> None:
    """Raises RuntimeError where the card asks for a network of other sizes than the weights, before it takes memory."""
    import torch

    try:
        with torch.device("meta"):
            net = _build(card)
    except Exception:  # of one that looks at its own numbers while it is made: there are none
        return
    net.load_state_dict(state, assign=True)


def _said(sentence: str) -> str:
    """One that quotes a file: on one line, not endless, and with nothing that a terminal would obey."""
    said = " ".join(sentence.split())[:_MOST_SAID]
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in said)


def read(path: Path, served: ModelCard | None = None) -> tuple[bytes, ModelCard]:
    """The weights' bytes and their card. A card of other weights is ignored, with a warning.

    The weights then get the tutorial's ten classes. This is refused where the model that is `served` has other classes,
    or the same weights: its answers would change their names. Raises CheckpointError.
    """
    patience_until = time.monotonic() + _OTHER_HALF_S
    while True:
        weights = _read_weights(path)
        sha256 = hashlib.sha256(weights).hexdigest()
        card = _read_card(card_path(path))
        if card.sha256 != sha256 and (card.sha256 or not card_path(path).exists()):  # not of one written by hand
            card = _interrupted(card_path(path), sha256) or card
        if card.sha256 in (None, sha256):
            return weights, card.model_copy(update={"sha256": sha256})
        if time.monotonic() > patience_until:
            if served and (sha256 == served.sha256 or served.classes != ModelCard().classes):
                raise CheckpointError(
                    f"{card_path(path)} describes other weights than {path}: one of the two is still to come, or the "
                    "card is an old one, to be removed"
                )
            log.warning("%s describes other weights than %s: going on without it", card_path(path), path)
            return weights, ModelCard(sha256=sha256)
        time.sleep(0.05)


def _read_weights(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}: train one with cifar-train") from None
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error.strerror}") from None


def _read_card(path: Path) -> ModelCard:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_CARD_BYTES + 1)
        if len(text) > _MOST_CARD_BYTES:
            raise CheckpointError(f"{path} is over {_MOST_CARD_BYTES:,} bytes, which no model card is: remove it")
        return ModelCard.model_validate_json(text)
    except FileNotFoundError:
        return ModelCard()
    except OSError as error:
        raise CheckpointError(f"the model card {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            _said(f"{path} is not a model card ({where + ': ' if where else ''}{first['msg']})")
            + ": repair or remove it"
        ) from None


def _interrupted(path: Path, sha256: str) -> ModelCard | None:
    """The card of these weights in a temporary file: its writer has only renamed the weights yet, or died then."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(CheckpointError):  # killed even before
            card = _read_card(temporary)
            if card.sha256 == sha256:
                return card
    return None


def _read_state(path: Path, weights: bytes) -> dict[str, "torch.Tensor"]:
    import torch

    try:
        _check_packing(weights)
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except Exception:  # torch answers damage with EOFError, KeyError, RuntimeError, UnpicklingError, ...
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint: it must hold a state_dict, "
            "as torch.save(net.state_dict(), PATH) writes it"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} does not hold a state_dict: save with torch.save(net.state_dict(), PATH)")
    return state


def _check_packing(weights: bytes) -> None:
    """Raises ValueError for compressed weights, which could fill the memory. torch.save does not compress them."""
    if weights.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(weights)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(weights):
                raise ValueError("packed")


def write_atomically(contents: dict[Path, bytes]) -> None:
    """Whatever happens, each path holds the old content or the new: temporary files, synced, then renamed.

    Raises OSError, as where the disk is full, before any of them is renamed.
    """
    temporaries: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporaries[path] = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
            # Not by tempfile: its mode would hide the file from another user that serves it.
            with temporaries[path].open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):  # a new file has the mode that the umask gives it; some file systems have no modes
                shutil.copymode(path, temporaries[path])
        for path, written in temporaries.items():
            written.replace(path)
    except BaseException:
        for written in temporaries.values():
            written.unlink(missing_ok=True)
        raise
