"""What a run starts from: new weights or a checkpoint's, and the precision that the device has."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.card import SHIPPED, TUTORIAL_NET
from models.checkpoint import load
from training.__main__ import main
from training.preparation import weights_to_start_from
from training.recipe import RECIPES

Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_shipped_checkpoint_is_trained_on_for_other_classes(draw_folder: Draw) -> None:
    draw_folder()
    assert main(["--data", "shapes", "--weights", "tutorial", "--learning-rate", "1e-12", "--no-report"]) == 0
    shipped, trained = load(TUTORIAL_NET), load(Path("cifar_net.pth"))
    for name, value in shipped.net.state_dict().items():
        if not name.startswith("fc3"):
            torch.testing.assert_close(trained.net.state_dict()[name], value, rtol=0, atol=1e-6)
    assert trained.net.state_dict()["fc3.weight"].shape == (2, 84)
    assert trained.card.training
    assert trained.card.training.started_from == shipped.card.sha256


def test_a_run_goes_on_from_where_another_ended(draw_folder: Draw) -> None:
    draw_folder()
    assert main(["--data", "shapes", "--epochs", "1", "--no-report"]) == 0
    again = ["--data", "shapes", "--weights", "cifar_net.pth", "--learning-rate", "1e-12", "--no-report"]
    assert main([*again, "--output", "again.pth"]) == 0
    first, second = load(Path("cifar_net.pth")).net.state_dict(), load(Path("again.pth")).net.state_dict()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)


def test_the_card_tells_who_taught_the_network(draw_folder: Draw) -> None:
    draw_folder()
    assert main(["--data", "shapes", "--no-report", "--output", "teacher.pth"]) == 0
    assert main(["--data", "shapes", "--teacher", "teacher.pth", "--no-report"]) == 0
    taught = load(Path("cifar_net.pth")).card.training
    assert taught
    assert taught.taught_by == load(Path("teacher.pth")).card.sha256


def test_a_teacher_of_other_classes_is_refused(draw_folder: Draw, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder()
    assert main(["--data", "shapes", "--teacher", "tutorial", "--no-report"]) == 1
    assert capsys.readouterr().err == (
        "cifar-train: --teacher: its 10 classes (airplane, automobile, bird, cat, deer, dog, frog, horse, …) are not "
        "the 2 of the data (circle, square): train a teacher on the same data\n"
    )


def test_each_shipped_checkpoint_is_of_the_network_of_the_recipe_of_its_name() -> None:
    for name in SHIPPED:
        assert weights_to_start_from(replace(RECIPES[name], weights=name))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--promote", "./cifar_net.pth"], "--promote cifar_net.pth is --output itself: give --output another name"),
        (["--translate", "32"], "--translate 32 shifts images of 32 pixels out of sight: choose less"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data", "nowhere"]) == 1
    assert capsys.readouterr().err == f"cifar-train: {sentence}\n"


def test_a_last_batch_of_one_image_that_cannot_be_normalised_is_one_sentence(
    draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(per_class=20)  # 32 to train on
    small = ["--image-size", "16", "--batch-size", "31", "--epochs", "1", "--precision", "float32", "--no-report"]
    assert main(["fast", "--data", "shapes", *small]) == 1
    said = capsys.readouterr()
    assert "--validation 0.02 keeps no image of classes this small" in said.out
    assert said.err.endswith(": choose another --batch-size, or a larger --image-size\n")


@pytest.mark.skipif(torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU has float16")
def test_a_precision_that_the_device_has_not_is_not_imitated(
    draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder()
    assert main(["--data", "shapes", "--precision", "float16", "--no-report"]) == 0
    assert "This cpu has no float16: training in float32\n" in capsys.readouterr().out
    assert load(Path("cifar_net.pth")).card.precision == "float32"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--weights", "nowhere.pth"], "nowhere.pth: train one with cifar-train"),
        (["--teacher", "nowhere.pth"], "nowhere.pth: train one with cifar-train"),
        (["--weights", "tutorial", "fast"], "add --architecture net, or choose other weights"),
        (["--teacher", "tutorial", "resnet18", "--image-size", "64"], "add --image-size 32, or choose another teacher"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused_before_anything_is_read(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data", "nowhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"cifar-train: {arguments[0]}: ")
    assert said.endswith(f"{sentence}\n")
