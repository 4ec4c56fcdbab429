import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients import evaluate
from clients.predict import main
from tests.clients.fake_service import FakeService, Silence, png, problem

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: FakeService) -> FakeService:
    """The working directory has a circle, a square and a text; the service is CIFAR_URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_URL", service.url)
    Path("circle.png").write_bytes(png(0))
    Path("square.png").write_bytes(png(1))
    Path("text.png").write_bytes(b"text")
    return service


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def told(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """Each image, and its class or why it has none."""
    return [(line["file"], line["label"] if "label" in line else line["error"]["code"]) for line in printed(capsys)]


def test_where_stdout_is_no_terminal_each_image_is_a_line_of_json(
    pictures: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["square.png", "text.png", "--top-k=1"]) == 1
    assert printed(capsys) == [
        {
            "file": "square.png",
            "label": "square",
            "class_id": 1,
            "confidence": 0.9,
            "model": "cifar_net",
            "version": "0123456789ab",
            "uncertain": None,
            "top": [{"label": "square", "class_id": 1, "probability": 0.9}],
        },
        {"file": "text.png", "error": {"code": "not_an_image", "detail": "not an image"}},
    ]


def test_bad_files_among_good_ones_are_told_in_place(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing.png", "text.png", "square.png"]) == 1
    out, err = capsys.readouterr()
    assert ["error" in json.loads(line) for line in out.splitlines()] == [True, True, False]
    assert "missing.png cannot be read: no such file or directory" in out
    assert err == "cifar-predict: no prediction for 2 of 3 images\n"


def test_folders_are_searched_and_globs_expanded(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    Path("all/deep").mkdir(parents=True)
    for name in ("all/b.PNG", "all/a.jpg", "all/deep/c.webp", "all/notes.txt", "all/[x].png"):
        Path(name).write_bytes(png(1))
    assert main(["all"]) == 0
    assert told(capsys) == [(f"all/{name}", "square") for name in ("[x].png", "a.jpg", "b.PNG", "deep/c.webp")]
    assert main(["all/**/*.[jw]*", "all/[x].png", "*.gif"]) == 1
    assert told(capsys) == [
        ("all/a.jpg", "square"),
        ("all/deep/c.webp", "square"),
        ("all/[x].png", "square"),
        ("*.gif", "unreadable"),
    ]


def test_folders_that_a_glob_finds_are_searched_once(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    Path("all/deep").mkdir(parents=True)
    Path("all/deep/c.png").write_bytes(png(1))
    for glob in ("al*", "all/*", "all/**"):
        assert main([glob]) == 0
        assert told(capsys) == [("all/deep/c.png", "square")]


def test_what_is_hidden_in_a_folder_is_passed_over_and_a_pipe_not_waited_for(
    pictures: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".all/.trash").mkdir(parents=True)
    for name in (".all/a.png", ".all/._a.png", ".all/.trash/b.png"):
        Path(name).write_bytes(png(1))
    os.mkfifo(".all/pipe.png")
    Path(".all/gone.png").symlink_to("nowhere.png")
    assert main([".all"]) == 1
    assert told(capsys) == [(".all/a.png", "square"), (".all/gone.png", "unreadable")]


def test_a_folder_that_cannot_be_read_is_told(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """Root reads every folder, but none whose path is longer than 4096 bytes."""
    folder = os.open(".", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    assert main(["."]) == 1
    circle, square, text, unreadable = printed(capsys)
    assert (circle["label"], square["label"], text["error"]["code"]) == ("circle", "square", "not_an_image")
    assert unreadable["error"]["detail"].endswith("d cannot be read: file name too long")


def test_a_folder_without_images_is_a_failure(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["empty"]) == 1
    assert capsys.readouterr().err.startswith("cifar-predict: there are no images in empty: .jpg, ")


def test_a_dash_is_the_image_on_stdin(pictures: FakeService) -> None:
    command = [sys.executable, "-m", "clients.predict", "circle.png", "-"]
    done = subprocess.run(command, input=png(1), capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["file"], line["label"]) for line in lines] == [("circle.png", "circle"), ("-", "square")]


def on_a_terminal(*arguments: str) -> tuple[int, list[str]]:
    """The exit code, and the lines of a screen of 80 columns."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "clients.predict", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    code = subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment).returncode
    screen = re.sub(r"\x1b\[[0-9;]*m", "", os.read(ours, 10_000).decode())
    os.close(ours)
    os.close(theirs)
    return code, [line.rstrip() for line in screen.splitlines()]


def test_a_terminal_gets_a_table_with_bars(pictures: FakeService) -> None:
    code, (first, second, error) = on_a_terminal("circle.png", "text.png", "--top-k=2")
    assert code == 1
    assert re.fullmatch(r"circle\.png +circle +90\.0% +█{21}▌?", first)
    assert re.fullmatch(r" +square +0\.0%", second)
    assert error.split(maxsplit=1) == ["text.png", "not an image"]
    assert max(map(len, (first, second, error))) <= 80


def test_a_terminal_is_shown_what_it_would_obey(pictures: FakeService) -> None:
    title = "\x1b]0;mine\x07.png"  # would name the window
    Path(title).write_bytes(png(0))
    code, (first, *_) = on_a_terminal(title)
    assert (code, first.split()[:2]) == (0, [r"\x1b]0;mine\x07.png", "circle"])


def test_on_a_terminal_json_is_for_the_asking(pictures: FakeService) -> None:
    code, lines = on_a_terminal("circle.png", "--json", "--top-k=1")
    assert (code, json.loads("".join(lines))["label"]) == (0, "circle")


def test_help_fits_a_screen_in_groups_with_defaults_and_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("CIFAR_URL", raising=False)
    for command in (main, evaluate.main):
        with pytest.raises(SystemExit) as ended:
            command(["--help"])
        lines = capsys.readouterr().out.splitlines()
        assert ended.value.code == 0
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 80
        text = " ".join(" ".join(lines).split())
        assert "service:" in text
        assert "CIFAR_URL (default: http://127.0.0.1:8000)" in text
        assert "CIFAR_API_KEY" in text


@pytest.mark.parametrize(
    ("module", "line", "completion"),
    [
        ("clients.predict", "cifar-predict --to", "--top-k"),
        ("clients.evaluate", "cifar-evaluate --ag", "--against"),
        ("training", "cifar-train --prom", "--promote"),
        ("training", "cifar-train net-b", "net-best"),
    ],
)
def test_shells_complete_the_commands(module: str, line: str, completion: str, tmp_path: Path) -> None:
    """As the lines that `register-python-argcomplete` gives a shell ask for it."""
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": "out",
    }
    command = [sys.executable, "-m", module]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT), **asked}, cwd=tmp_path, check=True)
    assert (tmp_path / "out").read_text().strip() == completion


def test_the_key_comes_from_the_environment(pictures: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_API_KEY", "secret")
    assert main(["circle.png"]) == 0
    assert pictures.asked[0].headers["x-api-key"] == "secret"


@pytest.mark.parametrize(("name", "value"), [("CIFAR_API_KEY", "sec\nret"), ("ALL_PROXY", "socks5://host:1")])
def test_an_environment_that_cannot_be_used_is_one_sentence(
    pictures: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["circle.png"]) == 1
    assert re.fullmatch("cifar-predict: (the API key|a proxy of the environment) .*\n", capsys.readouterr().err)


def test_a_wrong_key_says_where_the_right_one_goes(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.script.append(problem(401, "unauthorized", "the API key is wrong"))
    assert main(["circle.png"]) == 1
    assert capsys.readouterr().err == "cifar-predict: the API key is wrong; give the service's key in CIFAR_API_KEY\n"


def test_no_service_says_how_to_start_one(
    pictures: FakeService, capsys: pytest.CaptureFixture[str], impatient: None
) -> None:
    assert main(["circle.png", "--url", "http://127.0.0.1:9"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"cifar-predict: no answer from http://127\.0\.0\.1:9: .*; "
        r"start the service with cifar-serve, or say where it is with --url\n",
        err,
    )


def test_another_service_says_how_to_name_the_right_one(
    pictures: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.script.append(problem(404, "not_found", "there is no such path"))
    assert main(["circle.png"]) == 1
    assert capsys.readouterr().err.endswith("; start the service with cifar-serve, or say where it is with --url\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: IMAGE"),
        (["a.png", "--top-k", "0"], "argument --top-k: a whole number of 1 or more is needed, not '0'"),
        (["a.png", "--url", "localhost"], "argument --url: an address such as http://127.0.0.1:8000 is needed, not '"),
        (
            ["a.png", "--url", "http://127.0.0.256:8000"],
            "argument --url: an address such as http://127.0.0.1:8000 is needed, not '",
        ),
    ],
)
def test_bad_use_ends_with_2(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"cifar-predict: {sentence}")
    assert err.count("\n") == 1


def test_a_reader_that_has_seen_enough_causes_no_traceback(pictures: FakeService) -> None:
    command = f"{shlex.quote(sys.executable)} -m clients.predict {'circle.png ' * 3000} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["label"] == "circle"
    assert done.stderr == ""


@pytest.mark.parametrize("argument", ["circle.png", "--help"])
def test_a_full_disk_is_one_sentence_and_a_closed_pipe_none(
    pictures: FakeService, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with which nothing is left to be written at the end
    command = [sys.executable, "-m", "clients.predict", argument]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "cifar-predict: no space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_ends_it_at_once_though_the_service_is_silent(pictures: FakeService) -> None:
    pictures.script.append(Silence())
    command = [sys.executable, "-m", "clients.predict", "circle.png"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        pictures.wait_until_asked()
        process.send_signal(2)
        _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err == "cifar-predict: interrupted\n"
