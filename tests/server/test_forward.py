"""However the network is run, it gives plain eager torch's probabilities, or is refused."""

import numpy as np
import pytest
import torch

from models.architectures import build
from models.architectures.net import Net
from models.card import ModelCard
from models.checkpoint import CheckpointError
from models.classifier import Classifier
from models.pixels import Pixels
from server.forward import fastest, make_forward
from server.wire import Probabilities
from tests.networks import Viewing

CPU = torch.device("cpu")


@pytest.mark.parametrize("tta_below", [0, 0.36, 1])
def test_onnxruntime_gives_eagers_probabilities_for_any_number_of_images(tta_below: float) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    classifier = Classifier(Net(), ModelCard(temperature=0.05, tta_below=tta_below)).eval()
    eager, faster = (make_forward(classifier, CPU, kind, threads=1) for kind in ("eager", "onnxruntime"))
    for count in (1, 3, 64):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.testing.assert_allclose(faster(pixels), eager(pixels), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("tta_below", [0, 0.36])
def test_onnxruntime_runs_on_the_cpu_of_a_machine_with_a_gpu_too(tta_below: float) -> None:
    pytest.importorskip("onnxruntime")
    classifier = Classifier(Net(), ModelCard(tta_below=tta_below)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = classifier(torch.tensor(pixels)).numpy()
    forward = make_forward(classifier, torch.device("cuda"), "onnxruntime", threads=1)
    np.testing.assert_allclose(forward(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("net", [Net, Viewing])
def test_the_way_that_is_fastest_here_gives_the_networks_own_probabilities(net: type[Net]) -> None:
    classifier = Classifier(net().eval(), ModelCard())
    forward = make_forward(classifier, CPU, "eager", threads=1)
    for count in (1, 33):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = classifier(torch.tensor(pixels)).numpy()
        np.testing.assert_allclose(forward(pixels), expected, atol=1e-6)


def test_a_network_of_another_precision_answers_in_that_or_more_exactly() -> None:
    torch.manual_seed(0)
    classifier = Classifier(build("airbench", num_classes=10), ModelCard(architecture="airbench", precision="bfloat16"))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = classifier.eval()(torch.tensor(pixels)).numpy()
    probabilities = make_forward(classifier, CPU, "eager", threads=1)(pixels)
    assert np.abs(probabilities - expected).max() < 0.01
    pytest.importorskip("onnxruntime")
    assert np.abs(make_forward(classifier, CPU, "onnxruntime", threads=1)(pixels) - expected).max() < 0.01


def test_a_network_is_run_in_the_fastest_way_that_works() -> None:
    def slow(pixels: Pixels) -> Probabilities:
        return np.sort(np.random.default_rng(0).random((1_000_000, 1), np.float32), axis=0)

    def broken(pixels: Pixels) -> Probabilities:
        raise RuntimeError("view size is not compatible")

    def fast(pixels: Pixels) -> Probabilities:
        return np.zeros((1, 1), np.float32)

    assert fastest([slow, broken, fast], np.zeros((8, 4, 4, 3), np.uint8)) is fast


class Undecided(Net):
    """Answers a tracer otherwise than it answers anybody else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits.flip(1) if torch.onnx.is_in_onnx_export() else logits


class Unwilling(Net):
    """Raises what no network of ours does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such\nlayer" + "." * 1000)


class Untraceable(Net):
    """Answers all but a tracer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.onnx.is_in_onnx_export():
            raise IndexError("not for you")
        return super().forward(x)


def test_whatever_a_network_raises_is_one_line_of_a_refusal() -> None:
    with pytest.raises(CheckpointError, match=r"^the network fails on cpu, 32×32: KeyError: .{300}$"):
        make_forward(Classifier(Unwilling(), ModelCard()).eval(), CPU, "eager", threads=1)


def test_a_network_that_onnxruntime_cannot_run_is_refused() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError, match=r"serve with --forward eager \(IndexError: not for you"):
        make_forward(Classifier(Untraceable(), ModelCard()).eval(), CPU, "onnxruntime", threads=1)


def test_a_forward_that_disagrees_with_eager_is_refused() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError, match="serve with --forward eager"):
        make_forward(Classifier(Undecided(), ModelCard()).eval(), CPU, "onnxruntime", threads=1)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_answer_no_probabilities_are_refused(broken: float) -> None:
    net = Net()
    net.fc3.weight.data.fill_(broken)
    with pytest.raises(CheckpointError, match="does not answer a picture with 10 finite probabilities"):
        make_forward(Classifier(net, ModelCard()).eval(), CPU, "eager", threads=1)
