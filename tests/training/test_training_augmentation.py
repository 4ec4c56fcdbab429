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
    draws = torch.Generator().manual_seed(2)
    down, right = torch.randint(-2, 3, (2, 50), generator=draws)
    flips = torch.rand(50, generator=draws) < 0.5
    seen = shift_and_flip(PIXELS, down, right, flips)
    padded = F.pad(PIXELS.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    for image, dy, dx, flip, result in zip(padded, down.tolist(), right.tolist(), flips, seen, strict=True):
        expected = image[:, 2 - dy : 10 - dy, 2 - dx : 14 - dx].permute(1, 2, 0)
        assert torch.equal(result, expected.flip(1) if flip else expected)


def test_a_cut_out_square_is_grey_and_the_rest_untouched() -> None:
    centres = torch.tensor([[4] * 50, [0] * 50])  # in the middle of the height, at the left edge
    seen = cut_out(PIXELS, centres, side=4)
    assert bool((seen[:, 2:6, :2] == 128).all())
    rest = torch.ones(8, 12, dtype=torch.bool)
    rest[2:6, :2] = False
    assert torch.equal(seen[:, rest], PIXELS[:, rest])


def test_images_take_squares_of_others_as_often_as_the_recipe_says() -> None:
    indices = torch.arange(100, 2100)

    def mixed(kept: torch.Tensor) -> tuple[torch.Tensor, ...]:
        recipe = replace(TUTORIAL, cutmix=0.5)
        return Augmentation(recipe, 4000, torch.Generator().manual_seed(0)).mixed(pixels_of, indices, kept)

    def pixels_of(images: torch.Tensor) -> torch.Tensor:  # each of one colour, no two of one
        return torch.stack((images // 256, images % 256, images % 7), dim=1).byte()[:, None, None].expand(-1, 16, 16, 3)

    pixels, others, parts = mixed(torch.arange(len(indices)))
    assert sorted(others.tolist()) == indices.tolist()
    taken = (pixels != pixels_of(indices)).any(dim=3)
    of_another = others != indices
    torch.testing.assert_close(taken.float().mean(dim=(1, 2))[of_another], parts[of_another])
    assert torch.equal(pixels, torch.where(taken[..., None], pixels_of(others), pixels_of(indices)))
    assert 0.45 < (parts > 0).float().mean() < 0.55
    heights, widths = taken.any(dim=2).sum(dim=1), taken.any(dim=1).sum(dim=1)
    assert torch.equal(taken.sum(dim=(1, 2)), heights * widths)  # one rectangle each
    at_an_edge = taken[:, [0, -1]].any(dim=2).any(dim=1) | taken[:, :, [0, -1]].any(dim=1).any(dim=1)
    inside = (heights > 2) & ~at_an_edge
    assert inside.sum() > 100
    assert bool(((heights - widths).abs() <= 1)[inside].all())  # square where no edge cuts it off
    for all_of_them, kept in zip((pixels, others, parts), mixed(torch.tensor([7, 11])), strict=True):
        assert torch.equal(kept, all_of_them[[7, 11]])


def test_the_alternating_flip_shows_every_image_both_ways_in_two_epochs() -> None:
    recipe = replace(TUTORIAL, flip="alternating")
    augment = Augmentation(recipe, len(PIXELS), torch.Generator().manual_seed(0))
    first, second, third = (augment(PIXELS, INDICES, epoch) for epoch in (1, 2, 3))
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
