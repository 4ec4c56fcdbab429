"""One training run from the data to the checkpoint: read, train, score, save, and say what to type next."""

import os
import platform
import shlex
import signal
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from models.architectures import build
from models.card import ModelCard, Scores, Training
from models.checkpoint import card_path, save, write_atomically
from models.classifier import Classifier
from training.data import Data, hold_back, imbalanced, load
from training.errors import TrainingError
from training.evaluation import fit_temperature, logits_of, score
from training.history import Epoch
from training.loop import Examples, train
from training.promotion import promote
from training.recipe import Recipe
from training.resume import SavedRun

_INITIALISE_BY = 5000  # training images of 32×32 at most

say = partial(print, flush=True)  # in a pipe or a log file too, a line appears when it is said


@dataclass(frozen=True)
class Options:
    """What a command says besides its recipe."""

    command: str  # for the card: what to type for the same run
    data: str  # `cifar10`, or a folder
    output: Path
    seed: int
    device: str
    resume: bool  # a run that was stopped goes on
    report: bool  # pictures and a page of it are made
    promote: Path | None  # where the checkpoint goes as well,
    if_better: bool  # only where it scores more than the one that is there


def run(recipe: Recipe, options: Options) -> None:
    """Train by `recipe`, score on the test images, and write the checkpoint with its card. Raises TrainingError."""
    output, seed = options.output, options.seed
    device = choose_device(options.device)
    for path in filter(None, (output, options.promote)):
        check_writable(path)
    report = None
    if options.report:
        from training.report import Report  # seconds of imports; what is not installed is missed before the training

        report = Report(output.with_suffix(".run"))
    versions = {name: version(name) for name in ("torch", "torchvision")} | {"python": platform.python_version()}
    blank = ModelCard(architecture=recipe.architecture, input_size=recipe.image_size)
    check_network(blank)
    data = load(options.data, blank.input_size)
    say(f"{len(data.train)} training and {len(data.test)} test images, {len(data.classes)} classes")
    for remark in data.remarks:
        say(remark)

    training_images, validation_images = hold_back(data, recipe.validation)
    torch.manual_seed(seed)
    answers = {"flip_average": recipe.flip_average, "precision": recipe.precision}
    card = blank.model_copy(update={"classes": data.classes, **answers})
    classifier = Classifier(build(card.architecture, num_classes=len(card.classes)), card)
    initialise(classifier, data, training_images)
    classifier.to(device)
    say(f"Training {recipe.architecture} by recipe {recipe.name} on {device}, seed {seed}")
    examples = Examples(data.pixels, data.labels, training_images, validation_images)
    saved = SavedRun(resume_path(output), {"recipe": asdict(recipe), "seed": seed, "data": data.fingerprint})
    if report:
        report.begin(classifier.net, examples, recipe, seed, options.resume)

    def on_epoch(epoch: Epoch) -> None:
        print_epoch(epoch)
        if report:
            report.add(epoch)

    epochs = train(classifier, examples, recipe, seed, print_running_loss, on_epoch, saved, options.resume)
    seconds = epochs[-1].seconds
    say(f"Finished Training: {seconds:.1f} s, {recipe.epochs * len(training_images) / seconds:.0f} images/s")

    if len(validation_images):
        classifier.card = card = calibrate(classifier, data, validation_images)
    logits = logits_of(classifier, data.pixels, data.test)
    scores = score(logits, data.labels[data.test], card, f"{data.name}, test images")
    print_scores(scores)
    training = Training(
        command=options.command,
        recipe=asdict(recipe),
        data=data.name,
        data_fingerprint=data.fingerprint,
        images=len(training_images),
        validation_images=len(validation_images),
        seed=seed,
        seconds=round(seconds, 1),
        hardware=describe_hardware(device),
        versions=versions,
    )
    card = hand_over(classifier, card.model_copy(update={"training": training, "scores": scores}), data, options)
    if report and report.finish(card, epochs, data, logits):
        say(f"Report: {report.page}")


def initialise(classifier: Classifier, data: Data, images: torch.Tensor) -> None:
    """The weights that an architecture starts from, where it has other ones than drawn ones. Raises TrainingError."""
    net_initialise = getattr(classifier.net, "initialise", None)
    if net_initialise is None:
        return
    count = min(len(images), max(1, _INITIALISE_BY * 32**2 // classifier.card.input_size**2))
    some = images[torch.linspace(0, len(images) - 1, count).long()]  # evenly: a folder's images are sorted by class
    try:
        with torch.no_grad():
            net_initialise(classifier.normalise(data.pixels[some]))
    except OSError as error:
        raise TrainingError(
            f"the weights to start from could not be fetched ({error}): choose another architecture"
        ) from None


def calibrate(classifier: Classifier, data: Data, images: torch.Tensor) -> ModelCard:
    """The classifier's card, with the temperature that fits these images, which it was not trained on."""
    logits, labels = logits_of(classifier, data.pixels, images), data.labels[images]
    accuracy = float((logits.argmax(dim=1) == labels).double().mean())
    temperature = fit_temperature(logits, labels)
    say(f"Accuracy on the {len(labels)} validation images: {100 * accuracy:.1f} %; temperature {temperature:.2f}")
    return classifier.card.model_copy(update={"temperature": temperature})


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else MPS, else the CPU. Raises TrainingError for a device that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(f"there is no {name} here ({torch.cuda.device_count()} CUDA devices): try --device auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise TrainingError("there is no mps here (it is Apple's GPU): try --device auto")
    return device


@torch.no_grad()
def check_network(card: ModelCard) -> None:
    """Raises TrainingError now rather than after the reading: by one blank image."""
    size = card.input_size
    try:
        net = build(card.architecture, num_classes=2).eval()
        Classifier(net, card)(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    except ValueError as error:
        raise TrainingError(str(error)) from None
    except RuntimeError:
        raise TrainingError(
            f"{card.architecture} cannot take images of {size} pixels a side: choose another --image-size, "
            "or another --architecture"
        ) from None


def check_writable(output: Path) -> None:
    """Raises TrainingError now rather than after the training. Makes the folder of `output`."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise TrainingError(f"{output} cannot be written: {error.strerror} ({output.parent})") from None
    for path in (card_path(output), held_out_path(output), resume_path(output)):
        if path.is_dir():
            raise TrainingError(f"{path} is a folder, and the run would write a file there: choose another --output")


def describe_hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} {platform.machine()} cores" + (" and their GPU (MPS)" if device.type == "mps" else "")


def print_running_loss(epoch: int, batch: int, loss: float) -> None:
    say(f"[{epoch}, {batch:5d}] loss: {loss:.3f}")


def print_epoch(epoch: Epoch) -> None:
    if epoch.accuracy is not None:
        say(f"Epoch {epoch.number}: {100 * epoch.accuracy:.1f} % of the validation images, {epoch.seconds:.0f} s")


def print_scores(scores: Scores) -> None:
    low, high = scores.interval
    say(
        f"Accuracy of the network on the {scores.n} test images: {100 * scores.accuracy:.1f} % "
        f"(95 % interval: {100 * low:.1f} to {100 * high:.1f} %)"
    )
    if imbalanced([sum(row) for row in scores.confusion]):
        say(f"Mean of the accuracies of the classes, balanced accuracy: {100 * scores.balanced_accuracy:.1f} %")
    width = max(map(len, scores.per_class))
    for name, accuracy in scores.per_class.items():
        say(f"Accuracy for class: {name:{width}} is {100 * accuracy:5.1f} %")


def hand_over(classifier: Classifier, card: ModelCard, data: Data, options: Options) -> ModelCard:
    """The checkpoint to where it was asked for, and a word on what to do with it; its card. Raises TrainingError."""
    card = write(options.output, classifier, card, data)
    resume_path(options.output).unlink()
    if options.promote:
        say(promote(options.promote, classifier, card, data, options.if_better))
    else:
        print_next_steps(options.data, options.output, data)
    return card


def held_out_path(output: Path) -> Path:
    return output.with_suffix(".held-out.txt")


def resume_path(output: Path) -> Path:
    return output.with_suffix(".resume")


def write(output: Path, classifier: Classifier, card: ModelCard, data: Data) -> ModelCard:
    """The checkpoint, its card, and which images were held out where we chose them; the card. Raises TrainingError."""
    for number in (signal.SIGINT, signal.SIGTERM):  # these milliseconds belong together: all of them or none
        signal.signal(number, signal.SIG_IGN)
    try:
        card = save(output, classifier.net, card)
        if data.split_here:
            listing = "".join(f"{name}\n" for name in data.test_files)
            write_atomically(held_out_path(output), listing.encode(errors="surrogateescape"))
        else:
            held_out_path(output).unlink(missing_ok=True)  # another run's, which held out other images
    except OSError as error:
        raise TrainingError(f"{output} cannot be written: {error.strerror}") from None
    return card


def print_next_steps(source: str, output: Path, data: Data) -> None:
    say(f"Saved {output} and {card_path(output)}. Now serve it, and in another terminal ask it and score it:")
    checkpoint = "" if output == Path("cifar_net.pth") else f" --checkpoint {shlex.quote(str(output))}"
    image = Path(source) / data.test_files[0] if data.test_files else "cat.jpg"
    held_out = f" --files {shlex.quote(str(held_out_path(output)))}" if data.split_here else ""
    say(f"  cifar-serve{checkpoint}")
    say(f"  curl --data-binary {shlex.quote(f'@{image}')} localhost:8000/predict")
    say(f"  cifar-evaluate --data {shlex.quote(source)}{held_out}")
