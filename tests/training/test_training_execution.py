"""How a step is run is found by trying, which leaves no trace, and fits every network."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from models.architectures import build
from models.architectures.airbench import Airbench
from models.architectures.net import Net
from models.card import ModelCard
from models.classifier import Classifier
from tests.networks import Deep, Drawing, Normed, Viewing
from training.execution import Execution, choose, chosen_before
from training.loop import Examples, train
from training.recipe import FAST, NET_BEST

PIXELS = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
EXAMPLES = Examples(PIXELS, torch.arange(64) % 10, torch.arange(64))
RECIPE = replace(NET_BEST, epochs=1, batch_size=32, precision="float32")


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("net", [Viewing, Normed, Deep])
def test_a_network_that_flattens_by_view_or_has_norms_apart_is_trained(net: type[Net]) -> None:
    classifier = Classifier(net(), ModelCard())
    before = classifier.net.fc3.weight.clone()  # type: ignore[union-attr,operator]
    train(classifier, EXAMPLES, RECIPE, 0, on_loss=lambda epoch, batch, loss: None)
    assert not torch.equal(classifier.net.fc3.weight, before)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("device", "threads", "goes_on"), [("cpu", 1, True), ("cpu", 10_000, False), ("cuda", 1, False)]
)
def test_a_saved_run_is_executed_as_before_where_this_machine_can(
    device: str, threads: int, goes_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    execution = Execution(threads, onednn=True, channels_last=False)
    state = {"execution": tuple(execution), "device": device}
    assert chosen_before(state, torch.device("cpu")) == (execution if goes_on else None)
    said = "" if goes_on else "This run began on another machine: its result may differ\n"
    assert capsys.readouterr().out == said


def test_one_image_for_each_process_can_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.distributed.world_size", lambda: 2)
    recipe = replace(FAST, image_size=16, batch_size=2, precision="float32")
    classifier = Classifier(build("airbench", 2), ModelCard(architecture="airbench", input_size=16))
    choose(classifier.train(), recipe)


@pytest.mark.parametrize("net", [Drawing, Airbench])
def test_trying_leaves_the_network_and_what_it_will_draw_as_they_were(net: type[nn.Module]) -> None:
    classifier = Classifier(net(), ModelCard()).train()
    before, draws = copy.deepcopy(classifier.state_dict()), torch.get_rng_state()
    choose(classifier, replace(RECIPE, batch_size=4))
    torch.testing.assert_close(classifier.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), draws)
