"""Benchmarks without CIFAR-10's images say so in one sentence."""

from pathlib import Path

import pytest

from benchmarks.evaluation import main


def test_a_folder_without_them_is_told_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=f"no images of CIFAR-10 in {tmp_path}: unpack them there"):
        main([])
