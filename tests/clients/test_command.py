"""What all commands of the package have in common: help, completion, settings, and how they end."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clients import evaluate
from clients.predict import main
from tests.clients.fake_service import FakeService, Silence, problem

ROOT = Path(__file__).parents[2]


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
    """The variables are those that the lines of `register-python-argcomplete` set in a shell."""
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": "out",
        "_ARGCOMPLETE_DFS": "\t",  # between a completion and what fish and zsh show beside it
    }
    command = [sys.executable, "-m", module]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT), **asked}, cwd=tmp_path, check=True)
    assert (tmp_path / "out").read_text().split("\t")[0].strip() == completion


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
    assert re.fullmatch("cifar-predict: (the API key|a proxy in the environment) .*\n", capsys.readouterr().err)


def test_a_wrong_key_says_where_the_right_one_goes(pictures: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.script.append(problem(401, "unauthorized", "the API key is wrong"))
    assert main(["circle.png"]) == 1
    assert capsys.readouterr().err == "cifar-predict: the API key is wrong; set CIFAR_API_KEY to the service's key\n"


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
def test_bad_use_ends_with_exit_code_2(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
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
