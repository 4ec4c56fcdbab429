"""Scores a classifier on held-out images, in process: accuracy with its interval, per class, and calibration."""

import math

import torch
import torch.nn.functional as F

from models.card import CONFIDENCE_BOUNDS, ModelCard, Scores
from models.classifier import Classifier
from training import distributed
from training.errors import TrainingError

_BATCH = 1000  # images of 32×32 a forward pass: past the point where more is faster, and 12 MB of floats
CALIBRATION_BINS = 15
_TEMPERATURES = (0.5, 5.0)  # images that are all classified right would draw it to 0: to boundless confidence
# What is expected of a temperature's logarithm before any image is seen, as a standard deviation around 0. By four
# images without it, the shipped networks' calibrated answers became worse by 7 and 39 % (log loss of 2,500 others, mean
# of 60 draws), with it by 2 and 5 %; from 500 images on it changes nothing.
_USUAL_LOG_TEMPERATURE = 0.5
_MARKED = 0.05  # of images like those trained on
FEWEST_FOR_THRESHOLD = 20  # of which that is one image


@torch.no_grad()
def logits_of(classifier: Classifier, pixels: torch.Tensor, images: torch.Tensor, once: bool = False) -> torch.Tensor:
    """Of uint8 [N, H, W, 3] the n `images` (int64 [n]) → float32 [n, C], with `once` of one view each; all on the CPU.

    Of several processes each answers for some of the batches, the very ones that one process would make, and all are
    given all answers. Raises TrainingError where they are no numbers.
    """
    device = classifier.mean.device
    distributed.broadcast_buffers(classifier.net)
    look = classifier.once if once else classifier.logits
    logits = torch.zeros(len(images), len(classifier.card.classes))
    batches = torch.split(torch.arange(len(images)), max(1, _BATCH * 32**2 // classifier.card.input_size**2))
    for batch in batches[distributed.rank() :: distributed.size()]:
        logits[batch] = look(pixels[images[batch]].to(device)).cpu()
    distributed.all_reduce_sum(logits)
    if not logits.isfinite().all():
        raise TrainingError("the trained network answers NaN or infinity: try another --seed, or a lower learning rate")
    return logits


def evaluate(
    classifier: Classifier, pixels: torch.Tensor, labels: torch.Tensor, images: torch.Tensor, data: str
) -> Scores:
    """Of pixels uint8 [N, H, W, 3] and labels int64 [N] the n `images` (int64 [n]), every class among them → scores.

    `data` is what they are called there.

    Raises TrainingError where the classifier answers something else than numbers.
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
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        prior = (log_temperature / _USUAL_LOG_TEMPERATURE).square().sum() / (2 * len(labels))
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
