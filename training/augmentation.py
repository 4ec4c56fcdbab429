"""Data augmentation: training images are flipped, shifted and cut out at random, on the device that they are on."""

import torch

from training.recipe import Recipe

_GREY = 128


class Augmentation:
    """The recipe's augmentation of a data set of `count` images; random numbers come from `generator`, on the CPU."""

    def __init__(self, recipe: Recipe, count: int, generator: torch.Generator) -> None:
        self._recipe = recipe
        self._generator = generator
        if recipe.flip == "alternating":  # the images that are flipped in the first epoch; the others are in the next
            self._begin_flipped = torch.rand(count, generator=generator) < 0.5

    def __call__(
        self, pixels: torch.Tensor, indices: torch.Tensor, epoch: int, kept: torch.Tensor | slice = slice(None)
    ) -> torch.Tensor:
        """uint8 [k, H, W, 3] → the same, augmented for `epoch`, which is from 1.

        `indices` (int64 [n], on the CPU) are n images of the data set, and `pixels` those `kept` of them (int64 [k], on
        the CPU; all by default). Random numbers are drawn for all n, so that every process draws the same ones.
        """
        recipe, count = self._recipe, len(indices)
        if recipe.flip != "none" or recipe.translate:
            flips = self._flips(indices, epoch)
            down, right = self._draw(-recipe.translate, recipe.translate, (2, count))
            pixels = shift_and_flip(pixels, *(draw[kept].to(pixels.device) for draw in (down, right, flips)))
        if recipe.cutout:
            centres = self._draw(0, pixels.shape[1] - 1, (2, count))[:, kept]
            pixels = cut_out(pixels, centres, recipe.cutout)
        return pixels

    def _flips(self, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        if self._recipe.flip == "alternating":
            return self._begin_flipped[indices] ^ (epoch % 2 == 0)
        chance = 0.5 if self._recipe.flip == "random" else 0.0
        return torch.rand(len(indices), generator=self._generator) < chance

    def _draw(self, low: int, high: int, shape: tuple[int, int]) -> torch.Tensor:
        return torch.randint(low, high + 1, shape, generator=self._generator)


def shift_and_flip(pixels: torch.Tensor, down: torch.Tensor, right: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3], each image moved by `down` and `right` pixels (int64 [n]), edges mirrored, then flipped
    left to right where `flips` (bool [n]) says so → uint8 [n, H, W, 3]."""
    count, height, width, _ = pixels.shape
    rows = _mirror(torch.arange(height, device=pixels.device) - down[:, None], height)  # [n, H]
    columns = _mirror(torch.arange(width, device=pixels.device) - right[:, None], width)  # [n, W]
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    images = torch.arange(count, device=pixels.device)[:, None, None]
    wanted = ((images * height + rows[:, :, None]) * width + columns[:, None, :]).flatten()
    # Whole pixels by one index each: a quarter of the time that three indices take.
    return pixels.reshape(-1, 3).index_select(0, wanted).view(pixels.shape)


def _mirror(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Positions beyond an edge, reflected at it: -1 is 1, as PyTorch's own reflect padding has it."""
    return size - 1 - (size - 1 - positions.abs()).abs()


def cut_out(pixels: torch.Tensor, centres: torch.Tensor, side: int) -> torch.Tensor:
    """uint8 [n, H, W, 3] with a grey square around each of the `centres` (int64 [2, n]: rows, columns).

    DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    rows, columns = (
        (torch.arange(size) - centre[:, None] + (1 - side % 2) / 2).abs() < side / 2
        for size, centre in zip(pixels.shape[1:3], centres, strict=True)
    )  # [n, H] and [n, W]
    there = rows[:, :, None, None] & columns[:, None, :, None]
    return pixels.masked_fill(there.to(pixels.device), _GREY)
