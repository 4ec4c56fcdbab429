"""Learning rates, precision and compilation do to the weights what the recipe says."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn.functional import nll_loss

from models.architectures import build
from models.card import ModelCard
from models.classifier import Classifier, supports
from tests.networks import Skipping
from training.muon import Muon, orthogonal
from training.recipe import FAST, NET_BEST, STRONG, TUTORIAL, Recipe
from training.updates import Updates, compiled, learning_rate_factor, make_criterion, make_optimizers

OptimizerName = Literal["sgd", "adam", "muon"]

BATCH = (torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(8), 1.0)


@pytest.fixture(autouse=True)
def same_weights_at_first() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def classifier_of(recipe: Recipe) -> Classifier:
    card = ModelCard(architecture=recipe.architecture, precision=recipe.precision)
    return Classifier(build(recipe.architecture, num_classes=10), card)


def test_only_the_biases_of_normalisations_learn_faster_and_all_decay_alike() -> None:
    net = build("airbench", num_classes=10)
    (optimizer,) = make_optimizers(net, STRONG)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    decays = [group["lr"] * group["weight_decay"] for group in optimizer.param_groups]
    assert decays == pytest.approx([STRONG.learning_rate * STRONG.weight_decay] * 2)
    for name, parameter in net.named_parameters():
        fast = "norm" in name and name.endswith("bias")
        assert rates[id(parameter)] == STRONG.learning_rate * (64 if fast else 1), name


def test_what_a_network_holds_fixed_stays_as_it_was() -> None:
    classifier = classifier_of(FAST)
    before = {name: value.clone() for name, value in classifier.net.named_parameters()}
    Updates(classifier.train(), FAST, count=2, labels=BATCH[1])([BATCH, BATCH])
    for name, parameter in classifier.net.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_adam_makes_torchs_own_updates() -> None:
    recipe = replace(TUTORIAL, optimizer="adam", weight_decay=0.01)
    classifier = classifier_of(recipe).train()
    net = copy.deepcopy(classifier.net)
    Updates(classifier, recipe, count=3, labels=BATCH[1])([BATCH] * 3)
    optimizer = torch.optim.Adam(net.parameters(), recipe.learning_rate, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(BATCH[0]), BATCH[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for mine, theirs in zip(classifier.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_updates_go_on_alike_where_the_weights_lie_otherwise_in_memory(optimizer: OptimizerName) -> None:
    recipe = replace(TUTORIAL, optimizer=optimizer)
    here, there = classifier_of(recipe).train(), classifier_of(recipe).train()
    here.net.to(memory_format=torch.channels_last)
    updates = Updates(here, recipe, count=4, labels=BATCH[1])
    updates([BATCH] * 2)
    there.net.load_state_dict(here.net.state_dict())
    elsewhere = Updates(there, recipe, count=4, labels=BATCH[1])
    elsewhere.restore(copy.deepcopy(updates.state()))
    for each in (updates, elsewhere):
        each([BATCH] * 2)
    for mine, theirs in zip(there.net.parameters(), here.net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_weight_may_have_its_first_gradient_later_than_others(nesterov: bool) -> None:
    classifier, alike = (Classifier(Skipping(), ModelCard()) for _ in range(2))
    alike.load_state_dict(classifier.state_dict())
    recipe = replace(TUTORIAL, learning_rate=0.01, nesterov=nesterov)
    Updates(classifier, recipe, 3, torch.arange(8))([BATCH] * 3)
    plain = torch.optim.SGD(alike.net.parameters(), 0.01, momentum=0.9, nesterov=nesterov)
    for _ in range(3):
        plain.zero_grad()
        nn.functional.cross_entropy(alike.net(BATCH[0]), BATCH[1]).backward()  # type: ignore[no-untyped-call]
        plain.step()
    torch.testing.assert_close(classifier.state_dict(), alike.state_dict())


def test_muon_is_for_the_weights_of_layers_and_sgd_for_all_else() -> None:
    net = build("airbench", num_classes=10)
    sgd, muon = make_optimizers(net, FAST)
    by_sgd, by_muon = ({id(each) for group in one.param_groups for each in group["params"]} for one in (sgd, muon))
    assert not by_sgd & by_muon
    for name, parameter in net.named_parameters():
        assert id(parameter) in (by_muon if parameter.dim() > 1 and parameter.requires_grad else by_sgd), name
    (alone,) = make_optimizers(nn.Linear(3, 2, bias=False), FAST)
    assert alone.defaults["lr"] == FAST.muon_learning_rate


@pytest.mark.parametrize("shape", [(8, 40), (40, 8)])
def test_muon_makes_torchs_own_steps_but_for_their_rounding(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizers = Muon([ours], 0.1, 0.2), torch.optim.Muon([theirs], 0.1, 0.2)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - theirs).norm() < 0.01 * (theirs - 1).norm(), "torch computes in bfloat16"


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (10, 10)])
def test_what_is_orthogonal_has_no_direction_much_longer_than_another(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ v.T  # in the directions of the matrix's own
    assert 0.6 < found.diag().min() <= found.diag().max() < 1.3
    assert (found - found.diag().diag()).abs().max() < 1e-3


@pytest.mark.parametrize("recipe", [STRONG, replace(FAST, optimizer="adam", learning_rate=0.001), FAST])
def test_updates_go_on_from_their_state_as_if_they_had_not_stopped(recipe: Recipe) -> None:
    one = classifier_of(recipe).train()
    updates = Updates(one, recipe, count=4, labels=BATCH[1])
    updates([BATCH, BATCH])
    other = copy.deepcopy(one)
    going_on = Updates(other, recipe, count=4, labels=BATCH[1])
    going_on.restore(copy.deepcopy(updates.state()))
    assert updates([BATCH]) == going_on([BATCH])
    for mine, theirs in zip(one.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.skipif(not supports("cpu", "bfloat16"), reason="this CPU has no bfloat16")
def test_bfloat16_makes_nearly_the_same_updates_and_leaves_float32_weights() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        recipe = replace(TUTORIAL, precision=precision, learning_rate=0.01)
        classifier = classifier_of(recipe).train()
        losses[precision] = Updates(classifier, recipe, count=20, labels=BATCH[1])([BATCH] * 20)
        assert {parameter.dtype for parameter in classifier.net.parameters()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)
    assert losses["float32"][-1] < losses["float32"][0] - 0.05


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_an_overflow_in_the_first_update_leaves_nothing_behind(optimizer: OptimizerName) -> None:
    recipe = replace(TUTORIAL, precision="float16", optimizer=optimizer)
    classifier = classifier_of(recipe).train()
    before = copy.deepcopy(classifier)
    updates = Updates(classifier, recipe, count=3, labels=BATCH[1])
    updates([(BATCH[0] * torch.inf, *BATCH[1:])])
    Updates(before, recipe, count=3, labels=BATCH[1])([BATCH])
    updates([BATCH])
    for mine, theirs in zip(classifier.net.parameters(), before.net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("updates", [1, 2, 4, 9, 11, 1000])
def test_the_learning_rate_is_never_higher_than_at_its_highest(updates: int) -> None:
    factors = [learning_rate_factor(NET_BEST, updates, done) for done in range(updates)]
    assert 0.5 < max(factors) <= 1
    assert min(factors) > 0


@pytest.mark.parametrize("recipe", [STRONG, FAST])
def test_every_optimizer_makes_its_last_step_with_the_last_update(recipe: Recipe) -> None:
    classifier = classifier_of(recipe).train()
    updates = Updates(classifier, recipe, count=2, labels=BATCH[1])
    weights = []
    for _ in range(3):
        updates([BATCH])
        weights.append(torch.nn.utils.parameters_to_vector(classifier.net.parameters()).detach())
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_nesterovs_step_is_taken_where_there_is_momentum(momentum: float) -> None:
    (sgd,) = make_optimizers(build("net", num_classes=2), replace(TUTORIAL, nesterov=True, momentum=momentum))
    biases, others = sgd.param_groups
    assert biases["nesterov"] == others["nesterov"] == (momentum > 0)
    assert others["momentum"] == momentum


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_weighted_loss_counts_every_class_alike_over_an_epoch_of_any_batches(smoothing: float) -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 6)
    logits = torch.randn(96, 3, generator=torch.Generator().manual_seed(1))
    plain = replace(TUTORIAL, label_smoothing=smoothing)
    log_probabilities = logits.log_softmax(dim=1)
    expected = (1 - smoothing) * nll_loss(log_probabilities, labels) - smoothing * log_probabilities.mean()
    torch.testing.assert_close(make_criterion(plain, labels)(logits, labels), expected)
    of_class = [make_criterion(plain, labels)(logits[labels == label], labels[labels == label]) for label in range(3)]
    weighted = make_criterion(replace(plain, weighted_loss=True), labels)
    for batch in (1, 32, 96):
        batches = zip(torch.split(logits, batch), torch.split(labels, batch), strict=True)
        losses = torch.stack([weighted(*each) for each in batches])
        torch.testing.assert_close(losses.mean(), torch.stack(of_class).mean())


def test_a_compiler_that_fails_without_a_word_is_named_by_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("training.updates.forward_and_backward", fail)
    classifier = classifier_of(TUTORIAL)
    assert compiled(classifier.train(), TUTORIAL) is classifier.net
    assert capsys.readouterr().out.endswith("torch.compile fails here: NotImplementedError\n")


def test_where_nothing_can_be_compiled_the_network_trains_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    classifier = classifier_of(replace(FAST, precision="float32"))
    before = {name: value.clone() for name, value in classifier.net.state_dict().items()}
    assert compiled(classifier.train(), replace(FAST, precision="float32", batch_size=2)) is classifier.net
    said = capsys.readouterr().out
    assert said.startswith("Training without --compile, since torch.compile fails here: ")
    assert said.count("\n") == 1
    assert all(torch.equal(value, before[name]) for name, value in classifier.net.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.net.parameters())
