"""What a recipe says is what is done, and what `cifar-train` shows of it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models.card import ModelCard
from models.checkpoint import load
from models.classifier import Classifier
from training.__main__ import main
from training.data import Data
from training.evaluation import fit_temperature, logits_of, uncertainty_threshold
from training.recipe import FIELDS, NET_BEST, RECIPES, TUTORIAL
from training.run import calibrate
from training.updates import learning_rate_factor


def test_a_recipe_with_validation_images_puts_its_temperature_and_threshold_into_the_card(
    draw_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_folder(per_class=50)
    command = "net-best --data shapes --epochs 2 --validation 0.25 --tta-below 0.8 --no-report"
    assert main(command.split()) == 0
    card = load(Path("cifar_net.pth")).card
    assert card.training is not None
    assert (card.training.images, card.training.validation_images, card.tta_below) == (60, 20, 0.8)
    assert card.temperature != 1
    assert card.uncertain_below is not None
    said = capsys.readouterr().out
    assert "on the 20 validation images: " in said
    assert f"temperature {card.temperature:.2f}; uncertain below {100 * card.uncertain_below:.1f} % confidence" in said


class Lopsided(nn.Module):
    """Looks only at the left half of a picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = 100 * x[..., :16].mean(dim=(1, 2, 3))
        return torch.stack([left, -left], dim=1)


def test_the_temperature_fits_the_answers_of_an_unsure_network_as_they_are_served() -> None:
    pixels = torch.randint(0, 256, (500, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(Lopsided(), ModelCard(classes=("bright", "dark"), tta_below=0.7))
    every = torch.arange(500)
    labels = (logits_of(classifier, pixels, every).argmax(dim=1) + (every % 3 == 0)) % 2
    data = Data("", ("bright", "dark"), pixels, labels, [], every, every, "", (), False)
    calibrate(classifier, data, every)
    logits = logits_of(classifier, pixels, every)
    assert classifier.card.temperature == pytest.approx(fit_temperature(logits, labels), rel=0.01)
    assert classifier.card.uncertain_below == pytest.approx(
        uncertainty_threshold(logits / classifier.card.temperature), rel=0.01
    )


def test_list_shows_every_recipe_and_the_fields_of_one_as_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net-best", "--translate", "3", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in RECIPES)
    assert "74.8 ± 0.2 % (n = 5), 148 s\n" in shown
    assert re.search(r"--translate +3 +largest random shift", shown)
    assert set(re.findall(r"^  --([a-z-]+)", shown, re.MULTILINE)) == {name.replace("_", "-") for name in FIELDS}


def test_a_triangle_rises_for_a_fifth_of_the_updates_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(NET_BEST, 100, done) for done in range(101)]
    assert factors.index(max(factors)) in (19, 20)
    assert (factors[0], max(factors), factors[100]) == (0.05, 1, 0)
    assert factors[60] == pytest.approx(0.5)
    assert learning_rate_factor(TUTORIAL, 100, 60) == 1
