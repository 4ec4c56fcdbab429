"""Each augmentation, beside the same done with PyTorch's own slow functions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from training.augmentation import Augmentation, cut_out, shift_and_flip
from training.recipe import TUTORIAL, Recipe

PIXELS = torch.randint(0, 256, (50, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
INDICES = torch.arange(50)


def test_images_are_shifted_over_mirrored_edges_and_flipped() -> None:
    generator = torch.Generator().manual_seed(2)
    down, right = torch.randint(-2, 3, (2, 50), generator=generator)
    flips = torch.rand(50, generator=generator) < 0.5
    seen = shift_and_flip(PIXELS, down, right, flips)
    padded = F.pad(PIXELS.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    for image, dy, dx, flip, result in zip(padded, down.tolist(), right.tolist(), flips, seen, strict=True):
        expected = image[:, 2 - dy : 10 - dy, 2 - dx : 14 - dx].permute(1, 2, 0)
        assert torch.equal(result, expected.flip(1) if flip else expected)


def test_images_are_shifted_as_far_to_every_side() -> None:
    alike = PIXELS[:1].expand(500, -1, -1, -1)
    augment = Augmentation(replace(TUTORIAL, translate=2), 500, torch.Generator().manual_seed(0))
    assert len(set(map(bytes, augment(alike, torch.arange(500), 1).numpy()))) == 5 * 5


@pytest.mark.parametrize(("side", "rows"), [(4, slice(2, 6)), (3, slice(3, 6))])
def test_a_cut_out_square_is_grey_and_the_rest_untouched(side: int, rows: slice) -> None:
    centres = torch.tensor([[4] * 50, [0] * 50])  # in the middle of the height, at the left edge
    seen = cut_out(PIXELS, centres, side)
    assert bool((seen[:, rows, :2] == 128).all())
    rest = torch.ones(8, 12, dtype=torch.bool)
    rest[rows, :2] = False
    assert torch.equal(seen[:, rest], PIXELS[:, rest])


def test_the_alternating_flip_shows_every_image_both_ways_in_two_epochs() -> None:
    recipe = replace(TUTORIAL, flip="alternating")
    augment = Augmentation(recipe, len(PIXELS), torch.Generator().manual_seed(0))
    others = INDICES.flip(0)  # every epoch has an order of its own
    first, third = (augment(PIXELS, INDICES, epoch) for epoch in (1, 3))
    second = augment(PIXELS[others], others, 2)[others]
    assert torch.equal(first, third)
    assert torch.equal(second, first.flip(2))
    flipped = (first != PIXELS).flatten(1).any(dim=1)
    assert 10 < int(flipped.sum()) < 40


@pytest.mark.parametrize(
    "recipe", [replace(TUTORIAL, flip="random"), replace(TUTORIAL, translate=2), replace(TUTORIAL, cutout=3)]
)
def test_a_generator_in_the_same_state_draws_the_same_images(recipe: Recipe) -> None:
    seen = [
        Augmentation(recipe, len(PIXELS), torch.Generator().manual_seed(seed))(PIXELS, INDICES, 1) for seed in (0, 0, 1)
    ]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_without_augmentation_the_images_are_the_images() -> None:
    assert Augmentation(TUTORIAL, len(PIXELS), torch.Generator())(PIXELS, INDICES, 1) is PIXELS
