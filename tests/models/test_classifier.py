"""The classifier gives the probabilities that the tutorial's own pipeline gives."""

import pytest
import torch
from torchvision import transforms

from models.architectures.net import Net
from models.card import ModelCard
from models.classifier import Classifier, has


def test_probabilities_equal_the_tutorials_transform_and_network() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    tutorial = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    with torch.no_grad():
        expected = net(torch.stack([tutorial(image.numpy()) for image in pixels])).softmax(dim=1)
        assert torch.equal(Classifier(net, ModelCard())(pixels), expected)


def test_rows_sum_to_one_and_batching_changes_nothing() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Net(), ModelCard()).eval()
    pixels = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together = classifier(pixels)
        one_by_one = torch.cat([classifier(image[None]) for image in pixels])
    torch.testing.assert_close(together.sum(dim=1), torch.ones(7))
    torch.testing.assert_close(together, one_by_one)


def test_the_saved_state_dict_holds_the_network_alone() -> None:
    assert list(Classifier(Net(), ModelCard()).net.state_dict()) == list(Net().state_dict())


@pytest.mark.parametrize("averaged", [0, 16, 32])
def test_of_images_with_less_confidence_the_mirror_image_counts_as_much(averaged: int) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    pixels = torch.randint(0, 256, (32, 32, 32, 3), dtype=torch.uint8)
    plain = Classifier(net, ModelCard(temperature=0.05))
    with torch.inference_mode():
        alone, mirrored = plain.logits(pixels), plain.logits(pixels.flip(2))
        confidence, order = plain(pixels).amax(dim=1).sort()
        below = [0.0, *((confidence[1:] + confidence[:-1]) / 2).tolist(), 1.0][averaged]
        card = plain.card.model_copy(update={"flip_average": below})
        expected = alone.index_copy(0, order[:averaged], ((alone + mirrored) / 2)[order[:averaged]])
        torch.testing.assert_close(Classifier(net, card)(pixels), (expected / 0.05).softmax(dim=1))


@pytest.mark.skipif(has("cpu", "float16"), reason="this CPU has float16")
def test_what_the_device_has_not_is_float32() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(
            Classifier(net, ModelCard(precision="float16"))(pixels), Classifier(net, ModelCard())(pixels)
        )


def test_a_card_that_says_true_averages_all_images() -> None:
    assert ModelCard.model_validate_json('{"flip_average": true}').flip_average == 1
