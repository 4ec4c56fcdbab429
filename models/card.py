"""The model card beside a checkpoint's weights: what they are, how they were made and what they score."""

import os
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator

PRETRAINED = Path(__file__).parent / "pretrained"  # the checkpoints that ship with the package, by recipe
SHIPPED = ("strong", "tutorial")  # the first is served where there is no other
STRONG, TUTORIAL_NET = (PRETRAINED / f"{name}.pth" for name in SHIPPED)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Bounds of the histograms of confidence: of test images in the card, and of all images in the service's metrics.
CONFIDENCE_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

Fraction = Annotated[float, Field(ge=0, le=1)]
Rgb = tuple[float, float, float]


def find_checkpoint(checkpoint: Path) -> Path:
    """The checkpoint itself, or that of the package which has this name where no file has it. Raises nothing."""
    shipped = str(checkpoint) in SHIPPED and not os.path.isfile(checkpoint)
    return PRETRAINED / f"{checkpoint}.pth" if shipped else checkpoint.absolute()


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)  # JSON has neither: they would be written as null


class Scores(_Section):
    """Held-out accuracy: a fraction of n with its Wilson 95 % interval, per class, and calibration error (ECE)."""

    data: str
    n: int = Field(ge=1)
    accuracy: Fraction
    interval: tuple[Fraction, Fraction]
    per_class: dict[str, Fraction] = Field(min_length=1)
    calibration_error: Fraction
    uncalibrated_error: Fraction | None = Field(None, description="the same, of a temperature of 1")
    confusion: tuple[tuple[int, ...], ...] = Field((), description="images by true class (rows) and predicted class")
    confidence: tuple[int, ...] = Field((), description="images with a confidence up to each of CONFIDENCE_BOUNDS")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def balanced_accuracy(self) -> float:
        """The mean of the accuracies of the classes, in which a class of few images counts like any other."""
        return fmean(self.per_class.values())


class Training(_Section):
    """How the weights were made: enough to make them again."""

    command: str
    recipe: dict[str, str | int | float | bool]
    data: str
    data_fingerprint: str
    images: int
    validation_images: int = Field(0, description="of the training images, kept back to set the temperature by")
    validation_accuracy: Fraction | None = Field(None, description="of the finished network, on those images")
    started_from: str | None = Field(None, description="SHA-256 of the checkpoint whose weights were the first")
    seed: int
    seconds: float
    hardware: str
    versions: dict[str, str]


class ModelCard(_Section):
    """`cifar_net.json`. The defaults are the tutorial's, which a checkpoint without a card is taken to be."""

    architecture: str = "net"
    arguments: dict[str, str | int | float | bool] = {}
    classes: tuple[str, ...] = Field(CIFAR10_CLASSES, min_length=2)
    input_size: int = Field(32, ge=1, le=4096, description="pixels a side; the input is square")
    mean: Rgb = Field((0.5, 0.5, 0.5), description="subtracted from each channel, on the scale 0..1")
    std: Rgb = Field((0.5, 0.5, 0.5), description="each channel is divided by it, on the scale 0..1")
    temperature: float = Field(1.0, gt=0, description="logits are divided by it, so that confidence matches accuracy")
    uncertain_below: Fraction | None = Field(None, description="answers of less confidence are marked uncertain")
    tta_below: Fraction = Field(
        0, description="answers of less confidence are averaged over further views of the image, up to six in all"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the network's arithmetic")
    resize: Literal["centre-square"] = Field(
        "centre-square", description="how other sizes become the input: see models/pixels.py"
    )
    sha256: str | None = Field(None, description="of the weights' file")
    training: Training | None = None
    scores: Scores | None = None

    @property
    def version(self) -> str:
        """The first 12 hex digits of the weights' SHA-256: what every answer of the service carries."""
        return (self.sha256 or "")[:12]

    @field_validator("std")
    @classmethod
    def _std_divides(cls, std: Rgb) -> Rgb:
        if min(std) <= 0:
            raise ValueError("must be above 0")
        return std

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("must differ from each other")
        return classes
