"""How a step is run is found by trying, which leaves no trace, and fits every network."""

import torch

from models.card import ModelCard
from models.classifier import Classifier
from tests.networks import Drawing, Viewing
from training.execution import choose
from training.loop import Examples, train
from training.recipe import NET_BEST, change

PIXELS = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
EXAMPLES = Examples(PIXELS, torch.arange(64) % 10, torch.arange(64))
RECIPE = change(NET_BEST, {"epochs": 1, "batch_size": 32, "precision": "float32"})


def test_a_network_that_flattens_by_view_is_trained_and_teaches() -> None:
    pupil, teacher = Classifier(Viewing(), ModelCard()), Classifier(Viewing(), ModelCard()).eval()
    for examples in (EXAMPLES, EXAMPLES._replace(teacher=teacher)):
        before = pupil.net.fc3.weight.clone()  # type: ignore[union-attr,operator]
        train(pupil, examples, RECIPE, 0, on_loss=lambda epoch, batch, loss: None)
        assert not torch.equal(pupil.net.fc3.weight, before)  # type: ignore[union-attr,arg-type]


def test_a_teacher_that_flattens_by_view_teaches_another() -> None:
    teacher = Classifier(Viewing(), ModelCard()).eval()
    pupil = Classifier(Drawing(), ModelCard())
    train(pupil, EXAMPLES._replace(teacher=teacher), RECIPE, 0, on_loss=lambda epoch, batch, loss: None)


def test_trying_draws_nothing_of_what_the_network_will_draw() -> None:
    classifier = Classifier(Drawing(), ModelCard()).train()
    expected = torch.get_rng_state()
    choose(classifier, RECIPE)
    assert torch.equal(torch.get_rng_state(), expected)
