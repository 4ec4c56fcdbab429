"""What is evaluated: a folder, the part of it that a list names, or CIFAR-10's archive, downloaded."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clients import datasets
from clients.evaluate import main
from tests.clients.fake_service import FakeService


def test_a_folder_without_a_test_split_is_scored_with_a_warning(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", "data/test"]) == 0
    out, err = capsys.readouterr()
    assert "(6 of 8;" in out
    assert err.startswith("cifar-evaluate: warning: data/test has no test folder, so images that the model was trained")


def test_a_list_of_files_is_scored_alone_and_without_a_warning(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("held-out.txt").write_text("square/0.png\ncircle/2.png\n\n")
    assert main(["--data", "data/test", "--files", "held-out.txt"]) == 0
    out, err = capsys.readouterr()
    assert "(1 of 2;" in out
    assert "warning" not in err


def test_a_file_whose_name_is_not_utf8_is_scored_and_listed(
    shapes: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(os.fsdecode(b"data/test/square/\xff.png")).write_bytes(b"text")
    Path("held-out.txt").write_bytes(b"test/square/\xff.png\ntest/square/0.png\n")
    assert main(["--data", "data", "--files", "held-out.txt"]) == 0
    out = capsys.readouterr().out
    assert "(1 of 2;" in out
    assert r"test/square/\udcff.png: not an image" in out


def test_a_link_to_nothing_is_counted_as_refused(shapes: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """DVC and git-annex leave such links for files that have not been fetched."""
    Path("data/test/square/gone.png").symlink_to("nowhere.png")
    assert main(["--data", "data"]) == 0
    out = capsys.readouterr().out
    assert "(6 of 9;" in out
    assert "test/square/gone.png: " in out


@pytest.fixture
def cifar10(shapes: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """The service also has CIFAR-10's archive for download, of three test images."""
    planes = ((label, bytes([label]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1024) for label in (0, 1, 1))
    records = b"".join(bytes([label]) + pixels for label, pixels in planes)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in (("test_batch.bin", records), ("batches.meta.txt", b"circle\nsquare\n\n")):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    shapes.files["/cifar.tar.gz"] = buffer.getvalue()
    monkeypatch.setattr(datasets, "CIFAR10_URL", f"{shapes.url}/cifar.tar.gz")
    monkeypatch.setattr(datasets, "CIFAR10_MD5", hashlib.md5(buffer.getvalue()).hexdigest())
    return shapes


def test_cifar10_is_downloaded_once_and_sent_as_it_is(cifar10: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "cifar10"]) == 0
    assert "(3 of 3;" in capsys.readouterr().out
    with Image.open(io.BytesIO(cifar10.asked[-1].images[1])) as picture:
        assert (picture.size, picture.getpixel((0, 0)), picture.getpixel((31, 31))) == ((32, 32), (1, 2, 3), (1, 2, 3))
    cifar10.files.clear()
    assert main(["--data", "cifar10"]) == 0


def test_a_damaged_download_is_not_kept(cifar10: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    cifar10.files["/cifar.tar.gz"] = b"<html>"
    assert main(["--data", "cifar10"]) == 1
    assert "sent is not CIFAR-10: its MD5 is not" in capsys.readouterr().err
    assert not list(Path("data").glob("*cifar*"))


def test_a_failing_download_says_what_to_do(cifar10: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    cifar10.files.clear()
    assert main(["--data", "cifar10"]) == 1
    err = capsys.readouterr().err
    assert "404" in err
    assert err.count("\n") == 1
    assert err.endswith("put cifar-10-binary.tar.gz into data/ yourself, or give --data a folder of images\n")


def test_a_proxy_that_cannot_be_used_is_a_failing_download(
    cifar10: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for proxy in ("socks5://host:1", "socks://host:1", "http://127.0.0.256:1"):
        monkeypatch.setenv("ALL_PROXY", proxy)
        assert main(["--data", "cifar10"]) == 1
        assert capsys.readouterr().err.startswith("cifar-evaluate: CIFAR-10 cannot be downloaded (")
