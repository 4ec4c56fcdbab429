"""The files behind the page: the pictures that it offers, and its texts in both languages."""

import os
import re
from pathlib import Path

from server.page import find_samples
from tests.pictures import draw_shape
from tests.server.conftest import STATIC


def test_a_folder_of_pictures_is_offered_evenly(tmp_path: Path) -> None:
    for shape in ("circle", "square"):
        (tmp_path / shape).mkdir()
        for number in range(25):
            draw_shape(shape, number).save(tmp_path / shape / f"{number:02}.PNG")
    (tmp_path / "notes.txt").touch()
    samples = find_samples(tmp_path)
    assert samples[0] == "circle/00.PNG"
    assert 15 <= len(samples) <= 20
    assert 7 <= sum(name.startswith("square") for name in samples) <= 10


def test_what_cannot_be_shown_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "café.png").touch()
    assert find_samples(tmp_path) == ["café.png"]


def test_every_text_is_there_in_both_languages_and_is_used() -> None:
    english, chinese = (
        re.findall(r"^    (\w+): ", half, re.MULTILINE)
        for half in (STATIC / "messages.js").read_text().split("\n  zh: {\n")
    )
    sources = "".join(path.read_text() for path in STATIC.glob("*.*"))
    asked, written = (set(re.findall(rf'{opening}"(\w+)"', sources)) for opening in (r"\bt\(", "data-t="))
    assert set(english) == asked
    assert set(chinese) == asked | written
