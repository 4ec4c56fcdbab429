"""What a run starts from: new weights or a checkpoint's, and the precision that the device has."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.architectures import _ARCHITECTURES, build
from models.architectures.net import Net
from models.card import PRETRAINED, SHIPPED, ModelCard
from models.checkpoint import load, save
from models.classifier import supports
from tests.networks import Centred
from training.__main__ import main
from training.data import Data
from training.errors import TrainingError, out_of_memory_told
from training.preparation import _normalisation, make_classifier, weights_to_start_from
from training.recipe import RECIPES

Draw = Callable[..., Path]
TOO_LONG = (
    "adam's learning rate would be 22.4 (--learning-rate times --norm-bias-factor), far too high: "
    "add --learning-rate 0.001 --norm-bias-factor 1, or something near it"
)
ONE_CARD = "--output cifar_net.pth would have the same model card, cifar_net.json: give --output another name"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("weights", "architecture", "last"), [("tutorial", "net", "fc3"), ("strong", "airbench", "head")]
)
def test_a_shipped_checkpoint_is_trained_on_for_other_classes(
    weights: str, architecture: str, last: str, draw_folder: Draw
) -> None:
    draw_folder()
    run = ["--data", "shapes", "--weights", weights, "--architecture", architecture, "--learning-rate", "1e-12"]
    assert main([*run, "--no-report"]) == 0
    shipped, trained = load(PRETRAINED / f"{weights}.pth"), load(Path("cifar_net.pth"))
    for name, value in shipped.net.named_parameters():
        if not name.startswith(last):
            torch.testing.assert_close(trained.net.state_dict()[name], value.data, rtol=0, atol=1e-6)
    assert len(trained.net.state_dict()[f"{last}.weight"]) == 2
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


class Wide(nn.Module):
    def __init__(self, num_classes: int, width: int = 3) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3 * 32 * 32, width), nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.hidden(x.flatten(1)))
        return logits


def test_weights_bring_their_networks_arguments_and_their_normalisation(
    draw_folder: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_ARCHITECTURES, "wide", Wide)
    draw_folder()
    card = ModelCard(architecture="wide", arguments={"width": 5}, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    save(Path("wide.pth"), Wide(10, width=5), card)
    run = ["--data", "shapes", "--architecture", "wide", "--weights", "wide.pth", "--learning-rate", "1e-12"]
    assert main([*run, "--no-report"]) == 0
    before, after = load(Path("wide.pth")), load(Path("cifar_net.pth"))
    assert (after.card.arguments, after.card.mean, after.card.std) == (card.arguments, card.mean, card.std)
    torch.testing.assert_close(after.net.state_dict()["hidden.weight"], before.net.state_dict()["hidden.weight"])


def test_a_network_may_have_a_mean_of_its_own(draw_folder: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_ARCHITECTURES, "centred", Centred)
    draw_folder()
    assert main(["--data", "shapes", "--architecture", "centred", "--epochs", "1", "--no-report"]) == 0
    there = load(Path("cifar_net.pth"))
    assert there.card.mean == (0.5, 0.5, 0.5), "what comes before the network is another"
    assert "mean" in there.net.state_dict()


class Looking(Net):
    def initialise(self, inputs: torch.Tensor) -> None:
        self.seen = inputs


def test_first_weights_are_made_of_training_images_from_the_first_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_ARCHITECTURES, "looking", Looking)
    monkeypatch.setattr("training.preparation._INITIALISE_BY", 4)
    shades = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 32, 32, 3)  # which tell them apart
    images = torch.arange(0, 20, 2)
    data = Data("", ("dark", "light"), shades, torch.arange(20) // 10, [], images, images + 1, "", (), False)
    classifier = make_classifier(replace(RECIPES["tutorial"], architecture="looking"), data, images, seed=0)
    assert torch.equal(classifier.net.seen, classifier.normalise(shades[[0, 6, 12, 18]]))  # type: ignore[arg-type]


def test_imagenets_weights_get_pictures_as_they_have_learnt_them() -> None:
    from torchvision.models import ResNet18_Weights

    theirs = ResNet18_Weights.DEFAULT.transforms()
    assert _normalisation(build("resnet18-imagenet", 2), None) == {
        "mean": tuple(theirs.mean),
        "std": tuple(theirs.std),
    }


def test_a_run_says_if_its_weights_were_trained_on_images_that_it_scores_with(
    draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(per_class=20)
    assert main(["net-best", "--data", "shapes", "--epochs", "1", "--validation", "0.25", "--no-report"]) == 0
    again = ["net-best", "--data", "shapes", "--weights", "cifar_net.pth", "--epochs", "1", "--output", "again.pth"]
    assert main([*again, "--validation", "0.25", "--no-report"]) == 0
    assert "were trained on" not in capsys.readouterr().out
    assert main([*again, "--validation", "0.5", "--no-report"]) == 0
    assert "were trained on 8 of the 16 validation images" in capsys.readouterr().out
    Path("shapes").rename("forms")
    Path("forms/circle/000.png").unlink()
    again[2] = "forms"
    assert main([*again, "--no-report"]) == 0
    assert "were trained on shapes: where its images are scored too, they score too well" in capsys.readouterr().out
    torch.save(Net().state_dict(), "cifar_net.pth")  # as the tutorial does, without a card
    Path("cifar_net.json").unlink()
    assert main([*again, "--no-report"]) == 0
    assert "Nothing says what the weights to start from were trained on: if on images" in capsys.readouterr().out


def test_each_shipped_checkpoint_is_of_the_network_of_the_recipe_of_its_name() -> None:
    for name in SHIPPED:
        assert weights_to_start_from(replace(RECIPES[name], weights=name))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--promote", "./cifar_net.pth"], f"--promote cifar_net.pth and {ONE_CARD}"),
        (["--promote", "cifar_net.pt"], f"--promote cifar_net.pt and {ONE_CARD}"),
        (["--translate", "32"], "--translate 32 shifts images of 32 pixels out of sight: choose less"),
        (["--cutout", "32"], "--cutout 32 may grey out all of an image of 32 pixels: choose less"),
        (["fast", "--optimizer", "adam"], TOO_LONG),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data", "nowhere"]) == 1
    assert capsys.readouterr().err == f"cifar-train: {sentence}\n"


@pytest.mark.parametrize("flag", ["--output", "--promote"])
def test_a_folder_where_a_card_would_go_is_told_with_its_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.json").mkdir()
    assert main([flag, "net.pth", "--data", "nowhere"]) == 1
    said = capsys.readouterr().err
    assert "net.json is a folder" in said
    assert said.endswith(f": choose another {flag}\n")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            "0.02",
            "--validation 0.02 keeps back 0 images of classes this small: there will be no temperature, and no th",
        ),
        ("0.1", "--validation 0.1 keeps back 4 images of classes this small: there will be no threshold for uncertain"),
        ("0.5", None),
    ],
)
def test_few_validation_images_set_no_threshold(
    part: str, said: str | None, draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(per_class=25)  # 40 to train on
    assert main(["net-best", "--data", "shapes", "--epochs", "1", "--validation", part, "--no-report"]) == 0
    printed = capsys.readouterr().out
    assert (load(Path("cifar_net.pth")).card.uncertain_below is None) == bool(said)
    assert ("; uncertain below " in printed) == (not said)
    assert said is None or said in printed


def test_too_little_memory_is_one_sentence() -> None:
    with pytest.raises(TrainingError, match="too little memory: choose a smaller --batch-size"), out_of_memory_told():
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="must match the size"), out_of_memory_told():
        torch.ones(2) + torch.ones(3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_of_one_image_that_cannot_be_normalised_is_one_sentence(
    precision: str, draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(per_class=20)  # 32 to train on
    small = ["--image-size", "16", "--batch-size", "1", "--epochs", "1", "--precision", precision, "--no-report"]
    assert main(["fast", "--data", "shapes", *small]) == 1
    said = capsys.readouterr()
    assert said.err.endswith(": choose another --batch-size, or a larger --image-size\n")


@pytest.mark.skipif(supports("cpu", "float16"), reason="this CPU has float16")
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
        (["--weights", "tutorial", "fast"], "add --architecture net, or choose other weights"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused_before_anything_is_read(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data", "nowhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"cifar-train: {arguments[0]}: ")
    assert said.endswith(f"{sentence}\n")
