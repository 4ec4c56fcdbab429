"""A retrained checkpoint takes the place of the one that is served where it was asked to, and never a better one's."""

import fcntl
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.architectures.net import Net
from models.card import CIFAR10_CLASSES, ModelCard, Scores
from models.checkpoint import load, save
from training import handover, promotion
from training.__main__ import main
from training.evaluation import evaluate

SHAPES = ("circle", "square")
RUN = ["--data", "shapes", "--epochs", "15", "--output", "new.pth", "--promote", "served.pth", "--no-report"]


@pytest.fixture(autouse=True)
def in_a_folder_with_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw_folder: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_folder(per_class=60)


def serve_one_that_says(class_id: int, classes: tuple[str, ...] = SHAPES, size: int = 32) -> str:
    """Saves a network that answers one class for everything as served.pth; returns its version."""
    net = Net(num_classes=len(classes))
    torch.nn.init.zeros_(net.fc3.weight)
    with torch.no_grad():
        net.fc3.bias.copy_(torch.nn.functional.one_hot(torch.tensor(class_id), len(classes)))
    return save(Path("served.pth"), net, ModelCard(classes=classes, input_size=size)).version


def served() -> str:
    return load(Path("served.pth")).card.version


def test_the_first_checkpoint_is_promoted_and_another_only_if_it_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--if-better"]) == 0
    first = load(Path("new.pth")).card
    assert served() == first.version
    assert "Promoted to served.pth" in capsys.readouterr().out
    assert main([*RUN, "--if-better"]) == 0
    assert "Promoted to served.pth" in capsys.readouterr().out, "as where it was stopped after that, and resumed"

    assert main([*RUN, "--epochs", "1", "--seed", "1", "--if-better"]) == 0
    assert served() == first.version
    assert re.search(r"Not promoted: served\.pth is right on .* of 24 test images, this", capsys.readouterr().out)

    assert main([*RUN, "--epochs", "1", "--seed", "1"]) == 0
    assert served() == load(Path("new.pth")).card.version != first.version


def test_a_better_checkpoint_takes_the_place_of_one_that_guesses() -> None:
    guessing = serve_one_that_says(0)
    assert main([*RUN, "--if-better"]) == 0
    assert served() != guessing


def test_one_that_is_right_on_as_many_stays() -> None:
    assert main([*RUN, "--epochs", "1"]) == 0
    there = load(Path("served.pth"))
    with torch.no_grad():
        for last in there.net.fc3.parameters():  # type: ignore[union-attr]
            last *= 2  # other bytes that give the same answers
    before = save(Path("served.pth"), there.net, there.card).version
    assert main([*RUN, "--epochs", "1", "--if-better"]) == 0
    assert served() == before != load(Path("new.pth")).card.version


def test_while_one_run_compares_and_promotes_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_one_that_says(0)
    others_are_kept_out = []

    def evaluate_as_another_comes(*arguments: Any) -> Scores:
        descriptor = os.open(".", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        others_are_kept_out.append(True)
        return evaluate(*arguments)

    monkeypatch.setattr(promotion, "evaluate", evaluate_as_another_comes)
    assert main([*RUN, "--epochs", "1", "--if-better"]) == 0
    assert others_are_kept_out


def test_ctrl_c_while_it_compares_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guessing = serve_one_that_says(0)

    def evaluate_and_interrupt(*arguments: Any) -> Scores:
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "evaluate", evaluate_and_interrupt)
        assert main([*RUN, "--if-better"]) == 130
    assert capsys.readouterr().err == "cifar-train: stopped; the same command with --resume goes on\n"
    assert served() == guessing
    assert main([*RUN, "--if-better", "--resume"]) == 0
    assert served() == load(Path("new.pth")).card.version


def test_a_served_checkpoint_that_answers_nan_is_replaced() -> None:
    net = Net(num_classes=2)
    torch.nn.init.constant_(net.fc3.bias, torch.nan)
    broken = save(Path("served.pth"), net, ModelCard(classes=SHAPES)).version
    assert main([*RUN, "--epochs", "1", "--if-better"]) == 0
    assert served() != broken


def test_other_classes_are_not_replaced_and_what_cannot_be_asked_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for classes, size in ((("cat", "dog"), 32), (SHAPES, 16)):
        other = serve_one_that_says(0, classes, size)
        assert main([*RUN, "--if-better"]) == 1
        assert served() == other
        said = capsys.readouterr()
        assert "has other classes or another image size than this run" in said.err
        assert "Training" not in said.out, "told before the hours that it would have been in vain"
    Path("served.pth").write_bytes(b"damaged")
    assert main([*RUN, "--if-better"]) == 1
    said = capsys.readouterr()
    assert "cannot be loaded: served.pth is damaged" in said.err
    assert "Training" not in said.out
    assert Path("served.pth").read_bytes() == b"damaged"


def test_where_it_cannot_be_promoted_the_run_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("models").mkdir()
    run = [*RUN[: RUN.index("--promote")], "--epochs", "1", "--promote", "models/served.pth"]

    def promote_into_a_folder_that_is_gone(*arguments: Any) -> str:
        Path("models").rmdir()
        return promotion.promote(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(handover, "promote", promote_into_a_folder_that_is_gone)
        assert main(run) == 1
    assert "models/served.pth cannot be written: No such file or directory. The run" in capsys.readouterr().err
    assert Path("new.run/report.html").exists()
    Path("models").mkdir()
    assert main([*run, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "Promoted to models/served.pth" in said
    assert "[1, " not in said, "nothing is trained again"
    assert load(Path("models/served.pth")).card.version == load(Path("new.pth")).card.version
    assert not Path("new.resume").exists()


def test_what_ships_is_not_replaced_by_one_that_scores_less(
    cifar_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        for name in CIFAR10_CLASSES:
            folder = Path("shapes") / part / name
            folder.mkdir(parents=True)
            for path in sorted((cifar_data / part / name).iterdir())[:10]:
                (folder / path.name).symlink_to(path)
    assert main([*RUN, "--epochs", "1", "--if-better"]) == 0
    assert not Path("served.pth").exists()
    assert "Not promoted: there is no served.pth, and strong, which cifar-serve serves" in capsys.readouterr().out
