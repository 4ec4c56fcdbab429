"""Recipes: every choice of a training run that changes the weights, but for its data and its seed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How to train. The model card carries all of it."""

    name: str
    architecture: str  # a name in models.architectures
    epochs: int  # passes over the training images
    batch_size: int  # images an update
    learning_rate: float  # of stochastic gradient descent
    momentum: float  # the part of the last step that is taken again
    report_every: int  # mini-batches between two lines of running loss


# https://pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html, number for number: whoever followed it
# finds here what was printed there.
TUTORIAL = Recipe(
    name="tutorial",
    architecture="net",
    epochs=2,
    batch_size=4,
    learning_rate=0.001,
    momentum=0.9,
    report_every=2000,
)

RECIPES = {recipe.name: recipe for recipe in (TUTORIAL,)}
