"""What `cifar-train` refuses, and how: one sentence, as early as can be."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models.architectures import _ARCHITECTURES
from models.architectures.net import Net
from training.__main__ import main

Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    """What cifar-train says on stderr when it refuses `arguments`: one line."""
    assert main(arguments) == status
    sentence = capsys.readouterr().err
    assert sentence.startswith("cifar-train: ")
    assert sentence.count("\n") == 1
    return sentence


def test_a_full_disk_is_one_sentence_and_leaves_no_file(draw_folder: Draw, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder()
    Path("out").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # bytes a file: less than the weights take
    try:
        sentence = refusal(capsys, 1, "--data", "shapes", "--output", "out/net.pth", "--no-report")
        assert sentence.endswith("out/net.resume cannot be written (File too large): make room\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fancy"], "there is no recipe 'fancy': choose one of tutorial, net-best, "),
        (["--output", "."], ". is a folder; name a file, such as cifar_net.pth"),
        (["--promote", "served/"], "served is a folder; name a file, such as served/cifar_net.pth"),
        (["--output", f"{'x' * 200}.pth"], "x.pth is too long a name: choose one of 200 bytes at most"),
        (["--output", "/dev/null"], "/dev/null is not a file of this machine; name one, such as cifar_net.pth"),
        (["--promote", "s3://bucket/net.pth"], "s3://bucket/net.pth is not a file of this machine; name one, such as"),
        (["--data", ""], "argument --data: it is empty; name a folder of images, or leave it out for cifar10"),
        (["--output", "net.json"], "net.json is where the model card would go; name it net.pth"),
        (["--output", "net.run"], "net.run is where the report would go; name it net.pth"),
        (["--output", "net-0.1"], "net-0.1 does not end in .pth; name it net-0.1.pth"),
        (["--epochs", "0"], "--epochs: Input should be greater than or equal to 1, not '0'"),
        (["--flip", "sideways"], "--flip: Input should be 'none', 'random' or 'alternating', not 'sideways'"),
        (["--learning-rate", "inf"], "--learning-rate: Input should be a finite number, not 'inf'"),
        (["--seed", "-1"], "--seed"),
        (["--lr", "0.1"], "unrecognized arguments: --lr (see cifar-train --help, and --list"),
        (["--if-better"], "--if-better says when to promote: add --promote PATH"),
        (["--device", "abacus"], "'abacus' is not one of auto, cpu, cuda, cuda:N, mps"),
    ],
)
def test_bad_use_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    assert reason in refusal(capsys, 2, *arguments)


def test_a_device_that_is_not_here_is_refused_before_the_data_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no cuda:99 here" in refusal(capsys, 1, "--data", "nowhere", "--device", "cuda:99")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--image-size", "48"],
            "mat1 and mat2 shapes cannot be multiplied (2x1296 and 400x120)): choose another --image-size",
        ),
        (["fast", "--image-size", "2"], "airbench cannot take images of 2 pixels a side"),
        (["--architecture", "fancy"], "no architecture is called 'fancy'; there are: "),
    ],
)
def test_what_the_network_cannot_take_is_refused_before_the_data_is_read(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert reason in refusal(capsys, 1, "--data", "nowhere", *arguments)


def test_a_network_that_does_not_fit_the_classes_is_refused_before_the_data_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_ARCHITECTURES, "ten", lambda num_classes: Net(10))
    monkeypatch.setitem(_ARCHITECTURES, "none", lambda: Net(2))
    said = refusal(capsys, 1, "--data", "nowhere", "--architecture", "ten")
    assert "ten answers 2 images with an array of (2, 10), where num_classes=2 asks for (2, 2): give its" in said
    said = refusal(capsys, 1, "--data", "nowhere", "--architecture", "none")
    assert "none fails: TypeError" in said


def test_cifar10_has_one_size(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capsys, 1, "fast", "--image-size", "48")
    assert "cifar10 is 32 pixels a side: leave --image-size out" in sentence


def test_an_output_that_cannot_be_written_is_refused_before_the_data_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("file").touch()
    sentence = refusal(capsys, 1, "--data", "nowhere", "--output", "file/net.pth")
    assert "file/net.pth cannot be written: " in sentence


def test_data_that_cannot_be_trained_on_is_one_sentence(capsys: pytest.CaptureFixture[str], draw_folder: Draw) -> None:
    root = draw_folder()
    shutil.rmtree(root / "square")
    assert "has only one class, circle" in refusal(capsys, 1, "--data", "shapes")


def test_help_fits_a_screen_and_shows_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24
    assert "tutorial (the default)" in shown
    for default in ("cifar10", "cifar_net.pth", "0", "auto", "the recipe's"):
        assert f"(default: {default})" in " ".join(shown.split())


def test_a_full_disk_behind_what_it_prints_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "training", "--list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "cifar-train: its output: No space left on device\n")


def test_without_torch_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; from training.__main__ import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert (
        done.stderr
        == "cifar-train: torch is not installed: pip install '.[training]' in the folder of this repository\n"
    )
