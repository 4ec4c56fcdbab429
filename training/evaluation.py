"""Scores a classifier on held-out images, in process: accuracy with its interval, per class, and calibration."""

import math

import torch
import torch.nn.functional as F

from models.card import CONFIDENCE_BOUNDS, ModelCard, Scores
from models.classifier import Classifier
from training import distributed
from training.errors import TrainingError
from training.updates import uncompiled

_BATCH = 1000  # images of 32×32 a forward pass: past the point where more is faster, and 12 MB of floats
CALIBRATION_BINS = 15
_TEMPERATURES = (0.5, 5.0)  # the limits: where all images are classified right, the best would be 0
# Standard deviation of the normal prior of log temperature, around 0. Fitted to four images without the prior, the
# temperature made the shipped networks' log loss worse by 7 and 39 % (on 2,500 other images, mean of 60 draws); with
# the prior by 2 and 5 %. From 500 images on, the prior changes nothing.
_LOG_TEMPERATURE_STD = 0.5
_MARKED = 0.05  # the fraction of validation images below the threshold
FEWEST_FOR_THRESHOLD = 20  # images: that fraction of them is one image


@torch.no_grad()
def logits_of(
    classifier: Classifier, pixels: torch.Tensor, images: torch.Tensor, one_view: bool = False
) -> torch.Tensor:
    """uint8 [N, H, W, 3], of which `images` (int64 [n]) are chosen → logits, float32 [n, C]; all on the CPU.

    With `one_view` each is of a single view, without test-time augmentation. Several processes share the batches, which
    are the same as with one process, and all get all logits. Raises TrainingError where a logit is NaN or infinite.
    """
    device = classifier.mean.device
    distributed.broadcast_buffers(classifier.net)
    look = classifier.one_view if one_view else classifier.logits
    logits = torch.zeros(len(images), len(classifier.card.classes))
    batches = torch.split(torch.arange(len(images)), max(1, _BATCH * 32**2 // classifier.card.input_size**2))
    for batch in batches[distributed.rank() :: distributed.world_size()]:
        logits[batch] = look(pixels[images[batch]].to(device)).cpu()
    distributed.all_reduce_sum(logits)
    if not logits.isfinite().all():
        raise TrainingError("the trained network answers NaN or infinity: try another --seed, or a lower learning rate")
    return logits


def evaluate(
    classifier: Classifier, pixels: torch.Tensor, labels: torch.Tensor, images: torch.Tensor, data: str
) -> Scores:
    """Scores on the `images` (int64 [n], every class among them) of pixels uint8 [N, H, W, 3] and labels int64 [N].

    `data` is the data's name in the scores. Raises TrainingError where a logit is NaN or infinite.
    """
    return score(logits_of(classifier, pixels, images), labels[images], classifier.card, data)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """float32 [n, C], int64 [n] → the part that is right."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def score(logits: torch.Tensor, labels: torch.Tensor, card: ModelCard, data: str) -> Scores:
    """float32 [n, C] of a network with this card, int64 [n] with every class among them → scores on `data`."""
    classes, temperature = card.classes, card.temperature
    confusion = torch.bincount(labels * len(classes) + logits.argmax(dim=1), minlength=len(classes) ** 2)
    confusion = confusion.view(len(classes), len(classes))  # [true class, predicted class]
    hits = int(confusion.trace())
    confidence = (logits / temperature).softmax(dim=1).amax(dim=1)
    return Scores(
        data=data,
        n=len(labels),
        accuracy=hits / len(labels),
        interval=wilson_interval(hits, len(labels)),
        per_class=dict(zip(classes, (confusion.diag() / confusion.sum(dim=1)).tolist(), strict=True)),
        calibration_error=calibration_error(logits / temperature, labels),
        uncalibrated_error=calibration_error(logits, labels),
        confusion=confusion.tolist(),
        confidence=tuple(int((confidence <= bound).sum()) for bound in CONFIDENCE_BOUNDS),
    )


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """float32 [N, C], int64 [N] → what to divide logits by so that these labels are most likely; few change little.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017; here with a normal prior of the logarithm.
    """
    log_temperature = torch.zeros(1, requires_grad=True)
    optimizer = uncompiled(torch.optim.LBFGS)([log_temperature], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        prior = (log_temperature / _LOG_TEMPERATURE_STD).square().sum() / (2 * len(labels))
        loss = F.cross_entropy(logits / log_temperature.exp(), labels) + prior
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    low, high = _TEMPERATURES
    return float(log_temperature.detach().exp().clamp(low, high))


def uncertainty_threshold(logits: torch.Tensor) -> float | None:
    """float32 [N, C], over their temperature → the confidence that all but 5 % of these answers reach.

    Rounded down, below 1 too: engines differ in the last digits of a probability. None where they are too few.
    """
    if len(logits) < FEWEST_FOR_THRESHOLD:
        return None
    confidence = logits.softmax(dim=1).amax(dim=1)
    return (math.ceil(1e4 * float(confidence.quantile(_MARKED))) - 1) / 1e4


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, JASA 1927): sound near 0 and 1, and for small n too."""
    p, z = hits / n, 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """float32 [N, C], int64 [N] → the mean distance of confidence from accuracy, over 15 equal bins of confidence.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    correct = (predicted == labels).double()
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.double)
    gaps.index_add_(0, bins, confidence.double() - correct)  # per bin: the sum of confidence - accuracy
    return float(gaps.abs().sum() / len(confidence))
