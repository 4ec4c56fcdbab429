"""A run to look at, in a folder: TensorBoard's events while it trains, and at its end pictures and a page."""

import json
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from models.card import ModelCard
from models.checkpoint import write_atomically
from training.augmentation import Augmentation
from training.data import Data
from training.events import Events, event_files
from training.figures import MOST_PICTURES, draw_confusion, draw_curves, draw_pictures
from training.history import Epoch
from training.loop import Examples
from training.recipe import FIELDS, Recipe

_SAMPLES = 64  # training pictures that TensorBoard shows


class Report:
    """Of one run, in `folder`. Nothing here ends a training: what cannot be written is left out, with a warning."""

    def __init__(self, folder: Path) -> None:
        self.page = folder / "report.html"
        self._folder = folder
        self._events: Events | None = None
        self._told: set[str] = set()

    def begin(self, net: nn.Module, examples: Examples, recipe: Recipe, seed: int, resume: bool) -> None:
        """Show in TensorBoard what is trained, and on what: some of the pictures as the network gets to see them.

        With `resume` it goes on after what the run has shown before; else what is there of another run is removed.
        """
        with self._or_a_warning():
            self._folder.mkdir(parents=True, exist_ok=True)
            of_before = event_files(self._folder)
            if not resume:
                for file in of_before:
                    file.unlink()
            self._events = Events(self._folder)
            if not (resume and of_before):
                self._events.add_pictures("training_pictures", _as_trained_on(examples, recipe, seed))
                self._events.add_graph(net)

    def add(self, epoch: Epoch) -> None:
        """Show the epoch in TensorBoard."""
        with self._or_a_warning():
            if self._events:
                self._events.add_epoch(epoch)

    def finish(self, card: ModelCard, epochs: Sequence[Epoch], data: Data, logits: torch.Tensor) -> bool:
        """Draw the pictures, of the test images' `logits` (float32 [n, C]) too, and write the page; False if it failed.

        The page is written last, and another run's is removed first: it is there only where all the rest is.
        """
        with self._or_a_warning():
            # Where a file is in its place, that is the trouble which `begin` told of.
            self._folder.mkdir(parents=True, exist_ok=True)
            self.page.unlink(missing_ok=True)
            history = json.dumps([epoch._asdict() for epoch in epochs], indent=1) + "\n"
            write_atomically({self._folder / "history.json": history.encode()})
            pictures = _draw(card, epochs, data, logits)
            page = _page(card, len(epochs), pictures).encode(errors="replace")
            files = {self._folder / f"{name}.png": png for name, png in pictures.items()}
            write_atomically({**files, self.page: page})
            return True
        return False

    @contextmanager
    def _or_a_warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: hours of training are worth more than their report
            reason = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
            if reason not in self._told:
                print(f"cifar-train: warning: {self._folder} is not complete ({reason})", file=sys.stderr)
            self._told.add(reason)


def _as_trained_on(examples: Examples, recipe: Recipe, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = examples.train[torch.randperm(len(examples.train), generator=generator)[:_SAMPLES]]
    augment, pixels = Augmentation(recipe, len(examples.labels), generator), examples.pixels[images]
    return augment(pixels, images, epoch=1)


def _draw(card: ModelCard, epochs: Sequence[Epoch], data: Data, logits: torch.Tensor) -> dict[str, bytes]:
    probabilities = (logits / card.temperature).softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    wrong = torch.nonzero(predicted != data.labels[data.test]).flatten()

    def grid(chosen: torch.Tensor) -> bytes:
        images = data.test[chosen]
        return draw_pictures(data.pixels[images], data.labels[images], probabilities[chosen], card.classes)

    return {
        "curves": draw_curves(epochs),
        "confusion": draw_confusion(card),
        # Spread evenly, and the same for every run: a folder's images are sorted by class.
        "predictions": grid(torch.linspace(0, len(logits) - 1, min(MOST_PICTURES, len(logits))).long()),
        "mistakes": grid(wrong[confidence[wrong].argsort(descending=True, stable=True)[:MOST_PICTURES]]),
    }


def _page(card: ModelCard, epochs: int, pictures: dict[str, bytes]) -> str:
    environment = Environment(loader=PackageLoader("training", ""), autoescape=True, undefined=StrictUndefined)
    environment.filters["percent"] = lambda part: f"{100 * part:.1f} %"
    return environment.get_template("report.html.jinja").render(
        card=card,
        epochs=epochs,
        meanings=FIELDS,
        pictures={name: f"data:image/png;base64,{b64encode(png).decode()}" for name, png in pictures.items()},
    )
