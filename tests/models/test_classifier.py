"""The classifier gives the probabilities that the tutorial's own pipeline gives."""

import torch
from torchvision import transforms

from models.architectures.net import Net
from models.card import ModelCard
from models.classifier import Classifier


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


def test_the_cards_temperature_and_mirror_image_change_the_answer_as_they_say() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    plain = Classifier(net, ModelCard())
    with torch.inference_mode():
        both = (plain.logits(pixels) + plain.logits(pixels.flip(2))) / 2
        averaged = Classifier(net, ModelCard(temperature=2.5, flip_average=True))(pixels)
        torch.testing.assert_close(averaged, (both / 2.5).softmax(dim=1))
