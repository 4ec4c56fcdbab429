"""`cifar-train RECIPE --list`: the recipes with what they scored, and the fields that a command can change."""

from typing import NamedTuple

from training.recipe import FIELDS, RECIPES, Recipe


class Measured(NamedTuple):
    """On CIFAR-10 as JPEGs: percent of 10,000 test images, over n seeds; `strong` is the shipped checkpoint's run."""

    accuracy: str
    n: int
    seconds: int  # of training, on _HARDWARE


_HARDWARE = "two shared cores: net-best and fast on Zen 3 in float32, the others on Zen 4"
MEASURED = {
    "tutorial": Measured("55.0 ± 1.1", 5, 28),
    "net-best": Measured("74.8 ± 0.2", 5, 148),
    "net-best --epochs 12": Measured("73.3 ± 0.4", 5, 82),
    "net-best --epochs 60": Measured("76.4 ± 0.3", 5, 423),
    "fast --tta-below 1": Measured("90.8 ± 0.1", 5, 2684),
    "strong": Measured("92.1", 1, 6667),
}


def print_recipes(chosen: Recipe) -> None:
    """A line on each recipe, and every field of the `chosen` one."""
    print("Recipes (cifar-train RECIPE):")
    for recipe in RECIPES.values():
        print(f"  {recipe.name:10} {recipe.summary}: {recipe.architecture}, {recipe.epochs} epochs")
        for command, measured in MEASURED.items():
            if command.split()[0] == recipe.name:
                with_flags = "" if command == recipe.name else f" ({command})"
                print(f"  {'':10} {measured.accuracy} % (n = {measured.n}), {measured.seconds} s{with_flags}")
    print(f"Test accuracy on CIFAR-10 as JPEGs, and seconds of training, on {_HARDWARE}.")
    print("n: number of seeds; ±: standard deviation over seeds. A recipe without figures was not measured.")
    print(f"Fields of {chosen.name} (cifar-train {chosen.name} --field value):")
    for name, meaning in FIELDS.items():
        print(f"  --{name.replace('_', '-'):18} {getattr(chosen, name)!s:12} {meaning}")
