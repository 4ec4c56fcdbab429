"""What the page must not trip over: names that are HTML or a path, very many classes, a key that is refused first."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from models.architectures.net import Net
from models.card import ModelCard, Scores, Training
from models.checkpoint import save
from tests.integration.running import HTTP, RunningService, running_service, wait_until
from tests.pictures import draw_shape
from tests.server.conftest import SHIP, Open, drop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MARKUP = "<img src=x onerror=hacked=1>"
CLASSES = (MARKUP, "'\"><script>hacked=1</script>", "{{7*7}}\x1b[31m\nred")
SCRIPT = '<svg xmlns="http://www.w3.org/2000/svg" onload="hacked=1"><script>hacked=1</script></svg>'


def scores_of(classes: tuple[str, ...]) -> Scores:
    return Scores(
        data=MARKUP,
        n=len(classes) ** 2,
        accuracy=0.5,
        interval=(0.1, 0.9),
        per_class=dict.fromkeys(classes, 0.5),
        calibration_error=0.1,
        confusion=((1,) * len(classes),) * len(classes),
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose card, checkpoint name and samples are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
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
    save(path, Net(num_classes=3), ModelCard(classes=CLASSES, scores=scores_of(CLASSES), training=training))
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


def test_the_samples_stay_when_the_card_is_asked_for_again(open_page: Open) -> None:
    """New buttons in their place would take the focus away, and keep every picture in memory once more."""
    page = open_page()
    page.locator(".score").wait_for()
    page.locator("#samples button").first.evaluate("(button) => button.dataset.first = true")
    with page.expect_response("**/card"):
        page.locator("#key").fill("a key that nobody needs")
        page.keyboard.press("Enter")
    assert page.locator("#samples button[data-first]").count() == 1


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of 51 classes, with the key `first` in the file `keys`."""
    folder = tmp_path_factory.mktemp("crowded")
    (folder / "keys").write_text("first\n")
    classes = tuple(f"class {number}" for number in range(51))
    save(folder / "crowded.pth", Net(num_classes=51), ModelCard(classes=classes, scores=scores_of(classes)))
    with running_service(folder, "--checkpoint", "crowded.pth", "--api-keys-file", "keys") as service:
        yield service


@contextlib.contextmanager
def opened(browser: "Browser", service: RunningService, key: str) -> "Iterator[Page]":
    with contextlib.closing(browser.new_page()) as page:
        page.add_init_script(f"sessionStorage.setItem('cifar-api-key', '{key}')")
        page.goto(service.url)
        yield page


def test_the_confusion_of_very_many_classes_is_not_drawn(browser: "Browser", crowded: RunningService) -> None:
    with opened(browser, crowded, "first") as page:
        page.locator("#model", has_text="The report of cifar-train shows the confusion matrix").wait_for()
        assert page.locator("#model .bars li").count() == 51
        assert not page.locator("#model table").count()


def test_a_key_that_was_refused_before_the_service_had_read_it_is_accepted_after(
    browser: "Browser", crowded: RunningService
) -> None:
    with opened(browser, crowded, "second") as page:
        page.locator("#problem", has_text="needs a valid API key").wait_for()
        drop(page, ship=SHIP)
        page.locator(".result .problem", has_text="needs a valid API key").wait_for()
        (crowded.log.parent / "keys").write_text("first\nsecond\n")
        wait_until(lambda: HTTP.get(f"{crowded.url}/card", headers={"X-API-Key": "second"}).is_success)
        page.get_by_role("button", name="Try again").click()
        page.locator(".score").wait_for()
        assert page.locator("#samples button").count()
        assert page.locator("#problem").is_hidden()
        assert page.locator("#key").get_attribute("aria-invalid") is None
