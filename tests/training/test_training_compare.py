"""`cifar-train --compare` says what differs between runs, and no more of it than the numbers bear."""

from pathlib import Path

import pytest

from models.card import ModelCard, Scores, Training
from training.__main__ import main
from training.evaluation import wilson_interval


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_card(file: str, accuracy: float, fingerprint: str = "f10d4c9e536a564f", **recipe: str | float) -> None:
    n = 10_000
    training = Training(
        validation_accuracy=accuracy + 0.01,
        command="cifar-train",
        recipe={"name": "tutorial", "epochs": 2, "batch_size": 4, **recipe},
        data="cifar10-jpeg",
        data_fingerprint=fingerprint,
        images=50_000,
        seed=0,
        seconds=29.5,
        hardware="NVIDIA GeForce RTX 4090",
        versions={},
    )
    scores = Scores(
        data="test images",
        n=n,
        accuracy=accuracy,
        interval=wilson_interval(round(accuracy * n), n),
        per_class={"airplane": accuracy, "[bold]cat": 0.5},
        calibration_error=accuracy / 10,
    )
    Path(f"{file}.json").write_text(ModelCard(training=training, scores=scores).model_dump_json())


def compared(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, list[str]]:
    """Runs --compare; returns the words of each line of its output, by the first of them."""
    assert main(["--compare", *names]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    words = [line.split() for line in said.splitlines()]
    return {line[0]: line[1:] for line in words}


def test_comparing_shows_which_fields_differ_and_which_run_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    write_card("first", 0.5316)
    write_card("second", 0.7312, name="net-best", epochs=70)
    shown = compared(capsys, "first.pth", "second.run")
    assert shown["recipe"] == ["tutorial", "net-best"]
    assert shown["epochs"] == ["2", "70"]
    assert "batch_size" not in shown
    assert shown["images/s"] == ["3,390", "118,644"]
    assert shown["validation"] == ["accuracy", "54.2", "%", "74.1", "%"]
    assert shown["accuracy"] == ["53.2", "%", "73.1", "%"]
    assert shown["balanced"] == ["accuracy", "51.6", "%", "61.6", "%"]
    assert shown["calibration"] == ["error", "5.3", "%", "7.3", "%"]
    assert shown["Choose"][:4] == ["by", "the", "validation", "accuracy:"]
    assert shown["[bold]cat"] == ["50.0", "%", "50.0", "%"]
    assert " ".join(shown["second.run"]).startswith("scores +20.0 points against first.pth: more than the choice of")


def test_runs_are_found_by_their_page_and_by_a_shipped_name_and_a_field_that_a_card_lacks_is_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_card("first", 0.5, momentum=0.9)
    write_card("second", 0.5)
    assert compared(capsys, "first.run/report.html", "second.pth")["momentum"] == ["0.9", "–"]
    assert compared(capsys, "strong", "tutorial")["recipe"] == ["strong", "tutorial"]


def test_of_a_small_difference_nothing_is_said_to_follow(capsys: pytest.CaptureFixture[str]) -> None:
    write_card("first", 0.5316)
    write_card("second", 0.5250)
    shown = compared(capsys, "first.json", "second.pth")
    said = "scores -0.7 points against first.json: 10,000 test images are too few"
    assert " ".join(shown["second.pth"]) == said
    assert " ".join(shown["to"]).startswith("tell (p = 0.350); "), "as R's prop.test, uncorrected"


def test_accuracies_on_other_data_are_not_set_against_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    write_card("first", 0.5)
    write_card("second", 0.9, fingerprint="another")
    shown = compared(capsys, "first.pth", "second.pth")
    assert shown["accuracy"] == ["50.0", "%", "90.0", "%"]
    assert "second.pth" not in shown
    assert shown["The"][:4] == ["runs", "used", "different", "data,"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ([], "--compare run.pth: one run alone cannot be compared; name two or more"),
        (["."], "--compare .: "),
        (["none.pth"], "--compare none.pth: none.json cannot be read (No such file or directory)"),
        (["text.pth"], "--compare text.pth: text.json is no model card (Invalid JSON"),
        (["bare.pth"], "--compare bare.pth: bare.json does not say how it was trained and what it scored"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    capsys: pytest.CaptureFixture[str], other: list[str], reason: str
) -> None:
    write_card("run", 0.5)
    Path("text.json").write_text("text")
    Path("bare.json").write_text("{}")
    assert main(["--compare", "run.pth", *other]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"cifar-train: {reason}")
    assert (said.out, said.err.count("\n")) == ("", 1)
