"""Runs the code blocks of README.md and docs/*.md in order, as a reader would who has cloned this project.

bash and python blocks are run. A json, http or text block right below one is its output, and is compared. A python
block whose first line is `# some/file.py` is a file to write. Every other block is only shown.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from models.card import CIFAR10_CLASSES, STRONG
from tests.integration.running import COMMANDS, HTTP, free_port, wait_until
from tests.pictures import draw_flat, draw_shape

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_SERVE = ("make serve\n", "cifar-serve\n")
_DECIMAL = r"\d+\.\d+(e-\d+)?"
_ROUNDING = 0.02  # a probability in bfloat16, or in float32 where that is faster on the processor


class Block(NamedTuple):
    """A fenced block; `is_output` if it is the output of the block right above it."""

    language: str
    text: str
    is_output: bool

    @property
    def is_run(self) -> bool:
        return self.language in ("bash", "python")

    @property
    def file(self) -> str | None:
        """The file whose content it is, if any."""
        match = re.match(r"# ([\w/]+\.py)\n", self.text)
        return match[1] if match and self.language == "python" else None


def blocks_of(page: Path) -> Iterator[Block]:
    text, before, end = page.read_text(), "", 0
    for match in re.finditer(r"^```(\w*)\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL):
        language, right_below = match[1], not text[end : match.start()].strip()
        is_output = language in ("json", "http", "text") and right_below and before in ("bash", "python")
        yield Block(language, match[2], is_output)
        before, end = language, match.end()


class Reader:
    """Types commands in a copy of the checkout, with pictures to send and one service for all pages, on its own port.

    In commands, that port replaces 8000, and a few pictures of the same ten classes replace CIFAR-10.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = str(free_port())
        self._service: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARGS")},  # make test's
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "VENV": ".venv",
            "CIFAR_PORT": self._port,
            "CIFAR_URL": f"http://127.0.0.1:{self._port}",
            "CIFAR_WORKERS": "1",  # of several, one may take a checkpoint over before another
            "CIFAR_HTTP_PROCESSES": "1",
            "OMP_NUM_THREADS": "1",  # two for so few pictures mostly wait for each other
        }
        self._copy_checkout()
        self._draw_pictures()

    def _copy_checkout(self) -> None:
        (self._folder / ".venv").symlink_to(sys.prefix)
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "docs"):
            (self._folder / name).symlink_to(ROOT / name)
        for name in ("clients", "models", "server", "training"):
            shutil.copytree(ROOT / name, self._folder / name)
        for page in PAGES:  # now, so that the service knows an architecture which a later page adds
            for block in blocks_of(page):
                if block.file:
                    (self._folder / block.file).write_text(block.text)

    def _draw_pictures(self) -> None:
        draw_shape("circle", 1).save(self._folder / "cat.jpg")
        draw_shape("square", 1).save(self._folder / "dog.png")
        for shape, name in (("circle", "cat"), ("square", "dog")):
            folder = self._folder / "photos" / name
            folder.mkdir(parents=True)
            for number in range(20):
                draw_shape(shape, number).save(folder / f"{number}.png")
        for split, numbers in (("train", range(8)), ("test", range(8, 12))):
            for class_id, name in enumerate(CIFAR10_CLASSES):
                folder = self._folder / "ten-classes" / split / name
                folder.mkdir(parents=True)
                for number in numbers:
                    draw_flat(class_id, number).save(folder / f"{number}.png")

    def read(self, page: Path) -> None:
        """Do what the page says. Raises AssertionError if a command fails, or prints other than the page says."""
        self._begin()
        printed = ""
        for block in blocks_of(page):
            if block.is_output:
                (words, numbers), (those_said, numbers_said) = (
                    words_and_numbers(block.language, text) for text in (printed, block.text)
                )
                assert words == those_said, printed
                assert numbers == pytest.approx(numbers_said, abs=_ROUNDING), printed
            elif block.text in _SERVE:
                self._serve(block.text)
            elif block.is_run and not block.file and block.text != "make test\n":
                printed = self._run(block)

    def _begin(self) -> None:
        """A reader has no checkpoint yet, and no service that had one."""
        for path in self._folder.glob("cifar_net.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.stop()

    def _serve(self, command: str) -> None:
        """Start the service with this command, unless it runs already; wait until it serves the checkpoint."""
        if self._service is None:
            words = ["bash", "-ec", f"exec {command}"]
            self._service = subprocess.Popen(words, cwd=self._folder, env=self._environment)
        wait_until(self._serves_checkpoint)

    def _serves_checkpoint(self) -> bool:
        """Whether it has taken over the checkpoint in the folder: a reader types no faster than it looks."""
        assert self._service
        assert self._service.poll() is None, "the service ended"
        try:
            answer = HTTP.get(f"http://127.0.0.1:{self._port}/readyz")
        except httpx.TransportError:
            return False
        own = self._folder / "cifar_net.pth"
        weights = (own if own.exists() else STRONG).read_bytes()
        return answer.is_success and answer.json()["model"]["version"] == hashlib.sha256(weights).hexdigest()[:12]

    def _run(self, block: Block) -> str:
        if self._service:
            wait_until(self._serves_checkpoint)
        text = block.text.replace(":8000", f":{self._port}").replace("--data cifar10", "--data ten-classes")
        words = ["bash", "-ec", text] if block.language == "bash" else [sys.executable, "-c", text]
        result = subprocess.run(
            words, cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def stop(self) -> None:
        if self._service:
            self._service.terminate()
            self._service.wait(timeout=40)
            self._service = None


def words_and_numbers(language: str, printed: str) -> tuple[str, list[float]]:
    """The text that two runs must share, without request ids, dates and white space of JSON; and the numbers with a
    decimal point, which may differ by rounding."""
    printed = printed.replace("\r\n", "\n").strip()
    printed = re.sub(r"\b[0-9a-f]{32}\b", "<request id>", printed)
    printed = re.sub(r"^(date|server): .*\n", "", printed, flags=re.MULTILINE)
    printed = re.sub(r"^(HTTP/1\.1 \d+) .*", r"\1", printed)  # its words differ from one Python to the next
    if language in ("json", "http"):
        head, blank, body = printed.partition("\n\n") if language == "http" else ("", "", printed)
        printed = head + blank + json.dumps(json.loads(body))
    return re.sub(_DECIMAL, "<number>", printed), [float(number[0]) for number in re.finditer(_DECIMAL, printed)]
