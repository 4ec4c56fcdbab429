"""A run leaves something to look at, whatever its classes are called, and never fails for it."""

import json
import re
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.architectures import build
from models.card import ModelCard, Training
from models.checkpoint import load
from training.__main__ import main
from training.data import Data
from training.evaluation import score
from training.history import Epoch
from training.loop import Examples
from training.recipe import NET_BEST, Recipe
from training.report import Report

HOSTILE = (r"$\x$ <b>&amp; {{ 7 }}", "猫\n")
EPOCH = Epoch(1, 2.3, 0.05, 0.5, 1.5)
PICTURES = ("confusion.png", "curves.png", "mistakes.png", "predictions.png")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Page(HTMLParser):
    """Which elements a page has, where it fetches from, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def events(folder: str) -> EventAccumulator:
    return EventAccumulator(folder).Reload()


def steps(folder: str, tag: str) -> list[int]:
    return [scalar.step for scalar in events(folder).Scalars(tag)]


def test_a_run_leaves_a_page_pictures_and_tensorboards_events(
    draw_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw_folder(per_class=40)
    for shape, name in zip(("circle", "square"), HOSTILE, strict=True):
        (root / shape).rename(root / name)
    command = ["net-best", "--data", "shapes", "--epochs", "3", "--batch-size", "8", "--validation", "0.35"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith("Report: cifar_net.run/report.html\n")
    for name in PICTURES:
        with Image.open(Path("cifar_net.run", name)) as picture:
            picture.load()

    card = load(Path("cifar_net.pth")).card
    assert card.training
    assert card.scores
    page = Page(Path("cifar_net.run/report.html"))
    assert page.elements.count("img") == len(page.sources) == len(PICTURES)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "b"} & set(page.elements)
    for part in (*card.classes, card.training.command, card.training.data_fingerprint, card.version):
        assert part in page.text
    for number in (card.scores.accuracy, *card.scores.interval, *card.scores.per_class.values()):
        assert f"{100 * number:.1f} %" in page.text
    assert f"at temperature {card.temperature:.2f}" in page.text
    assert card.uncertain_below
    assert f"{100 * card.uncertain_below:.1f} % confidence" in page.text

    history = [Epoch(**epoch) for epoch in json.loads(Path("cifar_net.run/history.json").read_text())]
    assert [epoch.number for epoch in history] == [1, 2, 3]
    shown = events("cifar_net.run")
    for tag, values in {
        "loss": [epoch.loss for epoch in history],
        "learning_rate": [epoch.learning_rate for epoch in history],
        "validation_accuracy": [epoch.accuracy for epoch in history],
    }.items():
        assert [scalar.step for scalar in shown.Scalars(tag)] == [1, 2, 3]
        assert [scalar.value for scalar in shown.Scalars(tag)] == pytest.approx(values)
    assert len(shown.Images("training_pictures")) == 1
    assert {node.op for node in shown.Graph().node} >= {"Conv2d", "MaxPool2d", "Linear", "relu"}


def begin(folder: str, resume: bool, recipe: Recipe = NET_BEST) -> Report:
    report = Report(Path(folder))
    pixels = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8)
    examples = Examples(pixels, torch.zeros(9, dtype=torch.int64), torch.arange(9))
    report.begin(build("net", num_classes=2), examples, recipe, 0, resume)
    return report


def test_a_resumed_run_goes_on_in_its_events_and_a_new_one_begins_its_own() -> None:
    begin("net.run", resume=False).add(EPOCH)
    assert steps("net.run", "loss") == [1], "it can be followed: nothing is closed"
    begin("net.run", resume=True).add(EPOCH._replace(number=2))
    assert steps("net.run", "loss") == [1, 2]
    assert len(events("net.run").Images("training_pictures")) == 1
    begin("net.run", resume=False, recipe=replace(NET_BEST, cutout=4)).add(EPOCH._replace(number=7))
    assert len(events("net.run").Images("training_pictures")) == 1
    assert steps("net.run", "loss") == [7]


def finish(
    report: Report, classes: tuple[str, ...], per_class: int, size: int, epochs: list[Epoch], wrong: int, start: int = 0
) -> bool:
    """Finishes the report of a network that answers the second class for the first `wrong` images, else is right.

    The test images lie from `start` on, after others.
    """
    labels = torch.arange(len(classes)).repeat_interleave(per_class)
    answers = labels.clone()
    answers[:wrong] = 1
    logits = 5 * torch.nn.functional.one_hot(answers, len(classes)).float()
    training = Training(
        command="cifar-train",
        recipe=asdict(NET_BEST),
        data="drawn",
        data_fingerprint="f1",
        images=100,
        seed=0,
        seconds=0,
        hardware="this",
        versions={"torch": "2"},
    )
    card = ModelCard(classes=classes, training=training)
    card = card.model_copy(update={"scores": score(logits, labels, card, "drawn")})
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (len(labels), size, size, 3), dtype=torch.uint8, generator=draws)
    test = torch.arange(start, start + len(labels))
    pixels, labels = torch.cat([pixels[:start], pixels]), torch.cat([labels[:start], labels])
    data = Data("drawn", classes, pixels, labels, [], test[:0], test, "f1", (), split_here=False)
    return report.finish(card, epochs, data, logits)


def test_the_pictures_are_of_the_test_images_wherever_they_lie() -> None:
    for name, start in (("first.run", 0), ("last.run", 3)):
        assert finish(Report(Path(name)), HOSTILE, 4, 8, [EPOCH], wrong=2, start=start)
    for picture in PICTURES:
        assert Path("first.run", picture).read_bytes() == Path("last.run", picture).read_bytes()


def test_a_run_without_mistakes_and_validation_images_has_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Path("two.run"))
    assert finish(report, HOSTILE, 1, 8, [EPOCH._replace(accuracy=None)], wrong=0)
    text = Page(report.page).text
    assert "There are none." in text
    assert "no validation images" in text
    assert capsys.readouterr().err == ""


def test_more_classes_than_can_be_named_are_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(f"the class of number {number}" for number in range(130))
    report = Report(Path("many.run"))
    assert finish(report, names, 2, 64, [EPOCH, EPOCH._replace(number=2)], wrong=2)
    text = " ".join(Page(report.page).text.split())
    assert "Classes by their numbers" in text
    assert re.search(r"129 ?the class of number 129 100\.0 % ?of 2", text)
    assert "There are 2 in all." in text
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_a_warning_and_leaves_no_page_of_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    report = begin("net.run", resume=False)
    report.page.write_text("of another run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        report.add(EPOCH)
        assert not finish(report, HOSTILE, 1, 8, [EPOCH], wrong=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capsys.readouterr().err == "cifar-train: warning: net.run is not complete (File too large)\n"
    assert not report.page.exists()


def test_each_trouble_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Path("net.run"))
    for trouble in ("no graph", "no graph", "no picture"):
        with report._or_a_warning():
            raise ValueError(trouble)
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in told] == ["no graph)", "no picture)"]


def test_where_no_report_can_be_written_the_run_does_the_rest(
    draw_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder()
    Path("cifar_net.run").touch()
    assert main(["--data", "shapes"]) == 0
    assert load(Path("cifar_net.pth")).card.scores
    said = capsys.readouterr()
    assert said.err == "cifar-train: warning: cifar_net.run is not complete (File exists)\n"
    assert "Report:" not in said.out


def test_what_a_report_needs_is_missed_before_the_training_and_only_where_it_is_wanted(
    draw_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folder()
    for module in ("training.report", "training.figures", "training.events"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--data", "shapes"]) == 1
    missing = "cifar-train: matplotlib is not installed: pip install '.[training]' in the folder of this repository\n"
    assert capsys.readouterr() == ("", missing)
    assert main(["--data", "shapes", "--no-report"]) == 0
    assert not Path("cifar_net.run").exists()
