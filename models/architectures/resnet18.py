"""torchvision's ResNet-18: with a stem for small pictures, or as it is, with weights pretrained on ImageNet."""

from http.client import HTTPException

import torch
from torch import nn

from models.architectures import register


class _ResNet18(nn.Module):
    """float32 [N, 3, H, W], normalised → logits float32 [N, num_classes]."""

    def __init__(self, num_classes: int = 10) -> None:
        from torchvision.models import resnet18  # seconds, which no other network needs

        super().__init__()
        self.resnet = resnet18(num_classes=num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.resnet(x)
        return logits


@register("resnet18")
class ResNet18(_ResNet18):
    """For pictures of about 32 pixels: the first convolution is 3×3 with stride 1, and there is no max-pooling.

    He et al., Deep Residual Learning for Image Recognition, 2015, as later work fits it to CIFAR-10.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.resnet.maxpool = nn.Identity()


@register("resnet18-imagenet")
class ResNet18ImageNet(_ResNet18):
    """For pictures of 64 pixels and more, normalised as its pretrained weights need it."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def initialise(self, inputs: torch.Tensor) -> None:
        """Loads the weights pretrained on ImageNet, except the last layer's. Raises OSError: cannot be downloaded."""
        from torchvision.models import ResNet18_Weights

        try:
            state = ResNet18_Weights.DEFAULT.get_state_dict(progress=True, check_hash=True)
        except (HTTPException, RuntimeError) as error:  # of a download that was cut short
            raise OSError(str(error)) from None
        classes = self.resnet.fc.state_dict(prefix="fc.")
        self.resnet.load_state_dict({**state, **classes})
