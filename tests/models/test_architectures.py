"""Networks take the sizes that they say, and start from what they are said to start from."""

import shutil
import subprocess
import sys
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models.architectures import build
from models.architectures.airbench import Airbench


@pytest.mark.parametrize(
    ("name", "sides"), [("net", (32,)), ("airbench", (9, 32, 65)), ("resnet18", (32, 40)), ("resnet18-imagenet", (64,))]
)
def test_a_network_answers_pictures_of_the_sizes_it_takes(name: str, sides: tuple[int, ...]) -> None:
    net = build(name, num_classes=3).eval()
    for side in sides:
        assert net(torch.zeros(2, 3, side, side)).shape == (2, 3)


def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    shutil.copytree(Path(models.__file__).parent, tmp_path / "models")
    (tmp_path / "models" / "architectures" / "mine.py").write_text("import timm_as_well")
    command = [sys.executable, "-c", "from models.architectures import build; build('net', 2); build('mine', 2)"]
    said = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False).stderr
    assert "ArchitectureError: no architecture is called 'mine'; there are: airbench, net, " in said
    assert (
        "; models/architectures/mine.py cannot be imported: ModuleNotFoundError: No module named 'timm_as_well'" in said
    )


@pytest.mark.parametrize("error", [RuntimeError("invalid hash value"), IncompleteRead(b"half")])
def test_a_download_of_first_weights_that_is_cut_short_is_an_os_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    with pytest.raises(OSError, match=r"invalid hash value|IncompleteRead"):
        build("resnet18-imagenet", num_classes=3).initialise(torch.zeros(1, 3, 64, 64))  # type: ignore[operator]


def test_the_stem_of_airbench_whitens_the_patches_of_the_images_it_starts_from() -> None:
    generator = torch.Generator().manual_seed(0)
    images = F.avg_pool2d(torch.randn(50, 3, 40, 40, generator=generator), 3, 1)  # neighbours that are alike
    net = Airbench()
    with torch.no_grad():
        net.initialise(images)
        answers = net.stem(images).permute(1, 0, 2, 3).flatten(1)
    half = len(answers) // 2
    assert torch.equal(answers[:half], -answers[half:])
    correlation = answers[:half] @ answers[:half].T / answers.shape[1]
    torch.testing.assert_close(correlation, torch.eye(half), atol=0.05, rtol=0)
