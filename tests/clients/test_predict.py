import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients.predict import main
from tests.clients.fake_service import FakeService, png


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


def test_links_to_folders_are_followed_until_they_lead_back(
    pictures: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, other in (("a", "b"), ("b", "a")):
        Path("all", folder).mkdir(parents=True)
        Path("all", folder, f"{folder}.png").write_bytes(png(1))
        Path("all", folder, f"to_{other}").symlink_to(f"../{other}")
    Path("all/a/up").symlink_to("../..")
    Path("all/itself").symlink_to("itself")
    assert main(["all"]) == 0
    assert [name for name, _ in told(capsys)] == [f"all/{name}.png" for name in ("a/a", "a/to_b/b", "b/b", "b/to_a/a")]


def test_what_is_hidden_in_a_folder_is_passed_over_and_a_pipe_not_waited_for(
    pictures: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".all/.trash").mkdir(parents=True)
    for name in (".all/a.png", ".all/._a.png", ".all/.trash/b.png"):
        Path(name).write_bytes(png(1))
    os.mkfifo(".all/pipe.png")
    Path(".all/gone.png").symlink_to("nowhere.png")
    for images in (".all", ".all/*.png"):
        assert main([images]) == 1
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
