"""What a service that runs takes over, and what it does not so much as try."""

from pathlib import Path

import pytest

from models.architectures.net import Net
from models.card import ModelCard
from models.checkpoint import CheckpointError, save
from server.live_model import LiveModel
from server.settings import Settings


def test_another_input_size_is_refused_before_a_picture_of_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    save(path, Net(), ModelCard())
    model = LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)
    served = model.card
    save(path, Net(), ModelCard(input_size=64))  # which this network cannot take: tried, it would fail otherwise
    with pytest.raises(CheckpointError, match="another input size"):
        model.reload()
    assert model.card == served
