"""examples/quickstart.ipynb runs from its first cell to its last, on a few drawn pictures."""

import socket
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import Draw

ROOT = Path(__file__).parents[1]
NOTEBOOK = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)  # type: ignore[no-untyped-call]
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_the_notebook_trains_serves_asks_its_own_service_and_plots(
    tmp_path: Path, draw_folder: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(cell.outputs or cell.execution_count for cell in CODE), "clear its outputs before you commit it"
    monkeypatch.setenv("CIFAR_DATA", str(draw_folder(splits=("train", "test"))))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two for so few pictures mostly wait for each other
    with socket.create_server(("127.0.0.1", 0)) as another_service:
        monkeypatch.setenv("CIFAR_PORT", str(another_service.getsockname()[1]))
        NotebookClient(NOTEBOOK, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in CODE for output in cell.outputs]
    assert "24 of 24 right\n" in [output.get("text") for output in outputs]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 2  # what it shows and plots


def test_without_a_folder_of_its_own_the_notebook_takes_cifar10(
    cifar10_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10's archive is already unpacked in the folder into which the notebook would download it."""
    (cifar10_folder / "quickstart").symlink_to(".")
    monkeypatch.chdir(cifar10_folder)
    monkeypatch.delenv("CIFAR_DATA", raising=False)
    exec(CODE[0].source, {})
    assert len(list(Path("quickstart/photos/train").glob("*/*.png"))) == 50
    assert len(list(Path("quickstart/photos/test/cat").glob("*.png"))) == 1
