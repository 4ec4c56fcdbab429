"""cifar-score where files and folders are not as one expects: links in circles, files that open later, odd names."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.card import TUTORIAL_NET
from models.checkpoint import read
from server.score.__main__ import main
from server.score.images import Chunk, Part, ScoreError, describe, list_images
from server.score.parts import Parts
from server.score.scorer import Scorer
from tests.pictures import draw_shape, encode


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").write_bytes(encode(draw_shape("circle", number)))
    return root


@contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    """Root may read whatever is there; but it too opens no more files than its limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def make_scorer(root: Path) -> Scorer:
    return Scorer(str(root), TUTORIAL_NET, *read(TUTORIAL_NET), "cpu")


def make_parts(root: Path, overwrite: bool = False) -> Parts:
    return Parts(root.parent / "scored.parquet", str(root), describe("tutorial", read(TUTORIAL_NET)[1]), overwrite)


def score(parts: Parts, scorer: Callable[[Chunk], Part]) -> None:
    for chunk in parts.missing(lambda _: None):
        parts.add(scorer(chunk))
    parts.merge()


@pytest.mark.parametrize("complete", [False, True])
def test_an_image_that_could_not_be_read_is_scored_again_with_overwrite(root: Path, complete: bool) -> None:
    output, scorer = root.parent / "scored.parquet", make_scorer(root)
    first, second = make_parts(root), make_parts(root, overwrite=True)

    def score_nothing(chunk: Chunk) -> Part:
        scorer(chunk)  # imports what it needs, from files too
        with no_file_can_be_opened():
            return scorer(chunk)

    with first.locked():
        if complete:
            score(first, score_nothing)
            assert {row["error"] for row in pq.read_table(output).to_pylist()} == {"unreadable: too many open files"}
        else:
            for chunk in first.missing(lambda _: None):
                first.add(score_nothing(chunk))
    with (again := make_parts(root)).locked():
        assert again.output_is_complete() == complete
    with second.locked():
        assert not second.output_is_complete()
        score(second, scorer)
        assert second.output_is_complete()
    assert all(row["label"] and not row["error"] for row in pq.read_table(output).to_pylist())


def test_a_link_to_nothing_is_no_reason_to_score_again_until_it_leads_somewhere(root: Path) -> None:
    (root / "gone.png").symlink_to("later.png")
    parts = make_parts(root, overwrite=True)
    with parts.locked():
        score(parts, make_scorer(root))
        assert parts.output_is_complete()
        (root / "later.png").write_bytes((root / "0.png").read_bytes())
        assert not parts.output_is_complete()


def test_folders_that_are_linked_to_each_other_are_listed_once_each_way(tmp_path: Path) -> None:
    for folder, other in (("a", "b"), ("b", "a")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.png").touch()
        (tmp_path / folder / f"to_{other}").symlink_to(tmp_path / other)
    (tmp_path / "a" / "up").symlink_to(tmp_path.parent)
    assert list(list_images(str(tmp_path))) == ["a/a.png", "a/to_b/b.png", "b/b.png", "b/to_a/a.png"]


def test_the_name_of_the_output_need_not_be_utf8(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = root.parent / os.fsdecode(b"M\xfcller") / "out.parquet"
    words = [str(root), "--output", str(output), "--checkpoint", "tutorial", "--device", "cpu", "--workers", "1"]
    assert main(words) == 0
    assert "M\\udcfcller/out.parquet: 3 images, 0 with an error" in capsys.readouterr().out
    assert main(words) == 0
    assert "M\\udcfcller/out.parquet is complete already" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["", ".", "images"])
def test_a_folder_as_output_is_refused_before_anything_is_made(
    root: Path, folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    with pytest.raises(SystemExit, match="2"):
        main([str(root), "--output", folder])
    assert f"argument --output: a file is needed, not the folder {folder or '.'!r} " in capsys.readouterr().err
    assert os.listdir() == ["images"]


def test_a_run_that_fails_before_its_first_part_leaves_nothing(root: Path) -> None:
    with pytest.raises(ScoreError), make_parts(root).locked():
        raise ScoreError("there is no GPU")
    assert os.listdir(root.parent) == ["images"]
