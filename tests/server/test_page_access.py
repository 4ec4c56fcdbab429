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


def test_axe_finds_no_fault_by_day_or_night(open_page: Open) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(bypass_csp=True, reduced_motion="reduce")  # axe is injected; no colour is between two others
    page.locator(".score").wait_for()
    page.locator("#samples button").first.wait_for()
    drop(page, ship=SHIP, bad=b"no picture")
    page.locator(".result .problem").wait_for()
    page.locator(".why").click()
    page.locator(".said").wait_for(timeout=60_000)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        violations = axe.run(page).response["violations"]
        assert not [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in violations], scheme


def test_everything_is_reached_by_keyboard_in_order_and_not_behind_the_footer_of_a_low_window(open_page: Open) -> None:
    page = open_page(viewport={"width": 740, "height": 360})
    page.locator("#samples button").first.wait_for()
    page.locator(".score").wait_for()
    reachable = (
        "[...document.querySelectorAll('a, button, input, summary, [tabindex]')].filter(e => e.checkVisibility())"
    )
    count = page.evaluate(f"{reachable}.length")
    assert count == 3 + page.locator("#samples button").count()
    for number in range(count):
        page.keyboard.press("Tab")
        assert page.evaluate(f"{reachable}.indexOf(document.activeElement)") == number
        focused, footer = page.evaluate(
            "[document.activeElement, document.querySelector('footer')].map((e) => e.getBoundingClientRect())"
        )
        assert focused["top"] < footer["top"]
        assert focused["bottom"] <= footer["top"] or focused["height"] > footer["top"], "unless it is too large"
