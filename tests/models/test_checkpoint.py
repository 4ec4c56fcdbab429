"""A checkpoint is the tutorial's own file, with a card that can be trusted, and damage is told in one sentence."""

import io
import json
import logging
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from models.architectures import build
from models.architectures.net import Net
from models.card import CIFAR10_CLASSES, ModelCard, Scores
from models.checkpoint import CheckpointError, card_path, load, save


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "cifar_net.pth"
    save(path, Net(num_classes=3), ModelCard(classes=("cat", "dog", "ship"), mean=(0.4, 0.5, 0.6)))
    return path


def test_the_tutorials_own_lines_load_what_we_save(tmp_path: Path) -> None:
    path = tmp_path / "cifar_net.pth"
    trained = Net()
    save(path, trained, ModelCard())
    net = Net()
    net.load_state_dict(torch.load(path, weights_only=True))
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), trained.parameters(), strict=True))


def test_what_the_tutorial_saved_is_loaded_with_its_ten_classes(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "cifar_net.pth")
    classifier = load(tmp_path / "cifar_net.pth")
    assert classifier.card.classes == CIFAR10_CLASSES
    assert len(classifier.card.version) == 12


def test_the_card_comes_back_with_the_weights_hash(saved: Path) -> None:
    card = load(saved).card
    assert card.classes == ("cat", "dog", "ship")
    assert card.mean == (0.4, 0.5, 0.6)
    assert card.sha256
    assert card.sha256.startswith(card.version)


def test_the_confusion_matrix_of_2000_classes_fits_into_a_card(tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(2000))
    confusion = ((50,) * len(classes),) * len(classes)
    scores = Scores(
        data="all wrong", n=1, accuracy=0, interval=(0, 1), per_class={"class 0": 0}, calibration_error=0,
        confusion=confusion,
    )  # fmt: skip
    save(tmp_path / "net.pth", Net(num_classes=2000), ModelCard(classes=classes, scores=scores))
    there = load(tmp_path / "net.pth").card.scores
    assert there
    assert there.confusion == confusion


def test_a_card_of_other_weights_is_left_out_saying_so(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(Net().state_dict(), saved)
    with caplog.at_level(logging.WARNING):
        assert load(saved).card.classes == CIFAR10_CLASSES
    assert "describes other weights" in caplog.text


@pytest.mark.parametrize("there_before", [True, False])
def test_whoever_is_killed_between_the_renames_of_weights_and_card_leaves_both_whole(
    there_before: bool, saved: Path
) -> None:
    if not there_before:
        saved.unlink()
        saved.with_suffix(".json").unlink()
    card = ModelCard(classes=("cat", "dog"), temperature=3)
    writer = multiprocessing.get_context("fork").Process(target=save_until_the_card, args=(saved, Net(2), card))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert saved.with_suffix(".json").exists() == there_before
    there = load(saved).card
    assert (there.classes, there.temperature) == (card.classes, card.temperature)
    save(saved, Net(2), ModelCard(classes=("cat", "cow")))
    assert load(saved).card.classes == ("cat", "cow")


def save_until_the_card(path: Path, net: Net, card: ModelCard) -> None:
    def rename(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            os.kill(os.getpid(), signal.SIGKILL)
        source.rename(target)

    Path.replace = rename  # type: ignore[method-assign,assignment]
    save(path, net, card)


def test_files_are_as_private_as_the_users_others(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(tmp_path / "cifar_net.pth", Net(), ModelCard())
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    (tmp_path / "cifar_net.pth").chmod(0o644)  # for a service of another user
    before = os.umask(0o077)
    try:
        save(tmp_path / "cifar_net.pth", Net(), ModelCard())
    finally:
        os.umask(before)
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {".pth": 0o644, ".json": 0o640}


def test_saving_leaves_no_temporary_file(saved: Path) -> None:
    assert sorted(path.name for path in saved.parent.iterdir()) == ["cifar_net.json", "cifar_net.pth"]


def test_a_disk_that_is_full_after_the_weights_leaves_the_old_checkpoint_and_its_card(saved: Path) -> None:
    before = {path: path.read_bytes() for path in saved.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))  # bytes a file: the weights fit, the card does not
    try:
        with pytest.raises(OSError, match="File too large"):
            save(saved, Net(), ModelCard(classes=("cat", "d" * 500_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in saved.parent.iterdir()} == before


def whole_pickled_model() -> bytes:
    buffer = io.BytesIO()
    torch.save(nn.Linear(1, 1), buffer)
    return buffer.getvalue()


def named_by_numbers() -> bytes:
    buffer = io.BytesIO()
    torch.save({0: torch.zeros(1)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "weights", [b"", b"garbage", whole_pickled_model(), named_by_numbers(), b"PK\x03\x04" + bytes(100)]
)
def test_damaged_weights_are_refused_in_one_sentence(tmp_path: Path, weights: bytes) -> None:
    path = tmp_path / "cifar_net.pth"
    path.write_bytes(weights)
    with pytest.raises(CheckpointError, match=r"cifar_net\.pth .*state_dict"):
        load(path)


def test_a_truncated_checkpoint_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-1000])
    card_path(saved).unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        load(saved)


def test_a_missing_checkpoint_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cifar-train"):
        load(tmp_path / "nothing.pth")


def test_weights_of_another_architecture_are_refused_naming_what_differs(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "cifar_net.pth")
    with pytest.raises(CheckpointError, match=r"conv1\.weight"):
        load(tmp_path / "cifar_net.pth")


@pytest.mark.parametrize(
    "card",
    [
        "not json",
        "[]",
        '{"classes": ["one"]}',
        '{"classes": ["a", "a"]}',
        '{"std": [1, 0, 1]}',
        '{"temperature": 1e999}',
        '{"mean": [0, NaN, 0]}',
        '{"arguments": {"width": -Infinity}}',
    ],
)
def test_a_card_that_is_none_is_refused_naming_its_file(saved: Path, card: str) -> None:
    card_path(saved).write_text(card)
    with pytest.raises(CheckpointError, match=r"cifar_net\.json is not a model card"):
        load(saved)


def test_a_card_cannot_name_an_architecture_outside_the_registry(saved: Path) -> None:
    card = json.loads(card_path(saved).read_text()) | {"architecture": "os.system"}
    card_path(saved).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"no architecture is called 'os.system'; there are: airbench, "):
        load(saved)


def test_the_registry_builds_by_name() -> None:
    assert isinstance(build("net", num_classes=5), Net)
