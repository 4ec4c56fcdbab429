"""`cifar-train` as a user meets it: what it writes, what it says, how it stops."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from models.card import CIFAR10_CLASSES
from models.checkpoint import load
from models.pixels import decode
from tests.integration.running import run_unread
from training.__main__ import main

Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_paths_that_are_not_utf_8_are_trained_on_and_told(
    draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw_folder("caf\udce9")
    for path in root.glob("*/*.png"):
        path.rename(path.with_name(f"\udce9{path.name}"))
    output = "mod\udce8le.pth"
    assert main(["--data", root.name, "--output", output, "--epochs", "1", "--no-report"]) == 0
    card = load(Path(output)).card
    assert card.training is not None
    assert (card.training.data, card.scores and card.scores.data) == ("caf?", "caf?, test images")
    assert "--data 'caf?'" in card.training.command
    assert r"'@caf\udce9/circle/\udce9" in capsys.readouterr().out


def test_a_folder_of_two_classes_trains_and_is_told_apart(
    draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw_folder(per_class=50)
    assert main(["--data", "shapes", "--epochs", "40", "--no-report"]) == 0
    classifier = load(Path("cifar_net.pth"))
    card = classifier.card
    assert card.classes == ("circle", "square")
    assert card.uncertain_below is None, "there are no validation images to set it by"
    assert card.training is not None
    assert card.training.command == "cifar-train --data shapes --epochs 40 --no-report"
    assert (card.training.images, card.training.seed, card.training.recipe["epochs"]) == (80, 0, 40)

    held_out = Path("cifar_net.held-out.txt").read_text().splitlines()
    assert len(held_out) == 20
    right = 0
    for name in held_out:
        pixels = torch.from_numpy(decode((root / name).read_bytes(), 32).copy())
        right += card.classes[int(classifier(pixels[None]).argmax())] == name.split("/")[0]
    assert right >= 18
    assert card.scores is not None
    assert (card.scores.n, card.scores.accuracy) == (20, right / 20)

    said = capsys.readouterr().out
    assert f"Accuracy of the network on the 20 test images: {100 * right / 20:.1f} %" in said
    assert "[40,    20] loss: " in said
    assert said.endswith(
        "  cifar-serve\n"
        f"  curl --data-binary @shapes/{held_out[0]} localhost:8000/predict\n"
        "  cifar-evaluate --data shapes --files cifar_net.held-out.txt\n"
    )


def test_the_same_seed_gives_the_same_bytes(draw_folder: Draw) -> None:
    draw_folder()
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert main(["--data", "shapes", "--seed", seed, "--output", f"new/folder/{name}.pth", "--no-report"]) == 0
    a, b, c = (Path(f"new/folder/{name}.pth").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_test_part_of_its_own_needs_no_list_and_removes_an_old_one(
    draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(splits=("train", "test"))
    Path("other.held-out.txt").write_text("of another run\n")
    assert main(["--data", "shapes", "--output", "other.pth", "--no-report"]) == 0
    assert not Path("other.held-out.txt").exists()
    said = capsys.readouterr().out
    assert "  cifar-serve --checkpoint other.pth\n" in said
    assert said.endswith("  cifar-evaluate --data shapes\n")


class Net(nn.Module):
    """The tutorial's, from its page."""

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
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]


def test_the_tutorials_own_lines_load_the_checkpoint_and_score_the_same(cifar_data: Path) -> None:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    for part, most in (("train", 300), ("test", 50)):
        for name in CIFAR10_CLASSES:
            Path("some", part, name).mkdir(parents=True)
            for path in sorted((cifar_data / part / name).iterdir())[:most]:
                Path("some", part, name, path.name).symlink_to(path)
    assert main(["--data", "some", "--epochs", "3", "--no-report"]) == 0

    net = Net()
    net.load_state_dict(torch.load("cifar_net.pth", weights_only=True))
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    testset = ImageFolder("some/test", transform=transform)
    with torch.no_grad():
        hits = sum(int(net(image[None]).argmax()) == label for image, label in testset)
    scores = load(Path("cifar_net.pth")).card.scores
    assert scores is not None
    assert scores.accuracy == hits / 500
    assert scores.accuracy > 0.2  # 0.1 would be guessing


def test_a_reader_that_leaves_ends_the_run_without_a_traceback(draw_folder: Draw) -> None:
    draw_folder()
    command = [sys.executable, "-m", "training", "--data", "shapes", "--epochs", "1000000", "--no-report"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "cifar-train: stopped: the program that read its output has ended\n"
    assert process.returncode == 141


def test_a_reader_that_leaves_the_list_of_recipes_sees_no_traceback() -> None:
    said = "cifar-train: stopped: the program that read its output has ended\n"
    assert run_unread(sys.executable, "-m", "training", "--list") == (141, said)


def all_of(terminal: int) -> bytes:
    """What is written to this end's other end until that is closed."""
    shown = b""
    with contextlib.suppress(OSError):  # as a terminal says that it was
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    return shown


def test_in_a_terminal_a_bar_shows_rate_loss_and_time_left_while_the_log_stays_clean(
    draw_folder: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folder()
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor() as reader:  # lest the terminal be full
        read = reader.submit(all_of, ours)
        with (
            os.fdopen(theirs, "w") as terminal,
            Path("log").open("w") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(terminal),
        ):
            assert main(["--data", "shapes", "--epochs", "60", "--no-report"]) == 0
    shown = read.result()
    for part in (b"Training", b"images/s", b"epoch ", b"loss ", b"left"):
        assert part in shown
    assert "\x1b" not in Path("log").read_text()
    assert "[60," in Path("log").read_text()


def test_imbalanced_grey_pictures_of_another_size_train_and_the_card_says_all_of_it(
    draw_folder: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw_folder("große shapes", per_class=40)
    (root / "square").rename(root / "rare 四角")
    for number in range(10, 40):
        (root / "rare 四角" / f"0{number}.png").unlink()
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    flags = ["--architecture", "airbench", "--image-size", "24", "--epochs", "1"]
    assert main(["--data", str(root), *flags, "--validation", "0.5", "--no-report"]) == 0
    said = capsys.readouterr().out
    assert (
        "The classes are imbalanced, 16 images to train on of circle and 4 of rare 四角: with --weighted-loss" in said
    )
    assert main(["--data", str(root), *flags, "--weighted-loss", "yes"]) == 0
    card = load(Path("cifar_net.pth")).card
    assert (card.input_size, card.classes) == (24, ("circle", "rare 四角"))
    assert card.scores is not None
    assert card.scores.balanced_accuracy == sum(card.scores.per_class.values()) / 2
    said = capsys.readouterr().out
    assert "with --weighted-loss" not in said
    assert f"balanced accuracy: {100 * card.scores.balanced_accuracy:.1f} %\n" in said
