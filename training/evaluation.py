"""Scores a classifier on held-out images, in process: accuracy with its interval, per class, and calibration error."""

import math

import torch

from models.card import Scores
from models.classifier import Classifier
from training.errors import TrainingError

BATCH = 1000  # images a forward pass: past the point where more is faster, and 12 MB of floats
CALIBRATION_BINS = 15


@torch.inference_mode()
def evaluate(classifier: Classifier, pixels: torch.Tensor, labels: torch.Tensor, data: str) -> Scores:
    """pixels uint8 [N, H, W, 3], labels int64 [N] with every class among them → scores; `data` names them there.

    Raises TrainingError where the classifier answers something else than numbers.
    """
    device = classifier.mean.device
    probabilities = torch.cat([classifier(batch.to(device)).cpu() for batch in torch.split(pixels, BATCH)])  # [N, C]
    if probabilities.isnan().any():
        raise TrainingError(
            "the trained network answers NaN: try another --seed, or a recipe with a lower learning rate"
        )
    confidence, predicted = probabilities.max(dim=1)
    correct = predicted == labels.cpu()
    hits = int(correct.sum())
    return Scores(
        data=data,
        n=len(labels),
        accuracy=hits / len(labels),
        interval=wilson_interval(hits, len(labels)),
        per_class={
            name: float(correct[labels == label].double().mean()) for label, name in enumerate(classifier.card.classes)
        },
        calibration_error=expected_calibration_error(confidence, correct),
    )


def wilson_interval(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, JASA 1927): sound near 0 and 1, and for small n too."""
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def expected_calibration_error(confidence: torch.Tensor, correct: torch.Tensor) -> float:
    """float [N] in 0..1, bool [N] → the mean distance of confidence from accuracy, over 15 equal bins of confidence.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.double)
    gaps.index_add_(0, bins, confidence.double() - correct.double())  # per bin: the sum of confidence - accuracy
    return float(gaps.abs().sum() / len(confidence))
