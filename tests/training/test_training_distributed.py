"""Processes that torchrun starts, on one host or on two, train as one does; and one that is lost is not the end."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from models.checkpoint import load
from tests.integration.running import wait_until
from tests.pictures import draw_shape
from training.__main__ import main
from training.data import load_folder
from training.evaluation import evaluate
from training.history import Epoch

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]

# Several runs in one start of the processes, which takes seconds: each process in a folder of its own, as on hosts that
# share no disk. In the runs that TROUBLE names, the second process gets a signal once an epoch was saved; the last of
# them is what torchrun then starts again.
RUNS = """
import json, os, signal, sys, threading, time
from datetime import timedelta
from pathlib import Path
import torch
from training import distributed, evaluation
from training.__main__ import main

TROUBLE = {"stopped.pth": signal.SIGTERM, "killed.pth": signal.SIGKILL}
folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
# As on a machine that has one: by itself, torch would then share nothing that lies on the CPU.
torch.accelerator.current_accelerator = lambda *_: torch.device("mps")
evaluation._BATCH = 3  # so that the few images are scored by both
rank, again = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
os.makedirs(folder / rank, exist_ok=True)
os.chdir(folder / rank)

def signal_this(saved: Path, number: int) -> None:
    while not saved.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), number)

for arguments in runs[-1:] if again else runs:
    output = arguments[arguments.index("--output") + 1]
    distributed._PATIENCE = timedelta(seconds=10 if output == "cut.pth" else 60)
    if output in TROUBLE and rank == "1" and "--resume" not in arguments and not again:
        saved = (folder / "0" / output).with_suffix(".resume")
        threading.Thread(target=signal_this, args=(saved, TROUBLE[output])).start()
    status = main(arguments)
    with Path("statuses").open("a") as statuses:
        print(status, file=statuses)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # which the end of a process does where a run fails
"""

# In batches of 31, of which two processes take 16 and 15: so few are run one way, lest bytes differ.
EVERYTHING = ["net-best", "--epochs", "10", "--batch-size", "31", "--flip", "random", "--cutout", "4"]
EVERYTHING += ["--label-smoothing", "0.1", "--report-every", "1", "--precision", "float32"]
CUT = [*EVERYTHING, "--epochs", "200"]  # enough for a cable to be cut in the middle
# 4 + 3; in so few updates of sgd rounding has not yet grown, while muon's make it grow at once.
UNEQUAL = [*EVERYTHING, "--epochs", "3", "--batch-size", "7", "--optimizer", "sgd"]
MUON = [*EVERYTHING, "--epochs", "1"]
TUTORIAL = ["tutorial", "--seed", "3"]  # 65 images in batches of 4: the last is of one, and filled up
# Unsure: every bit shows in its scores.
FAST = ["fast", "--optimizer", "sgd", "--epochs", "1", "--batch-size", "16", "--learning-rate", "0.001"]
FAST += ["--precision", "float32"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    for shape, count in (("circle", 41), ("square", 40)):
        (root / shape).mkdir(parents=True)
        for number in range(count):
            draw_shape(shape, number).save(root / shape / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def two(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder with what two processes wrote, in `0` and `1`, and their stdout and stderr."""
    folder = tmp_path_factory.mktemp("two")
    runs = [
        [*TUTORIAL, "--output", "tutorial.pth"],
        [*UNEQUAL, "--output", "unequal.pth"],
        [*MUON, "--output", "muon.pth"],
        [*EVERYTHING, "--output", "everything.pth"],
        [*FAST, "--output", "fast.pth"],
        [*EVERYTHING, "--output", "stopped.pth"],
        [*EVERYTHING, "--output", "stopped.pth", "--resume"],
        [*EVERYTHING, "--output", "killed.pth"],
    ]
    command = [*TORCHRUN, "--nproc-per-node", "2", "--max-restarts", "1", "--no-python", *driver(folder, shapes, runs)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def driver(folder: Path, shapes: Path, runs: list[list[str]]) -> list[str]:
    with_data = [[*run, "--no-report", "--data", str(shapes)] for run in runs]
    return [sys.executable, "-u", "-c", RUNS, str(folder), json.dumps(with_data)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def alone(shapes: Path, folder: Path, arguments: list[str]) -> Path:
    output = folder / "alone.pth"
    assert main([*arguments, "--no-report", "--data", str(shapes), "--output", str(output)]) == 0
    return output


@pytest.mark.parametrize(
    ("name", "arguments", "rounding"),
    [("tutorial", TUTORIAL, 1e-6), ("unequal", UNEQUAL, 1e-6), ("muon", MUON, 1e-4), ("fast", FAST, 1e-5)],
)
def test_two_processes_make_the_updates_of_one(
    name: str, arguments: list[str], rounding: float, two: tuple[Path, str, str], shapes: Path, tmp_path: Path
) -> None:
    theirs = two[0] / "0" / f"{name}.pth"
    ours = alone(shapes, tmp_path, arguments)
    states = (torch.load(path, weights_only=True) for path in (ours, theirs))
    torch.testing.assert_close(*states, rtol=1e-5, atol=rounding)
    one, both = load(ours).card, load(theirs).card
    assert one.scores is not None
    assert both.scores is not None
    assert both.training is not None
    assert one.scores.confusion == both.scores.confusion
    assert both.training.command.startswith(f"torchrun --nproc-per-node 2 -m training {arguments[0]} ")
    assert both.training.hardware.startswith("2 processes, 2 on each host: ")


def test_two_processes_tell_the_losses_of_one(
    two: tuple[Path, str, str], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone(shapes, tmp_path, TUTORIAL)
    said = (capsys.readouterr().out, two[1])  # of the two, the first run is this one
    ours, theirs = ([float(loss) for loss in re.findall(r"\] loss: ([\d.]+)", each)] for each in said)
    assert len(ours) == 2
    assert theirs[: len(ours)] == pytest.approx(ours, abs=0.0015)


def test_scores_are_those_of_the_checkpoint_normalisations_included(
    two: tuple[Path, str, str], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluation._BATCH", 3)
    classifier = load(two[0] / "0" / "fast.pth")
    data = load_folder(shapes, size=32)
    scores = classifier.card.scores
    assert scores is not None
    assert scores.n == sum(map(sum, scores.confusion)) == len(data.test)
    here = evaluate(classifier, data.pixels, data.labels, data.test, scores.data)
    assert (here.confusion, here.confidence) == (scores.confusion, scores.confidence)
    # Threads are chosen by trying, and another number of them adds up in another order.
    assert here.calibration_error == pytest.approx(scores.calibration_error, abs=1e-4)


def test_a_signal_to_one_stops_both_and_they_go_on_to_the_same_bytes(two: tuple[Path, str, str]) -> None:
    folder, _, said = two
    for rank in "01":
        assert (folder / rank / "statuses").read_text().split()[:7] == ["0", "0", "0", "0", "0", "143", "0"]
    assert said.count("cifar-train 0: terminated; the same command with --resume goes on") == 1
    assert (folder / "0" / "stopped.pth").read_bytes() == (folder / "0" / "everything.pth").read_bytes()


def test_only_the_first_process_writes(two: tuple[Path, str, str]) -> None:
    assert [path.name for path in (two[0] / "1").iterdir()] == ["statuses"]


def test_a_process_that_is_killed_is_replaced_and_the_run_goes_on_to_the_same_bytes(
    two: tuple[Path, str, str],
) -> None:
    folder, printed, said = two
    assert (folder / "0" / "killed.pth").read_bytes() == (folder / "0" / "everything.pth").read_bytes()
    assert said.count("cifar-train 0: another process of this run was lost or does not answer (") == 1
    assert said.count("cifar-train ") == 2, "that, and one of the run that was stopped"
    assert printed.count("[1,     1] loss: ") == 5, "each run began once: unequal, muon, everything, stopped, killed"


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, joined by a cable: `eth0` in each."""
    names = (f"cifar-{os.getpid()}-a", f"cifar-{os.getpid()}-b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=True)


def test_two_hosts_train_as_one_and_each_ends_when_their_cable_is_cut(
    hosts: tuple[str, str],
    two: tuple[Path, str, str],
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(epoch: Epoch) -> NoReturn:
        raise KeyboardInterrupt

    runs = [[*EVERYTHING, "--output", "everything.pth"], [*CUT, "--output", "cut.pth"]]
    with ExitStack() as stack:
        agents = []
        for number, host in enumerate(hosts):
            meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29400"]
            meeting += ["--rdzv-conf", f"is_host={1 - number}", "--local-addr", f"10.77.0.{number + 1}"]
            command = [*TORCHRUN, *meeting, "--no-python", *driver(tmp_path, shapes, runs)]
            said = stack.enter_context((tmp_path / f"said-{number}").open("w"))
            inside = ["ip", "netns", "exec", host, *command]
            agent = subprocess.Popen(inside, env=environment(GLOO_SOCKET_IFNAME="eth0"), stdout=said, stderr=said)
            agents.append(stack.enter_context(agent))
            stack.callback(agent.kill)  # torchrun itself waits for the rendezvous that it lost, deaf to SIGTERM
        wait_until((tmp_path / "0" / "cut.resume").exists)
        ip("-n", hosts[0], "link", "set", "eth0", "down")
        lost = "another process of this run was lost or does not answer (Timed out waiting 10000ms"
        wait_until(
            lambda: all(f"cifar-train {rank}: {lost}" in (tmp_path / f"said-{rank}").read_text() for rank in (0, 1))
        )
    theirs = (tmp_path / "0" / "everything.pth").read_bytes()
    assert theirs == (two[0] / "0" / "everything.pth").read_bytes()
    monkeypatch.setattr("training.run.print_epoch", stop)
    again = ["--data", str(shapes), "--output", str(tmp_path / "0" / "cut.pth"), "--resume", "--no-report"]
    assert main([*CUT, *again]) == 130
    printed = capsys.readouterr().out
    assert "\n[" in printed, "one process went on"
    assert "\n[1, " not in printed, "with what two had saved"
