"""The page on a phone, in a low window, by keyboard, and to axe, which looks for what keeps people out."""

import pytest

from tests.server.conftest import Open, drop
from tests.server.test_page import SHIP

PHONE = {"width": 360, "height": 740}


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_nothing_is_wider_than_a_phone(open_page: Open, locale: str) -> None:
    page = open_page(viewport=PHONE, locale=locale)
    page.locator(".score").wait_for()
    drop(page, **{"a-very-long-name-of-a-file-without-a-single-space" * 3: SHIP, "bad": b"no picture"})
    page.locator(".result .problem").wait_for()
    page.locator(".result h3").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_fault(open_page: Open, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(color_scheme=theme, bypass_csp=True)  # axe is injected
    page.locator(".score").wait_for()
    page.locator("#samples button").first.wait_for()
    drop(page, ship=SHIP, bad=b"no picture")
    page.locator(".result .problem").wait_for()
    page.locator(".why").click()
    page.locator(".said").wait_for(timeout=60_000)
    violations = axe.run(page).response["violations"]
    assert not [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in violations]


def test_everything_is_reached_by_keyboard_from_the_top(open_page: Open) -> None:
    page = open_page()
    page.locator("#samples button").first.wait_for()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached[:2] == ["key", "INPUT"]
    assert reached[-1] == "BUTTON"


def test_what_has_the_focus_is_not_behind_the_footer_of_a_low_window(open_page: Open) -> None:
    page = open_page(viewport={"width": 740, "height": 360})
    page.locator("#samples button").first.wait_for()
    page.locator(".score").wait_for()
    for _ in range(4 + page.locator("#samples button").count()):
        page.keyboard.press("Tab")
        top, footer = page.evaluate(
            "[document.activeElement, document.querySelector('footer')].map((e) => e.getBoundingClientRect().top)"
        )
        assert top < footer
