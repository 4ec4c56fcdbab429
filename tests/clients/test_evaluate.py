"""`cifar-evaluate` as its users meet it: what it prints, writes and draws, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
from PIL import Image

from clients import limiter
from clients.evaluate import main
from tests.clients.fake_service import FakeService, png


def test_it_reports_accuracy_classes_confusion_and_what_was_refused(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", "data"]) == 0
    out, err = capsys.readouterr()
    model, accuracy, speed, latency, *rest = out.splitlines()
    assert model == "model      cifar_net 0123456789ab"
    assert accuracy == "accuracy   75.00% (6 of 8; 95 % interval 40.93% to 92.85%)"
    assert speed.startswith("speed      ")
    assert re.fullmatch(r"latency    p50 \d+ ms, p95 \d+ ms, p99 \d+ ms for a request", latency)
    assert rest == [
        "",
        "class       n accuracy  as circ squa",
        "circle      5   60.00%        3    1",
        "square      3  100.00%        0    3",
        "",
        "refused    1, counted as wrong:",
        "  test/circle/4.png: not an image",
    ]
    assert err == ""


def test_the_json_file_holds_everything_and_each_prediction(shapes: FakeService) -> None:
    assert main(["--data", "data", "--json", "runs/scores.json"]) == 0
    found = json.loads(Path("runs/scores.json").read_text())
    assert os.listdir("runs") == ["scores.json"]
    assert found["service"] == shapes.url
    assert found["data"] == "data"
    assert (found["n"], found["correct"], found["accuracy"], found["refused"]) == (8, 6, 0.75, 1)
    assert found["interval"] == pytest.approx([0.4093, 0.9285], abs=1e-4)
    assert found["models"] == ["cifar_net 0123456789ab"]
    assert found["per_class"] == {"circle": {"n": 5, "accuracy": 0.6}, "square": {"n": 3, "accuracy": 1.0}}
    assert (found["classes"], found["confusion"]) == (["circle", "square"], [[3, 1], [0, 3]])
    assert 0 < found["latency_s"]["p50"] <= found["latency_s"]["p99"] <= found["seconds"]
    assert found["predictions"][2:6] == [
        {"file": "test/circle/2.png", "truth": "circle", "label": "square", "confidence": 0.9},
        {"file": "test/circle/3.jpeg", "truth": "circle", "label": "circle", "confidence": 0.9},
        {
            "file": "test/circle/4.png",
            "truth": "circle",
            "label": None,
            "confidence": None,
            "error": {"code": "not_an_image", "detail": "not an image"},
        },
        {"file": "test/square/0.png", "truth": "square", "label": "square", "confidence": 0.9},
    ]


@pytest.mark.parametrize(("fraction", "code"), [("0.75", 0), ("0.76", 1)])
def test_a_pipeline_can_ask_for_an_accuracy(
    shapes: FakeService, capsys: pytest.CaptureFixture[str], fraction: str, code: int
) -> None:
    assert main(["--data", "data", "--min-accuracy", fraction]) == code
    said = "cifar-evaluate: the accuracy, 0.7500, is below --min-accuracy 0.76" in capsys.readouterr().err
    assert said is bool(code)


def test_two_models_that_answer_are_both_named_with_a_warning(
    shapes: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes.versions = deque(["aaaaaaaaaaaa", "bbbbbbbbbbbb"])
    monkeypatch.setattr(limiter, "BATCH_SIZE", 2)
    assert main(["--data", "data"]) == 0
    out = capsys.readouterr().out
    assert "model      cifar_net aaaaaaaaaaaa, cifar_net bbbbbbbbbbbb\n" in out
    assert "warning: more than one model answered" in out


def test_of_many_refused_images_the_first_five_are_listed(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10, 17):
        Path(f"data/test/square/{number}.png").write_bytes(b"text")
    assert main(["--data", "data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "refused    8, counted as wrong:" in lines
    assert lines[-2:] == ["  test/square/13.png: not an image", "  and 3 more"]


def test_more_classes_than_fit_a_line_come_without_the_confusion(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes.classes = ["circle", "square", *map(str, range(20))]
    assert main(["--data", "data"]) == 0
    assert "circle      5   60.00%\n" in capsys.readouterr().out


def test_the_confusion_is_drawn(shapes: FakeService) -> None:
    assert main(["--data", "data", "--confusion", "runs/confusion.png"]) == 0
    with Image.open("runs/confusion.png") as picture:
        assert picture.format == "PNG"
        corner, right = (picture.getpixel((101 + 76 * column, 41 + 40)) for column in (0, 1))  # squares, as what
        assert (corner, right) == ((255, 255, 255), (31, 95, 168))


@pytest.mark.parametrize(("number", "side"), [(100, 800), (1000, 4000)])
def test_the_confusion_of_many_classes_is_drawn_small(shapes: FakeService, number: int, side: int) -> None:
    shapes.classes = ["circle", "square", *map(str, range(2, number))]
    assert main(["--data", "data", "--confusion", "confusion.png"]) == 0
    with Image.open("confusion.png") as picture:
        assert picture.size == (side, side)
        assert picture.getpixel((0, 0)) != picture.getpixel((0, side - 1)) == (255, 255, 255)


def test_a_picture_that_cannot_be_written_does_not_cost_the_results(shapes: FakeService) -> None:
    Path("file").touch()
    assert main(["--data", "data", "--json", "scores.json", "--confusion", "file/confusion.png"]) == 1
    assert json.loads(Path("scores.json").read_text())["n"] == 8


def test_a_terminal_gets_a_bar(shapes: FakeService) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "clients.evaluate", "--data", "data"]
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True, text=True)
    screen = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", os.read(ours, 100_000).decode())
    os.close(ours)
    os.close(theirs)
    assert "8/8 images" in screen
    assert "(6 of 8;" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere"], "there is no folder nowhere: --data takes a folder of images or the word cifar10"),
        (["--data", "empty"], "there are no images in empty/<class>/: .jpg"),
        (["--data", "data", "--files", "nowhere.txt"], "nowhere.txt: no such file or directory"),
        (["--data", "data", "--files", "empty.txt"], "the list empty.txt is empty"),
        (["--data", "data", "--files", "wrong.txt"], "wrong.txt lists 'test/cat/1.png', but there is no data/<class>/"),
        (
            ["--data", "animals"],
            "http://127.0.0.1:{port} does not know cat, which animals has; it knows circle, square",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(
    shapes: FakeService, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n")
    Path("wrong.txt").write_text("test/cat/1.png\n")
    Path("animals/test/cat").mkdir(parents=True)
    Path("animals/test/cat/1.png").write_bytes(png(0))
    assert main(arguments) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(f"cifar-evaluate: {sentence.format(port=shapes.url.rpartition(':')[2])}")
    )


@pytest.mark.parametrize("fraction", ["1.5", "-0.1", "nan", "most"])
def test_an_accuracy_outside_0_to_1_is_bad_use(fraction: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", "data", f"--min-accuracy={fraction}"])
    assert ended.value.code == 2
    assert f"a fraction from 0 to 1 is needed, not '{fraction}'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--confusion"])
def test_a_folder_where_a_file_is_to_be_written_is_bad_use(
    shapes: FakeService, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", "data", option, "data"])
    assert ended.value.code == 2
    assert f"argument {option}: a file that is not a folder is needed, not 'data'" in capsys.readouterr().err
