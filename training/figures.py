"""The pictures of a report, drawn with matplotlib: each function returns a PNG."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib.style
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import MaxNLocator, PercentFormatter

from models.card import ModelCard
from training.history import Epoch

MOST_PICTURES = 20  # in a grid of them
_COLUMNS = 4
_CELL = 1.3  # the height of a picture with its two lines of text, in widths
_WIDTH = 6.4  # inches: what fits a phone with letters that can still be read
_BLUE, _RIGHT, _WRONG = "#1f5fa8", "#1a7f37", "#c4231d"
# After matplotlib's own those that systems come with for what it lacks: Chinese, Japanese, Korean.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans")
_NAMED_CLASSES = 20  # more than these have no room for their names beside a matrix
_NAME = 12  # characters of a class's name that fit beside others


def draw_curves(epochs: Sequence[Epoch]) -> bytes:
    """Loss, accuracy on the validation images where there were any, and learning rate, over the epochs."""
    curves = {
        "loss": [epoch.loss for epoch in epochs],
        "validation accuracy": [epoch.accuracy for epoch in epochs if epoch.accuracy is not None],
        "learning rate": [epoch.learning_rate for epoch in epochs],
    }
    curves = {name: values for name, values in curves.items() if values}
    with _figure(_WIDTH, 2 * len(curves)) as (figure, png):
        all_axes = figure.subplots(len(curves), sharex=True)
        for axes, (name, values) in zip(all_axes, curves.items(), strict=True):
            axes.plot([epoch.number for epoch in epochs], values, color=_BLUE, marker="." if len(epochs) < 30 else "")
            axes.set_title(name, loc="left", fontsize="medium")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if name == "validation accuracy":
                axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
    return png.getvalue()


def draw_confusion(card: ModelCard) -> bytes:
    """How many per cent of each true class (rows) were taken for which class; of many classes, by their numbers."""
    assert card.scores  # noqa: S101
    counts = torch.tensor(card.scores.confusion)
    parts = counts / counts.sum(dim=1, keepdim=True)
    with _figure(_WIDTH, _WIDTH) as (figure, png):
        axes = figure.subplots()
        # Its square root is the shade, so that rare mistakes show.
        image = axes.imshow(parts.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1))
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if len(card.classes) <= _NAMED_CLASSES:
            _name_cells(axes, card.classes, counts, parts)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            figure.colorbar(image, format=PercentFormatter(1), location="bottom", shrink=0.8, label="of the true class")
    return png.getvalue()


def _name_cells(axes: Axes, classes: Sequence[str], counts: torch.Tensor, parts: torch.Tensor) -> None:
    names = [_shortened(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    size = 9 if len(classes) <= 10 else 6
    for row, column in counts.nonzero().tolist():
        part = float(parts[row, column])
        colour = "white" if part > 0.3 else "black"
        axes.text(column, row, f"{100 * part:.0f}", color=colour, ha="center", va="center", fontsize=size)


def draw_pictures(
    pixels: torch.Tensor, labels: torch.Tensor, probabilities: torch.Tensor, classes: Sequence[str]
) -> bytes:
    """uint8 [n, H, W, 3], int64 [n], float32 [n, C], n up to MOST_PICTURES: each with its class and its prediction."""
    rows = max(1, math.ceil(len(pixels) / _COLUMNS))
    confidences, predictions = (best.tolist() for best in probabilities.max(dim=1))
    with _figure(_WIDTH, _WIDTH / _COLUMNS * _CELL * rows) as (figure, png):
        axes = figure.subplots()  # one for all pictures: each of its own would take seconds
        for place, (label, predicted, confidence) in enumerate(
            zip(labels.tolist(), predictions, confidences, strict=True)
        ):
            left, top = place % _COLUMNS, place // _COLUMNS * _CELL
            axes.imshow(pixels[place].numpy(), extent=(left + 0.03, left + 0.97, top + 1.1, top + 0.16))
            axes.text(left + 0.5, top + 0.13, _shortened(classes[label]), ha="center", fontsize=9)
            mark, colour = ("✓", _RIGHT) if predicted == label else ("✗", _WRONG)
            answer = f"{mark} {_shortened(classes[predicted])} {100 * confidence:.0f} %"
            axes.text(left + 0.5, top + 1.13, answer, color=colour, ha="center", va="top", fontsize=9)
        axes.set(xlim=(0, _COLUMNS), ylim=(rows * _CELL, 0))
        axes.set_axis_off()
        if not len(pixels):
            figure.text(0.5, 0.5, "none", ha="center")
    return png.getvalue()


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Of so many inches; at the end of the block it is a PNG. Neither looks at nor changes the user's own settings."""
    png = io.BytesIO()
    fonts = [font for font in _FONTS if font in get_font_names()]
    ours = {"text.parse_math": False, "font.size": 10, "font.family": fonts}  # a class may be called $\x$
    with matplotlib.style.context(["default", ours]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # from every font: it draws a box
        figure = Figure((width, height), dpi=144, layout="constrained")
        yield figure, png
        figure.savefig(png)


def _shortened(name: str) -> str:
    """What fits beside other names, on one line."""
    name = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}…{name[1 - _NAME // 2 :]}"
