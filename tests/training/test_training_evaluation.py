"""Scores, calibration and thresholds are what they are called."""

import math
import subprocess
import sys
from statistics import fmean

import pytest
import torch
from torch import nn

from models.architectures import build
from models.card import CONFIDENCE_BOUNDS, ModelCard
from models.classifier import Classifier
from training.errors import TrainingError
from training.evaluation import (
    calibration_error,
    evaluate,
    fit_temperature,
    uncertainty_threshold,
    wilson_interval,
)

PIXELS = torch.randint(0, 256, (811, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 10, (811,), generator=torch.Generator().manual_seed(2))
EVERY = torch.arange(811)


def fresh_classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(build("net", num_classes=10), ModelCard())


def test_scores_of_a_network_that_answers_no_numbers_are_refused() -> None:
    classifier = fresh_classifier()
    nn.init.constant_(next(classifier.net.parameters()), math.nan)
    with pytest.raises(TrainingError, match="answers NaN"):
        evaluate(classifier, PIXELS, LABELS, EVERY, "noise")


def test_scores_count_what_the_classifier_gets_right() -> None:
    classifier = fresh_classifier()
    classifier.card = ModelCard(temperature=0.05)
    with torch.no_grad():
        logits = classifier.logits(PIXELS)
        confidence, predicted = classifier(PIXELS).max(dim=1)
    labels = predicted.clone()
    labels[:10] = torch.arange(10)  # every class is there, and a known number of them wrong
    hits = int((labels == predicted).sum())
    scores = evaluate(classifier, PIXELS, labels, EVERY, "noise")
    assert (scores.data, scores.n, scores.accuracy) == ("noise", 811, hits / 811)
    assert scores.interval[0] < scores.accuracy < scores.interval[1]
    for label, name in enumerate(classifier.card.classes):
        assert scores.per_class[name] == pytest.approx(float((predicted == labels)[labels == label].double().mean()))
    assert scores.confidence == tuple(int((confidence <= bound).sum()) for bound in CONFIDENCE_BOUNDS)
    assert scores.confidence[-1] == 811
    assert scores.calibration_error == pytest.approx(calibration_error(logits / 0.05, labels))
    assert scores.uncalibrated_error == pytest.approx(calibration_error(logits, labels))


def test_wilsons_interval_is_the_published_one_and_stays_between_0_and_1() -> None:
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    labels = torch.tensor([0, 0, 0, 1, 0, 0])  # the answer is always the first class
    expected = (4 * abs(0.95 - 0.75) + 2 * abs(0.55 - 1)) / 6  # too sure, and not sure enough
    assert calibration_error(torch.stack((confidence, 1 - confidence), dim=1).log(), labels) == pytest.approx(expected)


def test_confusion_counts_true_classes_in_rows() -> None:
    classifier = fresh_classifier()
    with torch.no_grad():
        predicted = classifier(PIXELS).argmax(dim=1)
    labels = torch.arange(len(PIXELS)) % 10
    confusion = torch.tensor(evaluate(classifier, PIXELS, labels, EVERY, "noise").confusion)
    assert confusion.sum() == len(PIXELS)
    assert int(confusion[3, int(predicted[3])]) == int(((labels == 3) & (predicted == predicted[3])).sum())


def test_the_temperature_makes_overconfident_logits_right() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits * 3, logits.argmax(dim=1)) == 0.5, "all right: not boundless confidence"
    assert calibration_error(logits * 3, labels) > 0.2
    assert calibration_error(logits, labels) < 0.02


def test_a_temperature_does_not_wait_for_a_compiler() -> None:
    imports = "import sys, torch; from training.evaluation import fit_temperature"
    fit = "fit_temperature(torch.eye(9), torch.arange(9))"
    command = [sys.executable, "-c", f"{imports}; {fit}; sys.exit('torch._dynamo' in sys.modules)"]
    assert subprocess.run(command, check=False).returncode == 0


def test_few_images_hardly_change_a_temperature_that_was_right() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()
    fours = zip(torch.split(logits, 4), torch.split(labels, 4), strict=True)
    assert fmean(abs(math.log(fit_temperature(*four))) for four in fours) < 0.3


def test_one_answer_in_twenty_is_less_confident_than_is_usual() -> None:
    logits = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0))
    threshold = uncertainty_threshold(logits)
    assert threshold is not None
    below = logits.softmax(dim=1).amax(dim=1) < threshold
    assert float(below.double().mean()) == pytest.approx(0.05, abs=0.002)
    assert threshold == round(threshold, 4)
    sure = torch.tensor([[20.0, 0]] * 20)
    assert uncertainty_threshold(sure) == 0.9999, "not 1: another engine's last digit marks none"
