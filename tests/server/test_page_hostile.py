"""Names that are HTML or a path, in a card, of a checkpoint and of pictures: on the page they are text, and no more."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from models.architectures.net import Net
from models.card import ModelCard, Scores, Training
from models.checkpoint import save
from tests.integration.running import HTTP, RunningService, running_service
from tests.pictures import draw_shape
from tests.server.conftest import SHIP, Open, drop

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MARKUP = "<img src=x onerror=hacked=1>"
CLASSES = (MARKUP, "'\"><script>hacked=1</script>", "{{7*7}}\x1b[31m\nred")
SCRIPT = '<svg xmlns="http://www.w3.org/2000/svg" onload="hacked=1"><script>hacked=1</script></svg>'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose card, checkpoint name and samples are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    per_class = dict.fromkeys(CLASSES, 0.5)
    scores = Scores(
        data=MARKUP,
        n=6,
        accuracy=0.5,
        interval=(0.1, 0.9),
        per_class=per_class,
        calibration_error=0.1,
        confusion=((1, 1, 0),) * 3,
    )
    training = Training(
        command=MARKUP,
        recipe={MARKUP: MARKUP},
        data=MARKUP,
        data_fingerprint=MARKUP,
        images=1,
        seed=0,
        seconds=1,
        hardware=MARKUP,
        versions={},
    )
    path = folder / f"{MARKUP}.pth"
    save(path, Net(num_classes=3), ModelCard(classes=CLASSES, scores=scores, training=training))
    samples = folder / "samples"
    samples.mkdir()
    draw_shape("circle", 1).save(samples / f"{MARKUP}.png")
    (samples / "script.svg").write_text(SCRIPT)
    with running_service(folder, "--checkpoint", str(path), "--samples", str(samples)) as service:
        yield service


def test_markup_in_names_is_shown_and_runs_nothing(service: RunningService, open_page: Open) -> None:
    page = open_page()
    page.locator(".score").wait_for()
    page.locator("#samples button").first.wait_for()
    drop(page, **{MARKUP: SHIP})
    page.locator(".result h3").wait_for()
    page.locator(".why").click()
    page.locator(".said").wait_for(timeout=60_000)
    shown = page.locator("body").inner_text()
    assert shown.count(MARKUP) >= 5, "of the answer, its file, the explanation, the card's classes and its training"
    assert not page.locator("script").count() - 1, "the page's own"
    assert not page.locator("img[src='x']").count()
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.title() == "cifar-service"


def test_a_picture_with_a_script_opened_by_itself_does_not_run_it(service: RunningService, browser: "Browser") -> None:
    page = browser.new_page()
    page.goto(f"{service.url}/samples/script.svg")
    assert page.evaluate("document.documentElement.tagName") == "svg"
    assert page.evaluate("typeof hacked") == "undefined"
    page.close()


@pytest.mark.parametrize("name", ["%2e%2e/net.pth", "..%2fnet.pth", "%2fetc%2fpasswd", "a%00b"])
def test_no_path_leads_out_of_the_samples_or_to_another_model(service: RunningService, name: str) -> None:
    for folder in ("samples", "static", "v2/models", "v1/models"):
        assert HTTP.get(f"{service.url}/{folder}/{name}").status_code == 404
    assert HTTP.post(f"{service.url}/v2/repository/models/{name}/load").status_code == 404
