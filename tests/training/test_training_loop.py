"""The loop makes the tutorial's updates, reproducibly."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch import nn

from models.architectures import build
from models.card import ModelCard
from models.classifier import Classifier
from tests.networks import Drawing
from training.errors import TrainingError
from training.evaluation import accuracy
from training.execution import Execution
from training.loop import Examples, Trainer, train
from training.recipe import TUTORIAL
from training.updates import Updates

PIXELS = torch.randint(0, 256, (811, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 10, (811,), generator=torch.Generator().manual_seed(2))
EVERY = torch.arange(811)
EXAMPLES = Examples(PIXELS, LABELS, EVERY)
SOME = EXAMPLES._replace(train=EVERY[:411])  # more than a window; the last batch is of 3
FEW = EXAMPLES._replace(train=EVERY[:43])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other make the literal loop crawl where something else is running."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh_classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(build("net", num_classes=10), ModelCard())


def weights_after(seed: int, examples: Examples) -> torch.Tensor:
    classifier = fresh_classifier()
    train(classifier, examples, TUTORIAL, seed, on_loss=lambda epoch, batch, loss: None)
    return nn.utils.parameters_to_vector(classifier.net.parameters()).detach()


def literal_weights(seed: int) -> torch.Tensor:
    """The tutorial's loop, transforms included, on the images in the order that `seed` gives."""
    net = fresh_classifier().net
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(2):
        order = torch.randperm(len(SOME.train), generator=shuffle)
        order = torch.cat([order, order[:1]])  # 412, so that the last batch is of 4 as well
        for start in range(0, len(order), 4):
            batch = order[start : start + 4]
            inputs = (PIXELS[batch].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
            optimizer.zero_grad()
            loss = criterion(net(inputs), LABELS[batch])
            loss.backward()
            optimizer.step()
    return nn.utils.parameters_to_vector(net.parameters()).detach()


def test_the_updates_are_the_tutorials_the_last_batch_filled_up() -> None:
    torch.testing.assert_close(weights_after(3, SOME), literal_weights(seed=3), rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = weights_after(0, FEW)
    assert torch.equal(first, weights_after(0, FEW))
    assert not torch.equal(first, weights_after(1, FEW))


def test_the_running_loss_is_the_mean_since_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop._WINDOW_IMAGES", 200)  # 50 batches: a report may be of two windows

    def reports(every: int) -> list[tuple[int, int, float]]:
        said: list[tuple[int, int, float]] = []
        recipe = replace(TUTORIAL, epochs=1, report_every=every)
        train(fresh_classifier(), SOME, recipe, 0, on_loss=lambda *line: said.append(line))
        return said

    each = reports(50)
    assert [(epoch, batch) for epoch, batch, _ in each] == [(1, 50), (1, 100)]
    assert each[0][2] == pytest.approx(math.log(10), abs=0.05)  # what guessing among ten classes costs
    assert [line[2] for line in reports(100)] == [pytest.approx((each[0][2] + each[1][2]) / 2)]
    assert [batch for _, batch, _ in reports(35)] == [35, 70]
    assert fmean(loss for _, _, loss in reports(20)) == pytest.approx(each[0][2] / 2 + each[1][2] / 2)


@pytest.mark.parametrize(("images", "sizes"), [(257, [256, 256]), (512, [256, 256]), (100, [100])])
def test_the_last_batch_is_as_large_as_the_others(
    images: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last batch of one image would leave its own statistics in the batch normalisations of the saved network."""
    seen: list[torch.Tensor] = []

    def look(_: Updates, batches: Iterable[tuple[torch.Tensor, torch.Tensor, float]]) -> list[float]:
        targets = [targets for _, targets, _ in batches]
        seen.extend(targets)
        return [0.0] * len(targets)

    monkeypatch.setattr(Updates, "__call__", look)
    labels = torch.arange(images)  # which tell the images apart
    run = Trainer(
        fresh_classifier(),
        Examples(PIXELS[:images], labels, labels),
        replace(TUTORIAL, batch_size=256),
        0,
        Execution(threads=1, onednn=True, channels_last=False),
    )
    list(run.rest_of_epoch(lambda *_: None))
    assert [len(batch) for batch in seen] == sizes
    assert set(torch.cat(seen).tolist()) == set(range(images)), "none is left out"


def test_the_accuracy_after_an_epoch_is_of_one_look_at_each_image() -> None:
    classifier = fresh_classifier()
    classifier.card = ModelCard(tta_below=1)
    recipe = replace(TUTORIAL, epochs=1)
    (epoch,) = train(classifier, EXAMPLES._replace(validation=EVERY), recipe, 0, on_loss=lambda *_: None)
    with torch.no_grad():
        once = accuracy(classifier.one_view(PIXELS), LABELS)
        assert accuracy(classifier.logits(PIXELS), LABELS) != pytest.approx(once, abs=2 / 811)
    assert epoch.accuracy == pytest.approx(once, abs=1 / 811), "but for an image that other kernels round otherwise"


def test_validating_changes_nothing_of_the_training() -> None:
    weights = []
    for validation in (EVERY[:0], EVERY[:9]):
        torch.manual_seed(0)
        classifier = Classifier(Drawing(), ModelCard())  # which is another network while it trains
        train(classifier, FEW._replace(validation=validation), TUTORIAL, 0, on_loss=lambda *_: None)
        assert not classifier.training
        weights.append(nn.utils.parameters_to_vector(classifier.parameters()).detach())
    torch.testing.assert_close(*weights)


def test_the_learning_rate_of_a_triangle_comes_to_nothing_with_the_last_update() -> None:
    recipe = replace(TUTORIAL, schedule="triangle")
    epochs = train(fresh_classifier(), FEW, recipe, 0, on_loss=lambda *_: None)  # of 11 updates each
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([0.001 * 11 / (0.8 * 22), 0])


def test_an_epoch_too_short_for_a_report_has_one_at_its_end() -> None:
    said: list[tuple[int, int]] = []
    train(fresh_classifier(), FEW, TUTORIAL, 0, on_loss=lambda epoch, batch, loss: said.append((epoch, batch)))
    assert said == [(1, 11), (2, 11)]


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    recipe = replace(TUTORIAL, learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"^the training failed: the loss became nan in epoch 1\..* --learning-rate b"
    ):
        train(fresh_classifier(), EXAMPLES, recipe, 0, on_loss=lambda epoch, batch, loss: None)


def test_training_leaves_pytorchs_settings_as_they_were() -> None:
    before = (torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.backends.cudnn.deterministic)
    weights_after(0, FEW)
    assert (torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.backends.cudnn.deterministic) == before
