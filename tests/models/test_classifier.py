"""The classifier gives the probabilities that the tutorial's own pipeline gives."""

import json

import pytest
import torch
import torch.nn.functional as F
from torchvision import transforms

from models.architectures.net import Net
from models.card import PRETRAINED, SHIPPED, ModelCard, Training
from models.classifier import Classifier, further_views, supports


@pytest.mark.parametrize("card", [ModelCard(), ModelCard(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))])
def test_probabilities_equal_the_tutorials_transform_and_network(card: ModelCard) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    tutorial = transforms.Compose([transforms.ToTensor(), transforms.Normalize(card.mean, card.std)])
    with torch.no_grad():
        expected = net(torch.stack([tutorial(image.numpy()) for image in pixels])).softmax(dim=1)
        assert torch.equal(Classifier(net, card)(pixels), expected)


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


@pytest.mark.parametrize(
    ("below", "counts"),  # how many of the images are looked at once, twice, ...
    [(0, [32, 0, 0, 0, 0, 0]), (0.36, [19, 8, 1, 1, 1, 2]), (0.38, [9, 6, 2, 2, 0, 13]), (1, [0, 0, 0, 0, 0, 32])],
)
def test_an_answer_is_averaged_over_further_views_until_it_is_sure(below: float, counts: list[int]) -> None:
    torch.manual_seed(0)
    plain = Classifier(Net().eval(), ModelCard(temperature=0.05))
    pixels = torch.randint(0, 256, (32, 32, 32, 3), dtype=torch.uint8)
    averaging = Classifier(plain.net, plain.card.model_copy(update={"tta_below": below}))
    with torch.inference_mode():
        answers = torch.stack([plain.logits(view) for view in six_views(pixels)])  # [6, N, C]
        means = answers.cumsum(dim=0) / torch.arange(1, 7).view(6, 1, 1)
        sure = (means / 0.05).softmax(dim=2).amax(dim=2) >= below  # [6, N]
        sure[5] = True
        looks = sure.int().argmax(dim=0)  # the first that is
        expected = means[looks, torch.arange(32)]
        torch.testing.assert_close(averaging.logits(pixels), expected)
    assert looks.bincount(minlength=6).tolist() == counts


def six_views(pixels: torch.Tensor) -> list[torch.Tensor]:
    """The six views of uint8 [N, H, W, 3] with which https://github.com/KellerJordan/cifar10-airbench evaluates."""
    size = pixels.shape[1]
    padded = F.pad(pixels.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="reflect").to(torch.uint8).permute(0, 2, 3, 1)
    moved = [padded[:, start : start + size, start : start + size] for start in (1, 0, 2)]
    return [view for each in moved for view in (each, each.flip(2))]


def test_an_image_of_one_pixel_has_views_too() -> None:
    assert list(further_views(1)) == [([0], [0])] * 5


@pytest.mark.skipif(supports("cpu", "float16"), reason="this CPU has float16")
def test_what_the_device_has_not_is_float32() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(
            Classifier(net, ModelCard(precision="float16"))(pixels), Classifier(net, ModelCard())(pixels)
        )


def test_the_cards_that_ship_say_nothing_that_would_be_ignored() -> None:
    for name in SHIPPED:
        members = json.loads((PRETRAINED / f"{name}.json").read_text())
        assert members.keys() <= ModelCard.model_fields.keys()
        assert members["training"].keys() <= Training.model_fields.keys()
