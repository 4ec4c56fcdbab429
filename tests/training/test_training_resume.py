"""A run that was stopped, by whatever, goes on to the very weights that it would have had."""

import copy
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from models.card import ModelCard
from models.checkpoint import load
from models.classifier import Classifier
from tests.pictures import draw_shape
from training.__main__ import main
from training.errors import TrainingError
from training.execution import Execution
from training.history import Epoch
from training.loop import Examples, Trainer
from training.recipe import TUTORIAL

RUN = ["net-best", "--precision", "float32", "--data", "shapes", "--epochs", "12", "--batch-size", "8"]
RUN += ["--report-every", "5", "--cutout", "4", "--no-report"]
STOPS = {signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}  # and the exit code of each; SIGINT is as SIGTERM


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run that was never stopped, and one for each signal that stopped it."""
    folder = tmp_path_factory.mktemp("runs")
    for shape in ("circle", "square"):
        (folder / "shapes" / shape).mkdir(parents=True)
        for number in range(60):
            draw_shape(shape, number).save(folder / "shapes" / shape / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*RUN, "--output", "never.pth"]) == 0
        for number, status in STOPS.items():
            assert stop_in_the_third_epoch(number, "--output", f"{number.name}.pth") == status
    return folder


@pytest.fixture(autouse=True)
def in_a_copy(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(runs, tmp_path / "runs", copy_function=os.link)  # files that are the same count as unchanged
    monkeypatch.chdir(tmp_path / "runs")


def stop_in_the_third_epoch(number: signal.Signals, *arguments: str) -> int:
    command = [sys.executable, "-X", "importtime", "-u", "-m", "training", *RUN, *arguments]
    with (
        Path(f"{number.name}.imports").open("w") as imports,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=imports, text=True) as process,
    ):
        assert process.stdout is not None
        while not process.stdout.readline().startswith("[3,     5]"):
            assert process.poll() is None
        process.send_signal(number)
    return process.returncode


@pytest.mark.parametrize("number", STOPS)
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(number: signal.Signals) -> None:
    stopped = Path(f"{number.name}.pth")
    assert stopped.with_suffix(".resume").exists()
    assert not stopped.exists()
    assert main([*RUN, "--output", str(stopped), "--resume"]) == 0
    assert stopped.read_bytes() == Path("never.pth").read_bytes()
    assert not stopped.with_suffix(".resume").exists()


def test_a_run_does_not_wait_for_a_compiler_that_it_has_no_use_for() -> None:
    imported = {line.rpartition("|")[2].strip() for line in Path("SIGTERM.imports").read_text().splitlines()}
    assert "torch" in imported
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & imported


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*RUN, "--output", "SIGTERM.pth", "--resume", *arguments]) == 1
    return capsys.readouterr().err


def test_whoever_forgets_to_say_resume_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = Path("SIGTERM.resume").read_bytes()
    assert main([*RUN, "--epochs", "1", "--output", "SIGTERM.pth"]) == 0
    assert (
        "SIGTERM.resume held a stopped run, and is now SIGTERM.resume.1: this run begins anew. To go on"
        in capsys.readouterr().out
    )
    assert Path("SIGTERM.resume.1").read_bytes() == stopped
    Path("SIGTERM.resume").write_bytes(b"of another")
    assert main([*RUN, "--epochs", "1", "--output", "SIGTERM.pth"]) == 0
    assert Path("SIGTERM.resume.1").read_bytes() == stopped
    assert Path("SIGTERM.resume.2").read_bytes() == b"of another"


def test_one_command_begins_a_run_and_goes_on_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--output", "other.pth", "--resume"]) == 0
    assert "There is no other.resume to go on from: this run begins anew\n" in capsys.readouterr().out
    assert Path("other.pth").read_bytes() == Path("never.pth").read_bytes()


def test_another_run_and_a_damaged_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is of a run whose seed was 0, not 1" in refusal(capsys, "--seed", "1")
    assert "is of a run whose epochs was 12, not 9: repeat" in refusal(capsys, "--epochs", "9")
    Path("damaged.resume").write_bytes(b"damaged")
    assert "damaged.resume is damaged: train anew without" in refusal(capsys, "--output", "damaged.pth")
    content = bytearray(Path("SIGTERM.resume").read_bytes())
    content[len(content) // 2] ^= 1  # among the weights, which torch reads whatever they are
    Path("damaged.resume").write_bytes(content)
    assert "damaged.resume is damaged: train anew without" in refusal(capsys, "--output", "damaged.pth")
    torch.save({"of": "something else"}, "damaged.resume")
    assert "damaged.resume is damaged: train anew without" in refusal(capsys, "--output", "damaged.pth")


def test_a_job_that_is_tried_again_when_pictures_have_changed_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = Path("SIGTERM.resume").read_bytes()
    draw_shape("circle", 60).save("shapes/circle/60.png")
    assert main([*RUN, "--output", "SIGTERM.pth", "--resume"]) == 0
    assert "is of other or changed pictures, and is now SIGTERM.resume.1: this run begins" in capsys.readouterr().out
    assert Path("SIGTERM.resume.1").read_bytes() == stopped


def test_a_disk_that_is_full_ends_the_run_and_leaves_what_was_saved_before(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("SIGTERM.resume").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # bytes a file: less than the state takes
    try:
        assert "SIGTERM.resume cannot be written (File too large): make room, and go on with" in refusal(capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path("SIGTERM.resume").read_bytes() == before
    assert [name for name in os.listdir() if name.startswith(".SIGTERM")] == []


def test_a_run_goes_on_where_its_precision_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ["tutorial", "--data", "shapes", "--precision", "float16", "--no-report", "--output", "half.pth"]
    for there, epochs in ((False, 1), (True, 2), (False, 3)):
        monkeypatch.setattr("training.preparation.supports", lambda *_, there=there: there)
        stop_after(epochs, monkeypatch)
        assert main([*run, "--epochs", "3", "--resume"]) == (0 if epochs == 3 else 130)
    assert load(Path("half.pth")).card.precision == "float32"


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def print_and_stop(epoch: Epoch) -> None:
        if epoch.number == epochs < 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("training.run.print_epoch", print_and_stop)


@pytest.mark.parametrize(("dropout", "window"), [(0.5, 16), (0, 32)])  # of 32 as on another device
def test_in_the_middle_of_an_epoch_it_goes_on_with_what_a_network_draws_itself_too(
    dropout: float, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> Trainer:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.Dropout(dropout), nn.Linear(8, 10))
        examples = Examples(pixels, torch.arange(64) % 10, torch.arange(64))
        execution = Execution(threads=1, onednn=True, channels_last=False)
        return Trainer(Classifier(net, ModelCard()).train(), examples, TUTORIAL, 0, execution)

    def to_its_end(windows: Iterator[list[float]], run: Trainer) -> tuple[Epoch, ...]:
        list(windows)
        return tuple(epoch._replace(seconds=0) for epoch in run.history)

    pixels = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8)
    monkeypatch.setattr("training.loop._WINDOW_IMAGES", 16)
    never = begin()
    to_its_end(never.rest_of_epoch(lambda *_: None), never)
    windows = never.rest_of_epoch(lambda *_: None)
    next(windows)
    state = copy.deepcopy(never.state())
    both = to_its_end(windows, never)
    monkeypatch.setattr("training.loop._WINDOW_IMAGES", window)
    resumed = begin()
    resumed.restore(state)
    assert to_its_end(resumed.rest_of_epoch(lambda *_: None), resumed) == both
    epoch, images, _, losses = state["place"]
    resumed.restore(state | {"place": (epoch, images, 1000.0, losses)})
    list(resumed.rest_of_epoch(lambda *_: None))
    assert resumed.history[-1].seconds > 1000, "those before the stop too"
    for part in ("net", "updates", "order", "place", "history"):
        with pytest.raises(TrainingError, match="another version of the network or of this program: train anew"):
            begin().restore(state | {part: {"": ""}})


def test_a_stopped_run_leaves_everything_as_it_was() -> None:
    Path("out").mkdir()
    Path("out/net.pth").write_text("an older checkpoint")
    endless = ["--data", "shapes", "--output", "out/net.pth", "--epochs", "1000000", "--no-report"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("[1,"):
        assert process.poll() is None
        assert line.rstrip("\n").isprintable()  # without a terminal: no bar, no colours
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    left = "the same command with --resume goes on"
    assert (process.returncode, errors) == (130, f"cifar-train: stopped; {left}\n")
    assert sorted(path.name for path in Path("out").iterdir()) == ["net.pth", "net.resume"]
    assert Path("out/net.pth").read_text() == "an older checkpoint"
