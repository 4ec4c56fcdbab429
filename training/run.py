"""One training run from the data to the checkpoint: read, train, score, save, report."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from models.card import Scores, Training
from models.classifier import Classifier
from models.machine import cores
from training import distributed
from training.data import Data, load, split_validation
from training.distributed import say
from training.errors import out_of_memory_told
from training.evaluation import (
    FEWEST_FOR_THRESHOLD,
    accuracy,
    fit_temperature,
    logits_of,
    score,
    uncertainty_threshold,
)
from training.handover import hand_over, write_checkpoint
from training.history import Epoch
from training.loop import Examples, train
from training.options import Options, report_folder, resume_path
from training.preparation import (
    check_network,
    check_recipe,
    check_writable,
    choose_device,
    in_precision_of,
    make_classifier,
    tell_of_known_images,
    weights_to_start_from,
)
from training.promotion import to_be_better_than
from training.recipe import Recipe
from training.resume import SavedRun

if TYPE_CHECKING:
    from training.report import Report


@distributed.process_group()
@out_of_memory_told()
def run(recipe: Recipe, options: Options) -> None:
    """Train by `recipe`, score on the test images, and write the checkpoint with its card. Raises TrainingError."""
    device = choose_device(options.device)
    check_writable(options)
    report = open_report(options)
    asked, recipe = recipe, in_precision_of(device, recipe)
    start = weights_to_start_from(recipe)
    distributed.refuse_empty_shares(recipe.batch_size)
    check_network(recipe, start)
    check_recipe(recipe)
    data = load_data(recipe, options)
    images, validation = split_and_tell(recipe, data)
    tell_of_known_images(start, data, validation)
    examples = Examples(data.pixels, data.labels, images, validation)
    classifier = make_classifier(recipe, data, images, options.seed, start).to(device)
    say(f"Training {recipe.architecture} by recipe {recipe.name} on {device}, seed {options.seed}")
    origin = {
        "seed": options.seed,
        "data_fingerprint": data.fingerprint,
        "started_from": start.card.sha256 if start else None,
    }
    distributed.refuse_differences({**asdict(recipe), **origin})
    # As asked for: where a device with another precision goes on with the run, it is the same run.
    identity = {name: value for name, value in asdict(asked).items() if name != "summary"} | origin
    epochs = train_and_tell(classifier, examples, recipe, options, identity, report)

    validated = calibrate(classifier, data, validation)
    logits, scores = score_test_images(classifier, data)
    training = describe(recipe, origin, options.command, data.name, examples, epochs[-1].seconds, device)
    training = training.model_copy(update={"validation_accuracy": validated})
    card = classifier.card.model_copy(update={"training": training, "scores": scores})
    if distributed.leave():
        card = write_checkpoint(options.output, classifier, card, data)
        try:
            hand_over(classifier, card, data, options)
        finally:
            if report and report.finish(card, epochs, data, logits):
                say(f"Report: {report.page}")
        # Not before: whatever fails above, --resume does it again. Another run with this --output may have removed it.
        resume_path(options.output).unlink(missing_ok=True)


def load_data(recipe: Recipe, options: Options) -> Data:
    """The data, with a word on them. Raises TrainingError, also where their network could never be promoted."""
    with distributed.one_of_a_host_first():
        data = load(options.data, recipe.image_size)
    say(f"{len(data.train)} training and {len(data.test)} test images, {len(data.classes)} classes")
    for remark in data.remarks:
        say(remark)
    if options.promote and options.if_better:  # what it refuses, rather now than at the end
        to_be_better_than(options.promote, data.classes, recipe.image_size)
    return data


def open_report(options: Options) -> "Report | None":
    if not options.report or distributed.rank() > 0:
        return None
    from training.report import Report  # seconds of imports; what is not installed is missed before the training

    return Report(report_folder(options.output))


def split_and_tell(recipe: Recipe, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The images to train on and those to validate with, as `split_validation`. Raises TrainingError."""
    images, validation = split_validation(data, recipe.validation)
    distributed.refuse_empty_shares(len(images))
    tell_of_few_validation_images(recipe, len(validation))
    tell_of_imbalance(recipe, data, images)
    return images, validation


def tell_of_few_validation_images(recipe: Recipe, count: int) -> None:
    if recipe.validation and count < FEWEST_FOR_THRESHOLD:
        missed = "no threshold" if count else "no temperature, and no threshold"
        say(
            f"--validation {recipe.validation:g} keeps back {count} images of classes this small: there will be "
            f"{missed} for uncertain answers. Raise --validation, or add images"
        )


def tell_of_imbalance(recipe: Recipe, data: Data, images: torch.Tensor) -> None:
    counts = torch.bincount(data.labels[images]).tolist()
    if imbalanced(counts) and not recipe.weighted_loss:
        (smallest, least), *_, (largest, most) = sorted(zip(counts, data.classes, strict=True))
        say(
            f"The classes are imbalanced, {largest} images to train on of {most} and {smallest} of {least}: "
            "with --weighted-loss yes each class counts alike"
        )


def imbalanced(images_of_classes: Sequence[int]) -> bool:
    """Whether the largest class has at least twice the images of the smallest: from there on it is worth a word."""
    return max(images_of_classes) >= 2 * min(images_of_classes)


def train_and_tell(
    classifier: Classifier,
    examples: Examples,
    recipe: Recipe,
    options: Options,
    identity: dict[str, Any],
    report: "Report | None",
) -> Sequence[Epoch]:
    """Train, and print and report how it goes; only a run of the same `identity` can be resumed."""
    saved = SavedRun(resume_path(options.output), identity)
    state = saved.load_where_asked(options.resume)
    if report:
        report.begin(classifier.net, examples, recipe, options.seed, resume=state is not None)

    def on_epoch(epoch: Epoch) -> None:
        print_epoch(epoch)
        if report:
            report.add(epoch)

    options.began = True
    epochs = train(classifier, examples, recipe, options.seed, print_running_loss, on_epoch, saved, state)
    seconds = epochs[-1].seconds
    say(f"Finished Training: {seconds:.1f} s, {recipe.epochs * len(examples.train) / seconds:.0f} images/s")
    return epochs


def print_running_loss(epoch: int, batch: int, loss: float) -> None:
    say(f"[{epoch}, {batch:5d}] loss: {loss:.3f}")


def print_epoch(epoch: Epoch) -> None:
    if epoch.accuracy is not None:
        say(f"Epoch {epoch.number}: {100 * epoch.accuracy:.1f} % of the validation images, {epoch.seconds:.0f} s")


def calibrate(classifier: Classifier, data: Data, images: torch.Tensor) -> float | None:
    """Gives the classifier's card temperature and threshold by these images, if any, which it was not trained on.

    Returns the accuracy on them.
    """
    if not len(images):
        return None
    labels = data.labels[images]
    for _ in range(2 if classifier.card.tta_below else 1):  # which answers are averaged depends on the temperature
        logits = logits_of(classifier, data.pixels, images)
        temperature = fit_temperature(logits, labels)
        classifier.card = classifier.card.model_copy(update={"temperature": temperature})
    right, uncertain_below = accuracy(logits, labels), uncertainty_threshold(logits / temperature)
    marked = f"; uncertain below {100 * uncertain_below:.1f} % confidence" if uncertain_below is not None else ""
    say(f"Accuracy on the {len(labels)} validation images: {100 * right:.1f} %; temperature {temperature:.2f}{marked}")
    classifier.card = classifier.card.model_copy(update={"uncertain_below": uncertain_below})
    return right


def score_test_images(classifier: Classifier, data: Data) -> tuple[torch.Tensor, Scores]:
    """The logits of the test images, float32 [n, C], and what they score, which is said too."""
    logits = logits_of(classifier, data.pixels, data.test)
    scores = score(logits, data.labels[data.test], classifier.card, f"{data.name}, test images")
    print_scores(scores)
    return logits, scores


def print_scores(scores: Scores) -> None:
    low, high = scores.interval
    say(
        f"Accuracy of the network on the {scores.n} test images: {100 * scores.accuracy:.1f} % "
        f"(95 % interval: {100 * low:.1f} to {100 * high:.1f} %)"
    )
    if imbalanced([sum(row) for row in scores.confusion]):
        say(f"Mean of the accuracies of the classes, balanced accuracy: {100 * scores.balanced_accuracy:.1f} %")
    width = max(map(len, scores.per_class))
    for name, right in scores.per_class.items():
        say(f"Accuracy for class: {name:{width}} is {100 * right:5.1f} %")


def describe(
    recipe: Recipe,
    origin: dict[str, Any],
    command: str,
    data: str,
    examples: Examples,
    seconds: float,
    device: torch.device,
) -> Training:
    """For the card: enough to make the weights again."""
    versions = {name: version(name) for name in ("torch", "torchvision")} | {"python": platform.python_version()}
    return Training(
        recipe=asdict(recipe),
        **origin,
        command=command,
        data=data,
        images=len(examples.train),
        validation_images=len(examples.validation),
        seconds=round(seconds, 1),
        hardware=describe_hardware(device),
        versions=versions,
    )


def describe_hardware(device: torch.device) -> str:
    cpu = f"{cores()} {platform.machine()} cores ({torch.backends.cpu.get_cpu_capability()})"
    here = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    here += " and their GPU (MPS)" if device.type == "mps" else ""
    processes, on_a_host = distributed.world_size(), distributed.local_world_size()
    return here if processes == 1 else f"{processes} processes, {on_a_host} on each host: {here}"
