"""`cifar-train --compare RUN RUN ...`: what the model cards of finished runs say, side by side."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.card import ModelCard, Scores, Training, find_checkpoint
from models.checkpoint import card_path
from training.errors import TrainingError

_UNKNOWN = "–"
_SIGNIFICANCE_LEVEL = 0.05  # differences with a smaller p-value are called more than the choice of test images explains


@dataclass(frozen=True)
class _Run:
    name: str
    card: ModelCard
    training: Training
    scores: Scores


def compare(paths: Sequence[Path]) -> None:
    """Print runs side by side, each by the path of its checkpoint, its card or its report. Raises TrainingError."""
    if len(paths) < 2:
        raise TrainingError(f"--compare {paths[0]}: one run alone cannot be compared; name two or more")
    runs = [_read(path) for path in paths]
    console = Console(highlight=False)
    console.print(_table(runs))
    if len({run.training.data_fingerprint for run in runs}) > 1:
        console.print("The runs used different data, so these accuracies do not show which run is better.")
        return
    console.print("Choose by the validation accuracy: chosen by its test accuracy, a run looks better than it is.")
    for run in runs[1:]:
        console.print(Text(_difference(run, runs[0])))


def _read(path: Path) -> _Run:
    file = card_path(find_checkpoint(path.parent if path.name == "report.html" else path))
    try:
        card = ModelCard.model_validate_json(file.read_bytes())
    except OSError as error:
        raise TrainingError(f"--compare {path}: {file.name} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise TrainingError(f"--compare {path}: {file.name} is no model card ({error.errors()[0]['msg']})") from None
    if card.training is None or card.scores is None:
        raise TrainingError(f"--compare {path}: {file.name} does not say how it was trained and what it scored")
    return _Run(str(path), card, card.training, card.scores)


def _table(runs: Sequence[_Run]) -> Table:
    table = Table("", box=None, pad_edge=False, header_style="bold")
    for run in runs:
        table.add_column(Text(run.name), overflow="fold")

    def add(label: str, cells: Iterable[object]) -> None:
        table.add_row(Text(label), *(Text(str(cell)) for cell in cells))

    def add_percent(label: str, values: Iterable[float | None]) -> None:
        add(label, (_UNKNOWN if value is None else f"{100 * value:5.1f} %" for value in values))

    add("recipe", (run.training.recipe.get("name", _UNKNOWN) for run in runs))
    for field in dict.fromkeys(field for run in runs for field in run.training.recipe):
        values = {run.training.recipe.get(field, _UNKNOWN) for run in runs}
        if field == "epochs" or (len(values) > 1 and field not in ("name", "summary")):
            add(field, (run.training.recipe.get(field, _UNKNOWN) for run in runs))
    add("seed", (run.training.seed for run in runs))
    add("data", (f"{run.training.data} {run.training.data_fingerprint[:12]}" for run in runs))
    add("hardware", (run.training.hardware for run in runs))
    add("seconds", (run.training.seconds for run in runs))
    add("images/s", map(_images_per_second, runs))
    add("temperature", (f"{run.card.temperature:.2f}" for run in runs))
    add_percent("validation accuracy", (run.training.validation_accuracy for run in runs))
    add_percent("calibration error", (run.scores.calibration_error for run in runs))
    add_percent("accuracy", (run.scores.accuracy for run in runs))
    add("95 % interval", (" to ".join(f"{100 * end:.1f}" for end in run.scores.interval) + " %" for run in runs))
    add_percent("balanced accuracy", (run.scores.balanced_accuracy for run in runs))
    add("test images", (run.scores.n for run in runs))
    for name in dict.fromkeys(name for run in runs for name in run.scores.per_class):
        add_percent(f"  {name}", (run.scores.per_class.get(name) for run in runs))
    return table


def _images_per_second(run: _Run) -> str:
    epochs = run.training.recipe.get("epochs")
    if not isinstance(epochs, int) or not run.training.seconds:  # a card may be written by hand
        return _UNKNOWN
    return f"{epochs * run.training.images / run.training.seconds:,.0f}"


def _difference(run: _Run, first: _Run) -> str:
    """By the z-test of two proportions, which needs no more than the cards; on the same images it misses differences
    that a test of image by image finds."""
    (a, n), (b, m) = ((scores.accuracy, scores.n) for scores in (run.scores, first.scores))
    pooled = (a * n + b * m) / (n + m)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    p = math.erfc(abs(a - b) / deviation / math.sqrt(2)) if deviation else 1.0
    more = f"more than the choice of {n:,} test images explains"
    verdict = more if p < _SIGNIFICANCE_LEVEL else f"{n:,} test images are too few to tell"
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    points = f"{100 * (a - b):+.1f} points against {first.name}"
    return f"{run.name} scores {points}: {verdict} ({shown}); another seed alone may change it too"
