"""Which checkpoints a running service takes over, and which it does not even try."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import architectures
from models.architectures.net import Net
from models.card import CIFAR10_CLASSES, ModelCard
from models.checkpoint import CheckpointError, save
from server import live_model
from server.live_model import LiveModel
from server.settings import Settings
from tests.integration.running import save_net


def test_another_input_size_is_refused_before_a_picture_of_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    save(path, Net(), ModelCard())
    model = LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)
    served = model.card
    save(path, Net(), ModelCard(input_size=64))  # which this network cannot take: tried, it would fail otherwise
    with pytest.raises(CheckpointError, match="another input size"):
        model.reload()
    assert model.card == served


def test_a_checkpoint_that_is_as_it_was_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pth"
    save_net(path, seed=1)
    model = LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)
    with monkeypatch.context() as patches:
        patches.setattr(live_model, "read", None)
        model.reload()
    path.write_bytes(b"damaged")
    for _ in range(2):  # one that was refused may have come to be whole
        with pytest.raises(CheckpointError, match="damaged"):
            model.reload()


def test_a_note_of_which_a_full_disk_kept_nothing_refuses_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    save_net(path, seed=1)
    model = LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)
    second = save_net(path, seed=2)
    (tmp_path / "2147483647.trying").touch()  # of more than any process id
    (tmp_path / "2147483646.trying").touch()
    model.reload()
    assert model.card == second


def test_the_shipped_checkpoint_does_not_take_the_place_of_one_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    served = save_net(tmp_path / "cifar_net.pth", seed=1)

    def start() -> LiveModel:
        return LiveModel(Settings(), tmp_path / "last.pth", "cpu", threads=1)

    model = start()
    (tmp_path / "cifar_net.pth").unlink()
    with pytest.raises(CheckpointError, match=r"cifar_net.pth is gone: restart to serve .*strong.pth"):
        model.reload()
    anew = start()
    assert (model.card, model.refused, anew.card, anew.refused) == (served, True, served, True)
    second = save_net(tmp_path / "cifar_net.pth", seed=2)
    for each in (model, anew):
        each.reload()
        assert (each.card, each.refused) == (second, False)


class AnySize(nn.Module):
    """Takes pictures of all sizes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def test_a_worker_that_starts_anew_takes_no_pictures_of_another_size_than_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures._ARCHITECTURES, "any size", AnySize)
    path, card = tmp_path / "net.pth", ModelCard(architecture="any size")
    served = save(path, AnySize(num_classes=10), card)

    def start() -> LiveModel:
        return LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)

    start()
    save(path, AnySize(num_classes=10), card.model_copy(update={"input_size": 48}))
    anew = start()
    assert (anew.card, anew.refused) == (served, True)


def test_without_reload_a_worker_that_starts_anew_serves_what_the_others_do(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    served = save_net(path, seed=1)

    def start() -> LiveModel:
        return LiveModel(Settings(checkpoint=path, reload=False), tmp_path / "last.pth", "cpu", threads=1)

    start()
    second = save_net(path, seed=2)
    anew = start()
    assert (anew.card, anew.refused) == (served, False)
    anew.reload()  # it is asked to
    assert anew.card == second
    assert start().card == second


@pytest.mark.parametrize("classes", [CIFAR10_CLASSES, tuple("abcdefghij")])
def test_a_card_that_comes_before_its_weights_renames_nothing(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path, other = tmp_path / "net.pth", tmp_path / "other.pth"
    served = save(path, Net(), ModelCard(classes=classes, temperature=2))
    model = LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)
    second = save(other, Net(), ModelCard(classes=classes, temperature=3))
    other.with_suffix(".json").replace(path.with_suffix(".json"))
    with pytest.raises(CheckpointError, match="one of the two is still to come"):
        model.reload()
    assert model.card == served
    other.replace(path)
    model.reload()
    assert model.card == second


def test_weights_of_other_classes_that_come_before_their_card_are_not_served_as_cifar_10(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    served = save(path, Net(), ModelCard(classes=tuple("abcdefghij")))
    model = LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)
    torch.save(Net().state_dict(), path)
    with pytest.raises(CheckpointError, match="one of the two is still to come"):
        model.reload()
    assert model.card == served


class Deadly(Net):
    here: Any  # a barrier for all workers that are to die together

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.here.wait()
        os.kill(os.getpid(), signal.SIGKILL)
        return x


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_checkpoint_that_killed_two_workers_is_not_tried_by_the_next(
    at_once: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, context = tmp_path / "net.pth", multiprocessing.get_context("fork")
    Deadly.here = context.Barrier(at_once)

    def start() -> LiveModel:
        return LiveModel(Settings(checkpoint=path), tmp_path / "last.pth", "cpu", threads=1)

    def try_it() -> None:
        architectures._ARCHITECTURES["deadly"] = Deadly  # in the child alone
        start()

    served = save_net(path, seed=1)
    start()
    save(path, Net(), ModelCard(architecture="deadly"))
    for _ in range(2 // at_once):
        workers = [context.Process(target=try_it) for _ in range(at_once)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == -signal.SIGKILL
    anew = start()
    assert (anew.card, anew.refused) == (served, True)
    assert "two workers that tried it were killed" in caplog.text
    second = save_net(path, seed=2)
    anew.reload()
    assert (anew.card, anew.refused) == (second, False)
