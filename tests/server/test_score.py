"""cifar-score: a folder's rows are what the classifier says of each image, whatever ends the run on its way."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.architectures.net import Net
from models.card import ModelCard
from models.checkpoint import load, read, save
from models.pixels import decode
from server.score.__main__ import main
from server.score.images import CHUNK_SIZE, ScoreError, describe, list_images
from server.score.parts import Parts
from server.score.scorer import Scorer
from tests.integration.running import wait_until
from tests.pictures import draw_shape, encode

BAD = {"bad.jpg": "not_an_image: ", "circles/empty.png": "empty: ", "gone.jpg": "unreadable: no such file"}
PATIENCE_S = 100


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that find more than one class in what is drawn here, and a card that asks for more than softmax."""
    path = tmp_path_factory.mktemp("model") / "shapes.pth"
    torch.manual_seed(26)
    card = ModelCard(classes=("circle", "square", "star"), tta_below=0.9, temperature=0.02)
    save(path, Net(num_classes=3), card)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Few of them, to be linked to many times."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        shape, image_format, size = ("circle", "JPEG", (32, 32)) if number % 2 else ("square", "PNG", (48, 40))
        (folder / f"{number}.img").write_bytes(encode(draw_shape(shape, 9 * number, size), image_format))
    return sorted(folder.iterdir())


def fill(root: Path, pictures: list[Path], count: int) -> Path:
    """`count` images in three folders; the last letter of a name says which picture it is."""
    for number in range(count):
        folder, picture = root / ("circles", "circles/more", "squares")[number % 3], number % len(pictures)
        folder.mkdir(parents=True, exist_ok=True)
        os.link(pictures[picture], folder / f"{number:05}-{picture}.{'JPG' if number % 5 else 'png'}")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, pictures: list[Path]) -> Path:
    root = fill(tmp_path_factory.mktemp("score") / "images", pictures, CHUNK_SIZE + 200)
    (root / "bad.jpg").write_text("text")
    (root / "circles" / "empty.png").touch()
    (root / "gone.jpg").symlink_to("nowhere")
    (root / ".hidden.jpg").write_text("left out")
    (root / "circles.jpg.txt").write_text("left out")
    os.link(pictures[0], os.fsencode(root) + b"/caf\xe9-0.jpg")
    return root


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "server.score", *map(str, words)]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_ADDRESS": ""}
    return subprocess.run(command(*words), env=environment, capture_output=True, text=True, timeout=300, check=True)


@pytest.fixture(scope="module")
def scored(root: Path, checkpoint: Path) -> Path:
    """The root's predictions, in place of a file that was nobody's."""
    output = root.parent / "scored.parquet"
    output.write_text("something else")
    done = run(root, "--output", output, "--checkpoint", checkpoint, "--workers", "2", "--overwrite")
    assert done.stderr == ""
    assert f"scored.parquet: {CHUNK_SIZE + 204:,} images, 3 with an error, in " in done.stdout
    return output


def assert_right(table: pa.Table, root: Path, checkpoint: Path, pictures: list[Path]) -> None:
    names = (os.path.relpath(os.path.join(at, name), root) for at, _, found in os.walk(root) for name in found)
    images = sorted(name for name in names if name.lower().endswith((".jpg", ".png")) and name[0] != ".")
    assert table["path"].to_pylist() == [os.fsencode(name).decode(errors="backslashreplace") for name in images]
    classifier = load(checkpoint)
    with torch.inference_mode():
        pixels = np.stack([decode(path.read_bytes(), 32) for path in pictures])
        probabilities = classifier(torch.tensor(pixels)).numpy()
    assert len(set(probabilities.argmax(axis=1))) > 1
    for row in table.to_pylist():
        if row["path"] in BAD:
            assert row["error"].startswith(BAD[row["path"]])
            assert {row[name] for name in ("label", "class_id", "confidence", "probabilities")} == {None}
        else:
            expected = probabilities[int(Path(row["path"]).stem[-1])]
            assert np.abs(np.subtract(row["probabilities"], expected)).max() < 1e-5
            assert row["class_id"] == expected.argmax()
            assert row["confidence"] == max(row["probabilities"])
            assert (row["label"], row["error"]) == (classifier.card.classes[row["class_id"]], None)


def test_a_row_is_what_the_classifier_says_of_its_image(
    scored: Path, root: Path, checkpoint: Path, pictures: list[Path]
) -> None:
    table = pq.read_table(scored)
    assert_right(table, root, checkpoint, pictures)
    said = table.schema.metadata
    assert (said[b"model"], said[b"version"]) == (b"shapes", load(checkpoint).card.version.encode())
    assert said[b"classes"] == b'["circle", "square", "star"]'
    assert not scored.with_name("scored.parquet.parts").exists()


def test_a_run_goes_on_after_it_was_killed_and_while_its_processes_are(
    checkpoint: Path, pictures: list[Path], tmp_path: Path
) -> None:
    root, output = fill(tmp_path / "images", pictures, 3 * CHUNK_SIZE), tmp_path / "scored.parquet"
    words = command(root, "--output", output, "--checkpoint", checkpoint, "--workers", "1")
    parts = tmp_path / "scored.parquet.parts"
    with subprocess.Popen(words, text=True) as process:
        wait_until(lambda: any(parts.glob("*.parquet")), PATIENCE_S)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert not psutil.wait_procs(family, timeout=30)[1]
    before = len(list(parts.glob("*.parquet")))
    assert 0 < before < 3
    assert not output.exists()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: kill_workers(process), PATIENCE_S)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert f"{3 * CHUNK_SIZE:,} images, {before * CHUNK_SIZE:,} of them scored before, 0 with an error" in said
    assert_right(pq.read_table(output), root, checkpoint, pictures)
    assert not parts.exists()


@pytest.mark.parametrize("cause", ["killed", "interrupted"])
def test_a_run_that_cannot_go_on_ends_in_a_sentence(root: Path, checkpoint: Path, tmp_path: Path, cause: str) -> None:
    words = command(root, "--output", tmp_path / "scored.parquet", "--checkpoint", checkpoint, "--workers", "1")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        if cause == "interrupted":
            wait_until((tmp_path / "scored.parquet.parts").exists, PATIENCE_S)
            os.killpg(process.pid, signal.SIGINT)
        else:
            wait_until(lambda: not kill_workers(process) and process.poll() is not None, PATIENCE_S)
        _, said = process.communicate(timeout=PATIENCE_S)
    code, sentence = (1, "3 processes died while they scored bad.jpg to ") if cause == "killed" else (130, cause)
    assert process.returncode == code
    assert said.startswith(f"cifar-score: {sentence}")
    assert said.count("\n") == 1


def kill_workers(process: subprocess.Popen[str]) -> bool:
    """The children of its fork server; whether there were any."""
    workers = set[psutil.Process]()
    with contextlib.suppress(psutil.NoSuchProcess):
        main_process = psutil.Process(process.pid)
        workers = set(main_process.children(recursive=True)) - set(main_process.children())
        for worker in workers:
            worker.kill()
    return bool(workers)


def test_what_is_complete_stays_and_what_is_something_else_is_refused(
    scored: Path, root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(root), "--output", str(scored), "--checkpoint", str(checkpoint)]
    before = scored.read_bytes()
    assert main(words) == 0
    assert "is complete already" in capsys.readouterr().out
    with Parts(scored, str(root), describe("shapes", load(checkpoint).card), overwrite=False).locked():
        assert main(words) == 1
        assert scored.with_name(f"{scored.name}.parts").is_dir(), "the lock of the first is there still"
    assert "another cifar-score is making" in capsys.readouterr().err
    assert main([*words[:-1], "tutorial"]) == 1
    assert "scored.parquet is not of this model: " in capsys.readouterr().err
    (root / "squares").rename(root / "rectangles")
    assert main(words) == 1
    assert "scored.parquet is of images that have changed since: " in capsys.readouterr().err
    assert scored.read_bytes() == before


def test_parts_are_of_one_model_and_of_the_images_as_they_are(
    checkpoint: Path, pictures: list[Path], tmp_path: Path
) -> None:
    root, card = fill(tmp_path / "images", pictures, CHUNK_SIZE + 9), load(checkpoint).card
    metadata, other = (describe(name, card) for name in ("shapes", "others"))

    def parts(metadata: dict[bytes, bytes] = metadata, overwrite: bool = False) -> Parts:
        return Parts(tmp_path / "scored.parquet", str(root), metadata, overwrite)

    def missing(parts: Parts) -> list[int]:
        return [chunk["number"] for chunk in parts.missing(lambda _: None)]

    scorer, ours = Scorer(str(root), checkpoint, *read(checkpoint), "cpu"), parts()
    for chunk in ours.missing(lambda _: None):
        ours.add(scorer(chunk))
    assert missing(parts()) == []
    assert missing(parts(other, overwrite=True)) == [0, 1]
    with pytest.raises(ScoreError, match=r"000000000\.parquet is not of this model: "):
        missing(parts(other))
    *_, last = images = [root / name for name in list_images(str(root))]
    last.unlink()
    assert missing(parts(overwrite=True)) == [1]
    with pytest.raises(ScoreError, match=r"000000001\.parquet is of images that have changed since: "):
        missing(parts())
    for image in images[CHUNK_SIZE:-1]:
        image.unlink()
    fewer = parts()
    assert missing(fewer) == []
    with pytest.raises(ScoreError, match=r"000000001\.parquet is of images that have changed since: "):
        fewer.merge()


def test_links_that_lead_back_or_nowhere_and_pipes_end_no_run(checkpoint: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "back").symlink_to(root)
    (root / "itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(root / "pipe.png")
    assert list(list_images(str(root))) == ["itself.jpg", "pipe.png"]
    with pytest.MonkeyPatch.context() as patches:
        patches.chdir(tmp_path)
        assert main([str(root), "--checkpoint", str(checkpoint), "--output", "rows.parquet"]) == 0
    assert [row["error"] for row in pq.read_table(tmp_path / "rows.parquet").to_pylist()] == [
        "unreadable: too many levels of symbolic links",
        "empty: the image is empty (0 bytes)",
    ]


def test_what_cannot_be_scored_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"cifar-score: {tmp_path}/none/: no such file or directory\n"
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"cifar-score: there are no images in {tmp_path}\n"
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--workers", "none"])
    assert "a whole number of 1 or more is needed, not 'none' (see cifar-score --help)" in capsys.readouterr().err
