"""The README's commands and code blocks are run, in its order, as a reader would: one folder, one service."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.card import TUTORIAL_NET
from tests.integration.running import COMMANDS, free_port, wait_until
from tests.pictures import draw_shape

ROOT = Path(__file__).parents[1]
VENV = os.path.relpath(sys.prefix, ROOT)  # make takes no target with a space in it, which the path above may have
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(bash|python|json)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


class Reader:
    """Types what the README says, with its port 8000 replaced by a free one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())
        self.services: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARGS")
            },  # make test's own
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "VENV": VENV,
            "CIFAR_PORT": self.port,
            "CIFAR_URL": f"http://127.0.0.1:{self.port}",
        }

    def run(self, language: str, text: str) -> str:
        words = ["bash", "-ec", text] if language == "bash" else [sys.executable, "-c", text]
        words[-1] = words[-1].replace(":8000", f":{self.port}")
        result = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def serve(self, text: str, cwd: Path, **variables: str) -> None:
        self.stop()
        environment = {**self.environment, **variables}
        self.services.append(subprocess.Popen(["bash", "-ec", f"exec {text}"], cwd=cwd, env=environment))
        wait_until(self._ready, timeout_s=60)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz").is_success
        except httpx.TransportError:
            assert self.services[-1].poll() is None, "the service ended"
            return False

    def stop(self) -> None:
        for service in self.services:
            service.terminate()
            service.wait(timeout=40)
        self.services.clear()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """In a folder with what the README asks about: docs/ship.png, a cat and a dog, a folder of photos."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    draw_shape("circle", 1).save(tmp_path / "cat.jpg")
    draw_shape("square", 1).save(tmp_path / "dog.png")
    for shape in ("circle", "square"):
        (tmp_path / "photos" / shape).mkdir(parents=True)
        for number in range(40):
            draw_shape(shape, number).save(tmp_path / "photos" / shape / f"{number}.png")
    reader = Reader(tmp_path)
    yield reader
    reader.stop()


def test_every_block_does_what_the_readme_says(reader: Reader) -> None:
    if subprocess.run(["make", "--question", "install", f"VENV={VENV}"], cwd=ROOT, check=False).returncode:
        pytest.skip("make serve would install first: run the tests by make test")
    output = ""
    for language, text in BLOCKS:
        if text == "make serve\n":  # in the checkout, where a checkpoint of its developer's may lie
            checkpoint = reader.folder / "shipped" / "cifar_net.pth"  # the name that answers give the default
            checkpoint.parent.mkdir()
            for suffix in (".pth", ".json"):
                shutil.copy(TUTORIAL_NET.with_suffix(suffix), checkpoint.with_suffix(suffix))
            reader.serve(text, ROOT, CIFAR_CHECKPOINT=str(checkpoint))
        elif text == "cifar-serve\n":
            reader.serve(text, reader.folder)
        elif language == "json":
            assert_same_answer(json.loads(output), json.loads(text))
        elif text != "make test\n":
            output = reader.run(language, text)


def assert_same_answer(answer: dict[str, object], promised: dict[str, object]) -> None:
    """To three digits: another processor adds up in another order."""
    digits = re.compile(r"(0\.\d{3})\d*")
    assert digits.sub(r"\1", json.dumps(answer)) == digits.sub(r"\1", json.dumps(promised))


def test_the_readme_names_only_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", README):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    for verb in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE), verb
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    assert shutil.which("curl"), "the README's commands call curl"
