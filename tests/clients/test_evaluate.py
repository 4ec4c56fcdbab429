import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from scipy.stats import binomtest

from clients import datasets, limiter
from clients.evaluate import main
from clients.scores import mcnemar, percentile, wilson_interval
from tests.clients.fake_service import FakeService, png


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: FakeService) -> FakeService:
    """data/test has 5 circles, of which one looks square and one is damaged, and 4 squares, one of them hidden."""
    service.classes = ["circle", "square"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_URL", service.url)
    for name, content in {
        "test/circle/0.png": png(0),
        "test/circle/1.PNG": png(0),
        "test/circle/2.png": png(1),
        "test/circle/3.jpeg": png(0),
        "test/circle/4.png": b"text",
        "test/square/0.png": png(1),
        "test/square/1.png": png(1),
        "test/square/2.webp": png(1),
        "test/square/.hidden.png": png(1),
        "test/square/notes.txt": b"",
        "train/circle/0.png": png(1),
    }.items():
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return service


def test_it_reports_accuracy_classes_confusion_and_what_was_refused(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", "data"]) == 0
    out, err = capsys.readouterr()
    model, accuracy, speed, latency, *rest = out.splitlines()
    assert model == "model      cifar_net 0123456789ab"
    assert accuracy == "accuracy   75.00% (6 of 8; 95 % interval 40.93% to 92.85%)"
    assert speed.startswith("speed      ")
    assert re.fullmatch(r"latency    p50 \d+ ms, p95 \d+ ms, p99 \d+ ms for a request of many images", latency)
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


def test_a_folder_without_a_test_split_is_scored_with_a_warning(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", "data/test"]) == 0
    out, err = capsys.readouterr()
    assert "(6 of 8;" in out
    assert err.startswith("cifar-evaluate: warning: data/test has no test folder, so images that the model was trained")


def test_a_list_of_files_is_scored_alone_and_without_a_warning(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("held-out.txt").write_text("square/0.png\ncircle/2.png\n\n")
    assert main(["--data", "data/test", "--files", "held-out.txt"]) == 0
    out, err = capsys.readouterr()
    assert "(1 of 2;" in out
    assert "warning" not in err


def test_a_file_whose_name_is_not_utf8_is_scored_and_listed(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(os.fsdecode(b"data/test/square/\xff.png")).write_bytes(b"text")
    Path("held-out.txt").write_bytes(b"test/square/\xff.png\ntest/square/0.png\n")
    assert main(["--data", "data", "--files", "held-out.txt"]) == 0
    out = capsys.readouterr().out
    assert "(1 of 2;" in out
    assert r"test/square/\udcff.png: not an image" in out


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
    assert f"argument {option}: a file is needed, and data is a folder" in capsys.readouterr().err


@pytest.fixture
def cifar10(shapes: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """The service also has CIFAR-10's archive for download, of three test images."""
    planes = ((label, bytes([label]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1024) for label in (0, 1, 1))
    records = b"".join(bytes([label]) + pixels for label, pixels in planes)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in (("test_batch.bin", records), ("batches.meta.txt", b"circle\nsquare\n\n")):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    shapes.files["/cifar.tar.gz"] = buffer.getvalue()
    monkeypatch.setattr(datasets, "CIFAR10_URL", f"{shapes.url}/cifar.tar.gz")
    monkeypatch.setattr(datasets, "CIFAR10_MD5", hashlib.md5(buffer.getvalue()).hexdigest())
    return shapes


def test_cifar10_is_downloaded_once_and_sent_as_it_is(cifar10: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "cifar10"]) == 0
    assert "(3 of 3;" in capsys.readouterr().out
    with Image.open(io.BytesIO(cifar10.asked[-1].images[1])) as picture:
        assert (picture.size, picture.getpixel((0, 0)), picture.getpixel((31, 31))) == ((32, 32), (1, 2, 3), (1, 2, 3))
    cifar10.files.clear()
    assert main(["--data", "cifar10"]) == 0


def test_a_damaged_download_is_not_kept(cifar10: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    cifar10.files["/cifar.tar.gz"] = b"<html>"
    assert main(["--data", "cifar10"]) == 1
    assert "sent is not CIFAR-10: its MD5 is not" in capsys.readouterr().err
    assert not list(Path("data").glob("*cifar*"))


def test_a_failing_download_says_what_to_do(cifar10: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    cifar10.files.clear()
    assert main(["--data", "cifar10"]) == 1
    err = capsys.readouterr().err
    assert "404" in err
    assert err.count("\n") == 1
    assert err.endswith("put cifar-10-binary.tar.gz into data/ yourself, or give --data a folder of images\n")


@pytest.fixture
def rival(shapes: FakeService) -> Iterator[FakeService]:
    """Another service, which takes every picture for a square."""
    other = FakeService()
    other.classes = ["circle", "square"]
    other.versions = deque(["ba9876543210"])
    other.mistakes = {0: 1}
    other.start()
    yield other
    other.stop()


def test_two_services_answer_the_same_images_and_chance_is_reckoned_with(
    shapes: FakeService, rival: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", "data", "--against", rival.url, "--json", "scores.json"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"against    37.50% of {rival.url}, cifar_net ba9876543210",
        "alone      3 images only this service has right, 0 only that",
        "verdict    it scores +37.50 points against that: no more than chance gives (McNemar's test, p = 0.250)",
    ]
    found = json.loads(Path("scores.json").read_text())
    assert found["comparison"] == {"only_this": 3, "only_against": 0, "p": 0.25, "more_than_chance": False}
    assert (found["against"]["service"], found["against"]["correct"]) == (rival.url, 3)


def test_a_difference_that_chance_does_not_explain_is_called_so(
    shapes: FakeService, rival: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10, 30):
        Path(f"data/test/circle/{number}.png").write_bytes(png(0))
    assert main(["--data", "data", "--against", rival.url]) == 0
    assert capsys.readouterr().out.endswith(": more than chance gives (McNemar's test, p < 0.001)\n")


def test_a_rival_of_other_classes_is_refused(
    shapes: FakeService, rival: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    rival.classes = ["cat", "dog"]
    assert main(["--data", "data", "--against", rival.url]) == 1
    assert f"{rival.url} does not know circle, square, which data has" in capsys.readouterr().err


def test_the_confusion_is_drawn(shapes: FakeService) -> None:
    assert main(["--data", "data", "--confusion", "runs/confusion.png"]) == 0
    with Image.open("runs/confusion.png") as picture:
        assert picture.format == "PNG"
        corner, right = (picture.getpixel((101 + 76 * column, 41 + 40)) for column in (0, 1))  # squares, as what
        assert (corner, right) == ((255, 255, 255), (31, 95, 168))


def test_the_confusion_of_many_classes_is_drawn_small(shapes: FakeService) -> None:
    shapes.classes = ["circle", "square", *map(str, range(98))]
    assert main(["--data", "data", "--confusion", "confusion.png"]) == 0
    with Image.open("confusion.png") as picture:
        assert picture.size == (800, 800)


def test_mcnemars_test_is_the_binomial_one() -> None:
    """Against scipy.stats.binomtest."""
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    for first, second in ((3, 0), (10, 3), (120, 180), (2100, 1900)):
        assert mcnemar(first, second) == mcnemar(second, first)
        assert mcnemar(first, second) == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)


def test_wilsons_interval_is_that_of_the_literature() -> None:
    """Newcombe 1998, table I: 81 of 263 and 15 of 148."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([3, 1, 2, 4], percent) for percent in (0, 50, 75, 99)] == [1, 2, 3, 4]
