import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clients.predict import main
from tests.clients.fake_service import FakeService, Silence, png, problem


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: FakeService) -> FakeService:
    """The working directory has a circle, a square and a text; the service is CIFAR_URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_URL", service.url)
    Path("circle.png").write_bytes(png(0))
    Path("square.png").write_bytes(png(1))
    Path("text.png").write_bytes(b"text")
    return service


def test_each_image_is_a_line_of_cells(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["circle.png", "square.png", "--top-k", "2"]) == 0
    assert capsys.readouterr() == (
        "circle.png\tcircle 0.9000\tsquare 0.0004\nsquare.png\tsquare 0.9000\tcircle 0.0004\n",
        "",
    )


def test_bad_files_among_good_ones_are_told_in_place(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing.png", "text.png", ".", "square.png", "--top-k=1"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "missing.png\terror\tmissing.png cannot be read: no such file or directory",
        "text.png\terror\tnot an image",
        ".\terror\t. cannot be read: is a directory",
        "square.png\tsquare 0.9000",
    ]
    assert err == "cifar-predict: no prediction for 3 of 4 images\n"


def test_json_is_one_object_a_line(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["square.png", "text.png", "--json", "--top-k=1"]) == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {
            "file": "square.png",
            "label": "square",
            "class_id": 1,
            "confidence": 0.9,
            "top": [{"label": "square", "class_id": 1, "probability": 0.9}],
            "model": "cifar_net",
            "version": "0123456789ab",
        },
        {"file": "text.png", "error": {"code": "not_an_image", "detail": "not an image"}},
    ]


def test_a_terminal_gets_a_table(pictures: FakeService) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "clients.predict", "circle.png", "text.png"]
    code = subprocess.run(
        command, stdout=theirs, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"}
    ).returncode
    screen = re.sub(r"\x1b\[[0-9;]*m", "", os.read(ours, 10_000).decode())
    os.close(ours)
    os.close(theirs)
    assert code == 1
    assert [line.split() for line in screen.splitlines()] == [
        ["image", "class"],
        ["circle.png", "circle", "0.9000", "square", "0.0004", "class2", "0.0004"],
        ["text.png", "error", "not", "an", "image"],
    ]


def test_the_key_comes_from_the_environment(pictures: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_API_KEY", "secret")
    assert main(["circle.png"]) == 0
    assert pictures.asked[0].headers["x-api-key"] == "secret"


def test_a_wrong_key_says_where_the_right_one_goes(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.script.append(problem(401, "unauthorized", "the API key is wrong"))
    assert main(["circle.png"]) == 1
    assert capsys.readouterr().err == "cifar-predict: the API key is wrong; give the service's key in CIFAR_API_KEY\n"


def test_no_service_says_how_to_start_one(
    pictures: FakeService, capsys: pytest.CaptureFixture[str], pauses: list[float]
) -> None:
    assert main(["circle.png", "--url", "http://127.0.0.1:9"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"cifar-predict: no answer from http://127\.0\.0\.1:9: .*; "
        r"start the service with cifar-serve, or say where it is with --url\n",
        err,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: IMAGE"),
        (["a.png", "--top-k", "0"], "argument --top-k: a whole number of 1 or more is needed, not '0'"),
        (["a.png", "--url", "localhost"], "argument --url: the service's address looks like"),
    ],
)
def test_bad_use_ends_with_2(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_causes_no_traceback(pictures: FakeService) -> None:
    command = f"{shlex.quote(sys.executable)} -m clients.predict {'circle.png ' * 3000} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("circle.png\tcircle")
    assert done.stderr == ""


def test_ctrl_c_ends_it_at_once_though_the_service_is_silent(pictures: FakeService) -> None:
    pictures.script.append(Silence())
    command = [sys.executable, "-m", "clients.predict", "circle.png"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        pictures.wait_until_asked()
        process.send_signal(2)
        _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err == "cifar-predict: interrupted\n"
