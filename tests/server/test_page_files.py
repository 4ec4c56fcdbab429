"""The files behind the page: the pictures that it offers, and its texts in both languages."""

import re
from pathlib import Path

from server.page import find_samples
from tests.pictures import draw_shape

STATIC = Path(__file__).parents[2] / "server" / "static"


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


def test_every_text_is_there_in_both_languages_and_is_used() -> None:
    names = re.findall(r"^    (\w+): ", (STATIC / "messages.js").read_text(), re.MULTILINE)
    english, chinese = names[: len(names) // 2], names[len(names) // 2 :]
    assert english == chinese
    sources = "".join(path.read_text() for path in STATIC.glob("*.*"))
    assert set(english) == set(re.findall(r'\bt\("(\w+)"', sources)) | set(re.findall(r'data-t="(\w+)"', sources))
