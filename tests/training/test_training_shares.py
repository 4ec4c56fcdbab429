"""What each of several processes takes of a batch, and what it refuses, without any of the others."""

import pytest

from training import distributed
from training.__main__ import main
from training.distributed import refuse_differences, refuse_empty_shares, share
from training.errors import TrainingError


def test_each_image_of_a_batch_is_taken_once_and_weighs_the_same() -> None:
    """Eight images in batches of 4 on three processes: 2 + 1 + 1."""
    shares = [share(8, 4, rank, 3) for rank in range(3)]
    assert [part.sizes for part in shares] == [[2, 2], [1, 1], [1, 1]]
    assert [part.positions.tolist() for part in shares] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    for batch in range(2):
        assert [part.weights[batch] / part.sizes[batch] for part in shares] == pytest.approx([3 / 4] * 3)


def test_a_batch_with_no_image_for_some_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    refuse_empty_shares(3)
    with pytest.raises(TrainingError, match=r"of the 3 processes .* has 2 images here: .* a larger --batch-size$"):
        refuse_empty_shares(2)


def test_a_process_with_another_seed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "broadcast_from_first", lambda _: {"epochs": 2, "seed": 0})
    refuse_differences({"epochs": 2, "seed": 0})
    with pytest.raises(
        TrainingError, match=r"^the seed of this process is 1, that of the first one 0: give every host"
    ):
        refuse_differences({"epochs": 2, "seed": 1})


def test_a_mistake_is_told_by_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank, sentences in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["--seed", "0", "--epochs", "0"]) == 2
        assert capsys.readouterr().err.count(f"cifar-train {rank}: ") == sentences
