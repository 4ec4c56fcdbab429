"""One field is the flag, the environment variable and the help; a wrong value is one sentence and exit code 2."""

import os
import re
import socket
import sys
from pathlib import Path

import pytest
from litserve.connector import check_cuda_with_nvidia_smi

from models.card import STRONG, TUTORIAL_NET
from server.__main__ import main, read_settings
from server.settings import Settings, nvidia_gpus
from tests.integration.running import run_unread


def test_a_flag_comes_before_the_environment_which_comes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_PORT", "9001")
    monkeypatch.setenv("CIFAR_MAX_BATCH_SIZE", "16")
    settings = read_settings(["--max-batch-size", "32"])
    assert (settings.port, settings.max_batch_size, settings.max_images) == (9001, 32, 1024)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "80"], "--port (CIFAR_PORT): Input should be greater than or equal to 1024, not '80'"),
        (["--deadline-s", "soon"], "--deadline-s (CIFAR_DEADLINE_S): Input should be a valid number"),
        (["--deadline-s", "inf"], "--deadline-s (CIFAR_DEADLINE_S): Input should be less than or equal to 86400"),
        (["--deadline-s", "nan"], "--deadline-s (CIFAR_DEADLINE_S): Input should be"),
        (["--host", "example.org"], "--host (CIFAR_HOST): Input should be '127.0.0.1', '0.0.0.0' or '::'"),
        (["--colour", "red"], "cifar-serve: unrecognized arguments: --colour red (see cifar-serve --help)\n"),
    ],
)
def test_a_wrong_value_is_named_with_its_flag(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


NOT_UTF8 = os.fsdecode(b"caf\xe9.pth")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--checkpoint", "none.pth"], "there is no checkpoint at"),
        (["--checkpoint", NOT_UTF8], "caf\\udce9.pth' has characters in its name that no answer can show: rename it"),
        (["--device", "cuda"], "--device cuda: this machine has no NVIDIA GPU"),
        (["--device", "cuda", "--forward", "onnxruntime"], "--forward onnxruntime runs on the CPU: choose --forward"),
    ],
)
def test_what_it_could_not_serve_with_is_told_at_once(
    flags: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path(NOT_UTF8).touch()
    assert main(flags) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"cifar-serve: cannot listen on 127.0.0.1 port {port} (Address already in use): ")
    assert said.count("\n") == 1


def test_the_working_directorys_checkpoint_comes_before_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings([]).checkpoint_path() == STRONG
    assert read_settings(["--checkpoint", "tutorial"]).checkpoint_path() == TUTORIAL_NET
    assert read_settings(["--checkpoint", "other"]).checkpoint_path() == tmp_path / "other"
    (tmp_path / "cifar_net.pth").touch()
    assert read_settings([]).checkpoint_path() == tmp_path / "cifar_net.pth"


def test_what_else_has_the_name_of_a_shipped_checkpoint_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strong").mkdir()
    assert read_settings([]).checkpoint_path() == STRONG
    assert read_settings(["--checkpoint", "strong"]).checkpoint_path() == STRONG
    (tmp_path / "tutorial").touch()
    assert read_settings(["--checkpoint", "tutorial"]).checkpoint_path() == tmp_path / "tutorial"


@pytest.mark.parametrize(("visible", "gpus"), [(None, 2), ("0", 1), ("", 0), ("-1", 0), ("GPU-3f,MIG-4a", 2)])
def test_gpus_are_counted_as_torch_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int
) -> None:
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'GPU 0: H200 (UUID: GPU-3f)'\necho 'GPU 1: H200 (UUID: GPU-4a)'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    check_cuda_with_nvidia_smi.cache_clear()
    try:
        assert nvidia_gpus() == gpus
    finally:
        check_cuda_with_nvidia_smi.cache_clear()


def test_a_checkpoint_that_may_not_be_looked_at_is_not_passed_over_for_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar_net.pth").symlink_to("cifar_net.pth")  # to itself: stat() fails as on a disk that does
    assert read_settings([]).checkpoint_path() == tmp_path / "cifar_net.pth"


def test_a_path_with_a_folder_that_may_not_be_read_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("not a program")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_settings([]).accelerator() in ("cpu", "mps")


def test_a_reader_that_leaves_the_help_sees_no_traceback() -> None:
    assert run_unread(sys.executable, "-u", "-m", "server", "--help") == (0, "")


def test_help_fits_a_screen_and_names_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 100
    for name in Settings.model_fields:
        assert re.search(rf"--(\[no-\])?{name.replace('_', '-')} " if name != "api_keys" else "CIFAR_API_KEYS", text)
