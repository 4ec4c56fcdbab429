"""The script of PyTorch's CIFAR-10 tutorial, literally, timed: what `benchmarks.training` compares our loop with.

https://pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html. Changed: the images come from the folder
$CIFAR_DATA/train (<class>/*), the updates can be limited, and the loop's seconds are printed.

    python -m benchmarks.literal_tutorial [UPDATES] [PATH]
"""

import os
import sys
import time
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
import torchvision.transforms as transforms
from torch import nn, optim


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)  # flatten all dimensions except batch
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = self.fc3(x)
        return x


def main(updates: int | None = None, path: str | None = None) -> float:
    """Train two epochs, or `updates` mini-batches if that is fewer; save only where `path` is given.

    Returns the seconds that the training loop took.
    """
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    batch_size = 4
    data_root = Path(os.environ.get("CIFAR_DATA", "data"))
    trainset = torchvision.datasets.ImageFolder(data_root / "train", transform=transform)
    trainloader = torch.utils.data.DataLoader(trainset, batch_size=batch_size, shuffle=True, num_workers=2)

    net = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

    started = time.perf_counter()
    done = 0
    for epoch in range(2):  # loop over the dataset multiple times
        running_loss = 0.0
        for i, data in enumerate(islice(trainloader, None if updates is None else updates - done), 0):
            # get the inputs; data is a list of [inputs, labels]
            inputs, labels = data

            # zero the parameter gradients
            optimizer.zero_grad()

            # forward + backward + optimize
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            done += 1

            # print statistics
            running_loss += loss.item()
            if i % 2000 == 1999:  # print every 2000 mini-batches
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 2000:.3f}", flush=True)
                running_loss = 0.0
    seconds = time.perf_counter() - started
    print("Finished Training")
    print(f"{done} updates in {seconds:.2f} s")

    if path is not None:
        torch.save(net.state_dict(), path)
    return seconds


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else None, arguments[1] if len(arguments) > 1 else None)
