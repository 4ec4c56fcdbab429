"""The faster forward agrees with eager torch, or is refused."""

import numpy as np
import pytest
import torch

from models.architectures.net import Net
from models.card import ModelCard
from models.checkpoint import CheckpointError
from models.classifier import Classifier
from server.forward import make_forward

CPU = torch.device("cpu")


def test_onnxruntime_gives_eagers_probabilities_for_any_number_of_images() -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    classifier = Classifier(Net(), ModelCard()).eval()
    eager, faster = (make_forward(classifier, CPU, kind, threads=1) for kind in ("eager", "onnxruntime"))
    for count in (1, 3, 64):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.testing.assert_allclose(faster(pixels), eager(pixels), atol=1e-5)


class Undecided(Net):
    """Answers a tracer otherwise than it answers anybody else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits.flip(1) if torch.onnx.is_in_onnx_export() else logits


def test_a_forward_that_disagrees_with_eager_is_refused() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError, match="serve with --forward eager"):
        make_forward(Classifier(Undecided(), ModelCard()).eval(), CPU, "onnxruntime", threads=1)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_answer_no_probabilities_are_refused(broken: float) -> None:
    net = Net()
    net.fc3.weight.data.fill_(broken)
    with pytest.raises(CheckpointError, match="does not answer a picture with 10 probabilities"):
        make_forward(Classifier(net, ModelCard()).eval(), CPU, "eager", threads=1)
