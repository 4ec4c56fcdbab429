"""A checkpoint or a card that was made to hurt is refused in a sentence: nothing of it is run, nothing huge is made."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from models import architectures
from models.architectures.net import Net
from models.card import ModelCard
from models.checkpoint import CheckpointError, card_path, load, save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cifar_net.pth"


class Command:
    """Runs `touch` when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._command = f"touch {trace}"

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self._command,)


@pytest.mark.parametrize("as_torch_saves_it", [True, False])
def test_code_in_a_checkpoint_is_not_run(path: Path, as_torch_saves_it: bool) -> None:
    trace = path.with_name("trace")
    hostile = {**Net().state_dict(), "more": Command(trace)}
    torch.save(hostile, path) if as_torch_saves_it else path.write_bytes(pickle.dumps(hostile))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if as_torch_saves_it else pickle.loads(path.read_bytes())
    assert trace.exists(), "it is dangerous"


def test_weights_that_would_unpack_to_more_than_their_file_are_refused(path: Path) -> None:
    nothing = {name: torch.zeros_like(tensor) for name, tensor in Net().state_dict().items()}
    torch.save(nothing, path.with_name("plain.pth"))
    with (
        zipfile.ZipFile(path.with_name("plain.pth")) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    assert path.stat().st_size < path.with_name("plain.pth").stat().st_size / 50
    assert torch.load(path, weights_only=True), "torch unpacks it"
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load(path)


def test_a_card_without_end_is_not_read_to_its_end(path: Path) -> None:
    save(path, Net(), ModelCard())
    card_path(path).write_bytes(b" " * 2**24 + card_path(path).read_bytes())
    with pytest.raises(CheckpointError, match=r"cifar_net\.json is over 16,777,216 bytes"):
        load(path)


class Wide(nn.Module):
    """A network whose card says how wide it is."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, width), nn.Linear(width, num_classes))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"width": 10**11}, "size mismatch"),  # a petabyte, which is found not to fit before it is asked for
        ({"width": -1}, "negative dimension"),
        ({"width": "../../etc/passwd"}, "str"),
        ({"num_classes": 5}, "multiple values"),
        ({"depth": 10**11}, "unexpected keyword"),
    ],
)
def test_absurd_arguments_in_a_card_are_refused(
    path: Path, arguments: dict[str, int | str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures._ARCHITECTURES, "wide", Wide)
    save(path, Wide(num_classes=10), ModelCard(architecture="wide"))
    assert load(path)
    card = json.loads(card_path(path).read_text())
    card_path(path).write_text(json.dumps(card | {"arguments": arguments}))
    with pytest.raises(CheckpointError, match=says):
        load(path)


class OfASize(Net):
    """A network that looks up a word of its card."""

    def __init__(self, num_classes: int, size: str = "small") -> None:
        super().__init__(num_classes)
        self.width = {"small": 1}[size]


def test_whatever_a_network_raises_when_it_is_made_is_a_refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(architectures._ARCHITECTURES, "of a size", OfASize)
    save(path, Net(), ModelCard(architecture="of a size", arguments={"size": "huge"}))
    with pytest.raises(CheckpointError, match=r"does not fit the architecture 'of a size' .* 'huge'"):
        load(path)


def test_a_refusal_quotes_a_file_on_one_short_line_that_no_terminal_obeys(path: Path) -> None:
    torch.save({"\x1b]0;mine\x07\nINFO all is well" + "a" * 10_000: torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="Missing key") as refusal:
        load(path)
    card_path(path).write_text(json.dumps({"architecture": "\x1b[31m\nred" + "a" * 10_000}))
    with pytest.raises(CheckpointError, match="does not fit the architecture") as other:
        load(path)
    card_path(path).write_text(json.dumps({"arguments": {"\x1b[31m\nred" + "a" * 10_000: []}}))
    with pytest.raises(CheckpointError, match="is not a model card") as third:
        load(path)
    for message in map(str, (refusal.value, other.value, third.value)):
        assert message.isprintable()
        assert len(message) < 2000
