"""The whole road on real processes: what is measured through the service is what the network scores in process."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.card import TUTORIAL_NET
from models.checkpoint import load
from models.pixels import decode
from tests.conftest import Draw
from tests.integration.running import (
    HTTP,
    RunningService,
    copy_tutorial_net,
    run_command,
    running_service,
    wait_until,
)
from training.__main__ import main as cifar_train


def labels_in_process(checkpoint: Path, files: list[Path]) -> list[str]:
    classifier = load(checkpoint)
    with torch.inference_mode():
        pixels = np.stack([decode(file.read_bytes(), classifier.card.input_size) for file in files])
        return [classifier.card.classes[index] for index in classifier(torch.tensor(pixels)).argmax(dim=1).tolist()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of the cifar_net.pth in its folder: at first, the shipped one."""
    folder = tmp_path_factory.mktemp("served")
    copy_tutorial_net(folder / "cifar_net.pth")
    with running_service(folder) as service:
        yield service


def test_the_shipped_checkpoint_scores_the_same_through_the_service_on_all_of_cifar10(
    served: RunningService, cifar_data: Path, tmp_path: Path
) -> None:
    result = run_command(
        "cifar-evaluate", "--data", str(cifar_data), "--url", served.url, "--json", "report.json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    files = [cifar_data / entry["file"] for entry in report["predictions"]]
    assert len(files) == 10_000
    assert [entry["label"] for entry in report["predictions"]] == labels_in_process(TUTORIAL_NET, files)
    card = load(TUTORIAL_NET).card
    assert card.scores
    assert report["accuracy"] == card.scores.accuracy, "the card says what users get"


def test_a_folder_of_two_classes_is_trained_served_asked_and_evaluated(
    draw_folder: Draw, served: RunningService, tmp_path: Path
) -> None:
    folder = draw_folder(per_class=100)
    picture, net = folder / "circle" / "003.png", served.log.with_name("cifar_net.pth")
    assert cifar_train(["--data", str(folder), "--epochs", "6", "--output", str(net), "--no-report"]) == 0
    trained = load(net).card.version

    def answering() -> str:
        answer = HTTP.post(f"{served.url}/predict", content=picture.read_bytes(), timeout=60)
        return str(answer.json()["model"]["version"])

    wait_until(lambda: answering() == trained)
    asked = run_command("cifar-predict", str(picture), "--url", served.url, cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "circle" in asked.stdout

    held_out = net.with_name("cifar_net.held-out.txt")
    evaluated = run_command(
        *("cifar-evaluate", "--data", str(folder), "--files", str(held_out), "--url", served.url),
        *("--json", "report.json", "--min-accuracy", "0.9"),
        cwd=tmp_path,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert sorted(entry["file"] for entry in report["predictions"]) == sorted(held_out.read_text().split())
    files = [folder / entry["file"] for entry in report["predictions"]]
    assert [entry["label"] for entry in report["predictions"]] == labels_in_process(net, files)
