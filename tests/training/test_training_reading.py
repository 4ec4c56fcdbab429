"""Images are read by child processes where there are many: as well as here, and no child is left behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from training import reading
from training.data import load_folder
from training.errors import TrainingError
from training.folder import list_images, read_images

Draw = Callable[..., Path]


@pytest.fixture
def children_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first three images are read in this process, and the others one at a time."""
    monkeypatch.setattr(reading, "_FIRST", 3)
    monkeypatch.setattr(reading, "_START_S", 0.0)
    monkeypatch.setattr(reading, "_BLOCK_S", 0.0)


def test_few_images_start_no_process(draw_folder: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_start_child", None)
    assert len(load_folder(draw_folder(), 32).train) == 20


def readers() -> list[psutil.Process]:
    """The children that read images; other tests' services are children too."""
    return [child for child in psutil.Process().children() if "training.reading" in " ".join(child.cmdline())]


@pytest.mark.usefixtures("children_at_once")
def test_children_read_every_image_into_its_place(draw_folder: Draw) -> None:
    root = draw_folder(per_class=20)
    names = list_images(root).images
    pixels, digests, _ = reading.read(root, names, 32)
    read_pixels, read_digests = read_images(root, names, 32)
    assert bytes(read_pixels.numpy()) == bytes(pixels)
    assert read_digests == [digest.hex() for digest in digests]
    assert not readers()


@pytest.mark.usefixtures("children_at_once")
def test_what_children_cannot_read_is_listed(draw_folder: Draw) -> None:
    root = draw_folder()
    for number in range(3, 12):
        (root / "circle" / f"{number:03}.png").write_bytes(b"text")
    with pytest.raises(
        TrainingError, match=r"^9 of the 24 images .*: circle/003\.png; .*circle/011\.png \(not an image"
    ):
        load_folder(root, 32)


@pytest.mark.usefixtures("children_at_once")
def test_a_child_that_is_killed_ends_the_reading_in_one_sentence(draw_folder: Draw) -> None:
    root = draw_folder(per_class=200)
    names = list_images(root).images
    with closing(reading.read_on_all_cores(root, names, 32)) as blocks:
        next(blocks), next(blocks)
        for child in readers():
            child.kill()
        with pytest.raises(TrainingError, match=r"^a process that read images of .* was ended"):
            list(blocks)
    assert not readers()


SCRIPT = """
import sys, time
from pathlib import Path
import psutil
from training import reading
reading._START_S = reading._BLOCK_S = 0.0
root = Path(sys.argv[1])
blocks = reading.read_on_all_cores(root, [path.name for path in root.iterdir()] * 10, 32)
next(blocks), next(blocks)
print("started", *(child.pid for child in psutil.Process().children()), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_of_a_script_without_a_guard_end_with_it(draw_folder: Draw, tmp_path: Path, number: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(draw_folder(per_class=20) / "circle")]
    repository = Path(reading.__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(repository)}, text=True) as process:
        assert process.stdout is not None
        word, *pids = process.stdout.readline().split()
        assert word == "started"
        assert pids
        process.send_signal(number)
    deadline = time.monotonic() + 10
    while any(map(runs, map(int, pids))):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_child_imports_no_torch() -> None:
    code = "import sys, training.reading; assert not {'torch', 'rich', 'pydantic'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
