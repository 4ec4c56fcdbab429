"""README.md and docs/*.md are true: their commands are run, their outputs compared, their links followed."""

import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.documents import PAGES, ROOT, Reader, blocks_of

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
VERBS = ("train", "serve", "predict", "evaluate", "score")
OUR_COMMANDS = [*(f"cifar-{verb}" for verb in VERBS), "python -m benchmarks.serving"]
FLAGS_OF_OTHERS = {  # docker's, torchrun's, uvicorn's and gcloud's
    *("--build-arg", "--init", "--log-opt", "--target", "--max-restarts", "--nnodes", "--timeout-keep-alive"),
    *("--container-health-route", "--container-ports", "--container-predict-route"),
}
VENV = os.path.relpath(sys.prefix, ROOT)  # make takes no target with a space in it, which the path above may have


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if subprocess.run(["make", "--question", "install", f"VENV={VENV}"], cwd=ROOT, check=False).returncode:
        pytest.skip("make serve would install first: run the tests by make test")
    assert shutil.which("curl"), "the documents' commands call curl"
    reader = Reader(tmp_path_factory.mktemp("checkout"))
    yield reader
    reader.stop()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.is_run for block in blocks_of(page))], ids=lambda page: page.name
)
def test_every_block_does_what_the_page_says(reader: Reader, page: Path) -> None:
    reader.read(page)


@pytest.mark.parametrize("page", [*PAGES, CHINESE], ids=lambda page: page.name)
def test_a_page_names_only_what_there_is(page: Path) -> None:
    text, project = page.read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    for verb in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE), verb
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link


@functools.cache
def flags_of(command: str) -> set[str]:
    """The flags that the command takes, by its own help."""
    if command.startswith("python -m "):
        main = importlib.import_module(command.removeprefix("python -m ")).main
    else:
        (script,) = entry_points(group="console_scripts", name=command)
        main = script.load()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for flag in ["--help", "--list"] if command == "cifar-train" else ["--help"]:
            with contextlib.suppress(SystemExit):
                assert main([flag]) == 0
    text = re.sub(r"--\[no-\](\S+)", r"--\1 --no-\1", said.getvalue())
    return {"--help", *re.findall(r"--[a-z][\w-]*", text)}


@pytest.mark.parametrize("page", [*PAGES, CHINESE], ids=lambda page: page.name)
def test_every_flag_that_a_page_names_is_one_of_its_command(page: Path) -> None:
    text = page.read_text()
    commands = rf"\b(cifar-(?:{'|'.join(VERBS)})|python -m benchmarks\.\w+)\b([^`\n|#]*)"
    for command, arguments in re.findall(commands, text):
        for flag in re.findall(r" (--[a-z][\w-]*)", arguments):
            assert flag in flags_of(command), f"{command}{arguments}"
    ours = set[str]().union(*map(flags_of, OUR_COMMANDS))
    assert set(re.findall(r"`(--[a-z][\w-]*)", text)) <= ours | FLAGS_OF_OTHERS


def test_every_test_that_the_security_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 30
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), test


def test_the_chinese_readme_has_all_that_the_english_one_has() -> None:
    assert list(blocks_of(CHINESE)) == list(blocks_of(ENGLISH))
    assert skeleton(CHINESE) == skeleton(ENGLISH)


def skeleton(page: Path) -> list[str]:
    """Headings, rows of tables, targets of links, what stands in backticks, and numbers, in any order.

    A paragraph that only one of the two languages has shows here. Links between the two do not count.
    """
    prose = re.sub(r"^```.*?^```\n", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return sorted(re.findall(r"^#+ |^\||\]\((?!README)[^)]+\)|`[^`]+`|\d+(?:[.,]\d+)*", prose, re.MULTILINE))
