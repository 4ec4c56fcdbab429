"""`cifar-train RECIPE --list`: the recipes, and the fields that a command can change."""

from training.recipe import FIELDS, RECIPES, Recipe


def print_recipes(chosen: Recipe) -> None:
    """A line on each recipe, and every field of the `chosen` one."""
    print("Recipes (cifar-train RECIPE):")
    for recipe in RECIPES.values():
        print(f"  {recipe.name:10} {recipe.summary}: {recipe.architecture}, {recipe.epochs} epochs")
    print(f"Fields of {chosen.name} (cifar-train {chosen.name} --field value):")
    for name, meaning in FIELDS.items():
        print(f"  --{name.replace('_', '-'):16} {getattr(chosen, name)!s:12} {meaning}")
