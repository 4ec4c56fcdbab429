"""The forward pass: eager torch, which is the reference, or ONNX Runtime on the CPU, which must agree with it."""

import contextlib
import copy
import importlib.util
import io
import math
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from models.checkpoint import CheckpointError
from models.classifier import Classifier, supports
from models.pixels import Pixels
from server.wire import Probabilities

# uint8 [N, H, W, 3] → float32 [N, C], rows summing to 1.
Forward = Callable[[Pixels], Probabilities]

_CANARY_IMAGES = 8
_TRIALS = 20  # of each way to run a network on the CPU, or fewer if they take longer than _TRIALS_S
_TRIALS_S = 0.2
_MOST_SAID = 300  # characters of an exception's message
_TOLERANCE = 1e-4  # of a probability: what summing in another order can change


def make_forward(classifier: Classifier, device: torch.device, kind: str, threads: int) -> Forward:
    """`kind` is `eager` or `onnxruntime`. Raises CheckpointError if a canary batch fails, or the two disagree on it."""
    try:
        return _try_out(classifier, device, kind, threads)
    except CheckpointError:
        raise
    except Exception as error:  # a network may raise anything, and a device may lack memory for it
        size = classifier.card.input_size
        raise CheckpointError(f"the network fails on {device}, {size}×{size}: {_one_line(error)}") from error


def _try_out(classifier: Classifier, device: torch.device, kind: str, threads: int) -> Forward:
    card = classifier.card
    shape = (_CANARY_IMAGES, card.input_size, card.input_size, 3)
    canary = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    precision = card.precision if supports(device.type, card.precision) else "float32"
    in_precision, in_float32 = (_in_precision(classifier.to(device), each) for each in (precision, "float32"))
    forward = _eager(in_precision, device)
    expected = forward(canary)
    if expected.shape != (_CANARY_IMAGES, len(card.classes)) or not np.isfinite(expected).all():
        raise CheckpointError(f"the network does not answer a picture with {len(card.classes)} finite probabilities")
    if kind == "onnxruntime":
        return _checked_onnxruntime(in_float32.cpu(), canary, threads)
    if device.type != "cpu":
        return forward
    ways = [forward, *_other_ways_on_cpu(in_precision)]
    if precision != "float32":  # float32 is more exact, and may be faster
        ways += _other_ways_on_cpu(in_float32)
    return fastest(ways, canary)


def _one_line(error: Exception) -> str:
    """The error on one line, cut short: torch may add its whole graph."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST_SAID]}"


def _in_precision(classifier: Classifier, precision: str) -> Classifier:
    """The classifier, its weights already in `precision` where autocast would convert them for every batch."""
    card = classifier.card.model_copy(update={"precision": precision})
    net = classifier.net if precision == "float32" else copy.deepcopy(classifier.net)
    converted = Classifier(net, card).to(classifier.mean.device).eval()
    for module in converted.net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(getattr(torch, precision))
    return converted


def _eager(classifier: Classifier, device: torch.device, onednn: bool = True) -> Forward:
    def forward(pixels: Pixels) -> Probabilities:
        torch.backends.mkldnn.enabled = onednn  # type: ignore[assignment]  # a property of the module
        with torch.inference_mode():
            probabilities: Probabilities = classifier(torch.tensor(pixels, device=device)).cpu().numpy()
        return probabilities

    return forward


def _other_ways_on_cpu(classifier: Classifier) -> list[Forward]:
    """Without oneDNN, which prepares every call, too slowly for small networks; and channels last, for large ones."""
    channels_last = copy.deepcopy(classifier).to(memory_format=torch.channels_last)
    cpu = torch.device("cpu")
    return [_eager(classifier, cpu, onednn=False), _eager(channels_last, cpu)]


def fastest(ways: list[Forward], canary: Pixels) -> Forward:
    """The one with the least time for one image and for several together, since a service has both; they take turns."""
    best_s = dict.fromkeys(ways, math.inf)
    give_up_at = time.perf_counter() + _TRIALS_S
    for _ in range(_TRIALS):
        for forward in ways:
            with contextlib.suppress(Exception):  # not every network takes channels last: one with `view` does not
                best_s[forward] = min(best_s[forward], _time(forward, canary, min(best_s.values())))
        if time.perf_counter() > give_up_at:  # a large network shows it in one trial
            break
    return min(ways, key=best_s.__getitem__)


def _time(forward: Forward, canary: Pixels, best_s: float) -> float:
    """Seconds for one image and then for all; or for the one alone if that takes longer than the best for both."""
    start = time.perf_counter()
    forward(canary[:1])
    if time.perf_counter() - start < best_s:
        forward(canary)
    return time.perf_counter() - start


def _checked_onnxruntime(classifier: Classifier, canary: Pixels, threads: int) -> Forward:
    """Raises CheckpointError if ONNX Runtime is not installed, cannot run the network, or disagrees with torch."""
    if not importlib.util.find_spec("onnxruntime"):
        raise CheckpointError("ONNX Runtime is not installed: pip install '.[onnx]' in the folder of this repository")
    try:
        forward = _onnxruntime(classifier, canary, threads)
        difference = np.abs(forward(canary) - _eager(classifier, torch.device("cpu"))(canary)).max()
    except Exception as error:  # the exporter's, ONNX Runtime's, ...
        sentence = "ONNX Runtime cannot run the network: serve with --forward eager"
        raise CheckpointError(f"{sentence} ({_one_line(error)})") from error
    if not difference <= _TOLERANCE:
        raise CheckpointError(f"ONNX Runtime's probabilities differ by {difference:.2g}: serve with --forward eager")
    return forward


def _onnxruntime(classifier: Classifier, canary: Pixels, threads: int) -> Forward:
    import onnxruntime

    # A graph has no branches: with test-time augmentation it gives the logits of one view, and torch does the rest.
    one_view = bool(classifier.card.tta_below)
    model = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter, which needs no further package, is the old one
        torch.onnx.export(
            _OneView(classifier).eval() if one_view else classifier,
            (torch.tensor(canary),),
            model,  # type: ignore[arg-type]  # a file object is taken too, says its documentation
            input_names=["pixels"],
            output_names=["answers"],
            dynamic_axes={"pixels": {0: "n"}, "answers": {0: "n"}},
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.getvalue(), options, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> Probabilities:
        answers: Probabilities = session.run(None, {"pixels": pixels})[0]
        return answers

    class OnnxClassifier(Classifier):
        def one_view(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(run(pixels.numpy()))

    return _eager(OnnxClassifier(nn.Identity(), classifier.card), torch.device("cpu")) if one_view else run


class _OneView(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.classifier.one_view(pixels)
