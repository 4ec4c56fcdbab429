"""Recipes: every choice of how to train, and how to answer (`tta_below`), except the data, the seed and the device.

`cifar-train RECIPE --field value` changes a field; `cifar-train RECIPE --list` shows them all.
"""

from dataclasses import replace
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config={"allow_inf_nan": False})
class Recipe:
    """How to train. The model card carries all of it."""

    name: str
    summary: str
    architecture: str = Field(
        default="net", description="net, airbench, resnet18, resnet18-imagenet, or one of yours in models/architectures"
    )
    weights: str = Field(
        default="", description="checkpoint to start from: a path, strong or tutorial; it may have other classes"
    )
    image_size: int = Field(default=32, ge=1, le=4096, description="side of the network's input images, in pixels")
    epochs: int = Field(ge=1, description="passes over the training images")
    batch_size: int = Field(ge=1, description="images per update")
    validation: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="fraction of the training images held back for validation and to calibrate confidence",
    )

    optimizer: Literal["sgd", "adam", "muon"] = Field(
        default="sgd", description="sgd, adam, or muon (which uses sgd for parameters of one dimension, such as biases)"
    )
    learning_rate: float = Field(gt=0, description="the highest learning rate of sgd or adam")
    schedule: Literal["constant", "triangle"] = Field(
        default="triangle", description="constant, or triangle: up for a fifth of the updates, then down to 0"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum coefficient (sgd)")
    nesterov: bool = Field(default=True, description="yes or no: Nesterov momentum (sgd)")
    norm_bias_factor: float = Field(
        default=1, gt=0, description="multiplies the learning rate of batch normalisations' biases"
    )
    weight_decay: float = Field(default=0, ge=0, description="this times a weight is added to its gradient (sgd, adam)")
    muon_learning_rate: float = Field(default=0.02, gt=0, description="the highest learning rate of muon")
    muon_weight_decay: float = Field(default=0.1, ge=0, description="this times a weight is added to its step (muon)")
    label_smoothing: float = Field(
        default=0, ge=0, lt=1, description="fraction of a label's probability that is spread over all classes"
    )
    weighted_loss: bool = Field(
        default=False, description="yes or no: weight the loss so that all classes count equally"
    )

    flip: Literal["none", "random", "alternating"] = Field(
        default="none", description="mirrored images: none, random (half) or alternating (each every other epoch)"
    )
    translate: int = Field(default=0, ge=0, description="largest random shift of an image, in pixels (edges mirrored)")
    cutout: int = Field(default=0, ge=0, description="side in pixels of a square that is greyed out at a random place")
    tta_below: float = Field(
        default=0,
        ge=0,
        le=1,
        description="test-time augmentation: less confident answers are averaged over up to six views; 1: all are",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="number format of the network's arithmetic: float32, bfloat16 or float16, if the device has it",
    )
    compile: bool = Field(default=False, description="yes or no: use torch.compile, which first takes minutes")
    report_every: int = Field(default=0, ge=0, description="mini-batches between printed losses; 0: one per epoch")


# The fields that a flag can change, with their meaning. `replace` checks values, and takes them as text too.
FIELDS: dict[str, str] = {
    name: field.description
    for name, field in Recipe.__pydantic_fields__.items()  # type: ignore[attr-defined]
    if field.description
}


# https://pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html, number for number: whoever followed it
# finds here what was printed there.
TUTORIAL = Recipe(
    name="tutorial",
    summary="the PyTorch CIFAR-10 tutorial, number for number",
    epochs=2,
    batch_size=4,
    validation=0,
    learning_rate=0.001,
    schedule="constant",
    nesterov=False,
    report_every=2000,
)

# Of what it adds to the tutorial's, translation helps most, then muon, which halves the epochs, then its weight decay.
NET_BEST = Recipe(
    name="net-best",
    summary="the tutorial's own network, trained as one does today",
    epochs=20,
    batch_size=256,
    optimizer="muon",
    learning_rate=0.1,
    weight_decay=1e-3,
    flip="alternating",
    translate=2,
    precision="bfloat16",
)

# https://github.com/KellerJordan/cifar10-airbench: its 94 % recipe with muon, but with batches that fit a CPU's cache.
# Half or twice muon's learning rate costs one point of validation accuracy after 6 epochs; sgd instead of muon, two.
FAST = Recipe(
    name="fast",
    summary="a network designed for CIFAR-10",
    architecture="airbench",
    epochs=12,
    batch_size=256,
    optimizer="muon",
    learning_rate=0.35,
    momentum=0.85,
    norm_bias_factor=64,
    weight_decay=1e-3,
    muon_learning_rate=0.04,
    label_smoothing=0.2,
    flip="alternating",
    translate=2,
    tta_below=0.8,
    precision="bfloat16",
)

# A network that sees an image 60 times needs stronger augmentation: larger shifts, and cutout. With sgd, as the shipped
# checkpoint was trained: muon was not tried for so many epochs.
STRONG = replace(
    FAST,
    name="strong",
    summary="the network of fast, trained for longer",
    epochs=60,
    optimizer="sgd",
    learning_rate=0.3,
    translate=4,
    cutout=8,
)

# He et al., Deep Residual Learning for Image Recognition, 2015, with the smoothing and the cutout that later work adds;
# not measured here, where it takes hours.
RESNET18 = Recipe(
    name="resnet18",
    summary="torchvision's ResNet-18 with a stem for small pictures; wants a GPU",
    architecture="resnet18",
    epochs=30,
    batch_size=128,
    learning_rate=0.1,
    weight_decay=5e-4,
    label_smoothing=0.1,
    flip="random",
    translate=4,
    cutout=8,
    precision="bfloat16",
)

RECIPES = {recipe.name: recipe for recipe in (TUTORIAL, NET_BEST, FAST, STRONG, RESNET18)}
