"""Networks that users write: what cannot be trained is one sentence, before the data is read; what can, is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.architectures import _ARCHITECTURES, register
from models.architectures.net import Net
from models.checkpoint import load
from training.__main__ import main

Draw = Callable[..., Path]


class Frozen(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)


class Idle(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.idle = nn.Linear(1, 1)


class Complex(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.turn = nn.Parameter(torch.ones(num_classes, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (super().forward(x) * self.turn).abs()


class Imaginary(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 1j


class Tuple(Net):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), None


class OneWhenEvaluated(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, : None if self.training else 1]


class Stateful(Net):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}


class Softmax(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(dim=1)


class Lazy(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        norm = nn.LazyBatchNorm2d(affine=False)  # which has buffers alone
        super().__init__(nn.LazyConv2d(4, 3), norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))


class Greedy(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**60)


class Centreless(Net):
    mean = 0.5


class Uninitialised(Net):
    def initialise(self, inputs: torch.Tensor) -> None:
        raise KeyError("first")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(monkeypatch: pytest.MonkeyPatch, network: type[nn.Module], *arguments: str) -> int:
    monkeypatch.setitem(_ARCHITECTURES, "theirs", network)
    return main(["--architecture", "theirs", "--epochs", "1", "--no-report", *arguments])


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Frozen, "theirs cannot be trained by sgd (element 0 of tensors does not require grad"),
        (Complex, "theirs cannot be trained by sgd (`fused=True` requires"),
        (Imaginary, "theirs answers with torch.complex64: its logits must be of floating point"),
        (Tuple, "theirs answers with a tuple: it must return the logits alone"),
        (OneWhenEvaluated, "theirs answers 2 images with an array of (2, 1), where num_classes=2 asks for (2, 2): "),
        (Stateful, "theirs has _extra_state in its state_dict, which is no tensor: no checkpoint can hold it"),
        (Greedy, "there is too little memory: choose a smaller --batch-size or --image-size"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_data_is_read(
    network: type[nn.Module], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(monkeypatch, network, "--data", "nowhere") == 1
    assert capsys.readouterr().err.startswith(f"cifar-train: {reason}")


def test_a_weight_without_a_part_in_the_answers_is_told_of_where_several_processes_cannot_train_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(monkeypatch, Idle, "--data", "nowhere") == 1
    assert "there is no folder nowhere" in capsys.readouterr().err
    monkeypatch.setattr("training.distributed.world_size", lambda: 2)
    assert train(monkeypatch, Idle, "--data", "nowhere") == 1
    assert "idle.weight; idle.bias of theirs has no part in its answers, which several pro" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Centreless, "theirs has a mean or std that no card can hold: "),
        (Uninitialised, "theirs.initialise fails: KeyError: 'first'"),
    ],
)
def test_what_fails_to_begin_is_one_sentence(
    network: type[nn.Module],
    reason: str,
    draw_folder: Draw,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(monkeypatch, network, "--data", str(draw_folder())) == 1
    assert capsys.readouterr().err.startswith(f"cifar-train: {reason}")


def test_a_network_that_counts_its_inputs_itself_is_trained_and_loaded(
    draw_folder: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(monkeypatch, Lazy, "--data", str(draw_folder()), "--image-size", "20") == 0
    assert load(Path("cifar_net.pth")).net(torch.zeros(1, 3, 20, 20)).shape == (1, 2)


def test_weights_of_double_precision_are_trained_by_muon(draw_folder: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    class Double(Net):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes)
            self.double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.double()).abs()  # of which no sum is 1

    assert train(monkeypatch, Double, "--data", str(draw_folder()), "--optimizer", "muon") == 0


def test_a_softmax_too_many_is_told_of(
    draw_folder: Draw, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(monkeypatch, Softmax, "--data", str(draw_folder())) == 0
    assert "The answers of theirs add up to 1: leave softmax out of it" in capsys.readouterr().out
    assert train(monkeypatch, Net, "--data", "shapes") == 0
    assert "add up to 1" not in capsys.readouterr().out


def test_a_name_that_is_taken_is_nobodys_but_a_file_may_be_run_as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_ARCHITECTURES, "net", Net)
    register("net")(Net)
    with pytest.raises(ValueError, match=r"models\.architectures\.net registers 'net' too: choose another name"):
        register("net")(Softmax)
    assert "net" not in _ARCHITECTURES
    register("net")(Net)
    register("net")(type("Net", (Net,), {"__module__": "__main__"}))
