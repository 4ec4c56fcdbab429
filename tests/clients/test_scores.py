"""Whether one service is better than another by more than chance, and the statistics behind that."""

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from scipy.stats import binomtest

from clients.evaluate import main
from clients.scores import mcnemar, percentile, wilson_interval
from tests.clients.fake_service import FakeService, png


@pytest.fixture
def rival(shapes: FakeService) -> Iterator[FakeService]:
    """Another service, which takes every picture for a square."""
    other = FakeService()
    other.classes = ["circle", "square"]
    other.versions = deque(["ba9876543210"])
    other.mistakes = {0: 1}
    other.start()
    yield other
    other.stop()


def test_two_services_answer_the_same_images_and_chance_is_reckoned_with(
    shapes: FakeService, rival: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", "data", "--against", rival.url, "--json", "scores.json"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"against    37.50% of {rival.url}, cifar_net ba9876543210",
        "alone      3 images only this service got right, 0 only the other",
        "verdict    a difference of +37.50 points: no more than chance explains (McNemar's test, p = 0.250)",
    ]
    found = json.loads(Path("scores.json").read_text())
    assert found["comparison"] == {"only_this": 3, "only_against": 0, "p": 0.25, "more_than_chance": False}
    assert (found["against"]["service"], found["against"]["correct"]) == (rival.url, 3)


def test_a_difference_that_chance_does_not_explain_is_called_so(
    shapes: FakeService, rival: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10, 30):
        Path(f"data/test/circle/{number}.png").write_bytes(png(0))
    assert main(["--data", "data", "--against", rival.url]) == 0
    assert capsys.readouterr().out.endswith(": more than chance explains (McNemar's test, p < 0.001)\n")


def test_a_rival_of_other_classes_is_refused(
    shapes: FakeService, rival: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    rival.classes = ["cat", "dog"]
    assert main(["--data", "data", "--against", rival.url]) == 1
    assert f"{rival.url} does not know circle, square, which data has" in capsys.readouterr().err


def test_mcnemars_test_is_the_binomial_one() -> None:
    """Against scipy.stats.binomtest."""
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    for first, second in ((3, 0), (10, 3), (120, 180), (2100, 1900), (10_200, 9_800)):
        assert mcnemar(first, second) == mcnemar(second, first)
        assert mcnemar(first, second) == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)


def test_wilsons_interval_is_that_of_the_literature() -> None:
    """Newcombe 1998, table I: 81 of 263 and 15 of 148."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([3, 1, 2, 4], percent) for percent in (0, 50, 75, 99)] == [1, 2, 3, 4]
