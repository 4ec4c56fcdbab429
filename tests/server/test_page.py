"""The page at `/` in a real browser, on the real service: by mouse and keyboard, on a phone, and to axe.

Axe looks for what keeps people out.
"""

import re
from pathlib import Path

import httpx
import pytest

from tests.integration.running import HTTP, RunningService, wait_until
from tests.pictures import draw_flat, encode
from tests.server.conftest import KEY, SAMPLES, SHIP, STATIC, Open, counted_images, drop, shown_bars, transfer


def test_a_dropped_picture_is_shown_as_the_model_sees_it_with_what_predict_says(
    service: RunningService, open_page: Open
) -> None:
    page = open_page()
    drop(page, ship=SHIP)
    page.locator(".result h3").wait_for()
    answer = HTTP.post(f"{service.url}/predict?top_k=10", content=SHIP, headers={"X-API-Key": KEY}).json()
    assert answer["label"] == "ship"
    assert shown_bars(page) == {each["label"]: f"{each['probability']:.1%}" for each in answer["top"]}
    assert page.locator(".result h3").inner_text() == f"ship {answer['confidence']:.1%}"
    details = page.locator(".result .details").inner_text()
    assert re.fullmatch(rf"ship · [\d.,]+ ms · model {answer['model']['version']}", details)
    assert page.locator(".seen").evaluate("(picture) => [picture.naturalWidth, picture.naturalHeight]") == [32, 32]
    assert page.locator("#announcer").inner_text() == f"ship: ship, {answer['confidence']:.1%}"


def test_pictures_are_pasted_and_chosen_several_at_a_time_in_their_order(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(SHIP)
    page.locator("#drop input").first.set_input_files([tmp_path / "one.png", tmp_path / "two.png"])
    page.locator(".result h3").nth(1).wait_for()
    assert [text[:7] for text in page.locator(".details").all_inner_texts()] == ["one.png", "two.png"]
    page.evaluate(
        "(data) => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))",
        transfer(page, {"three": SHIP}),
    )
    page.locator(".result h3").nth(2).wait_for()
    assert page.locator(".details").first.inner_text().startswith("three")


def test_a_bad_picture_is_told_in_the_services_own_words(service: RunningService, open_page: Open) -> None:
    page = open_page()
    drop(page, cut=SHIP[:1000])
    told = page.locator(".result .problem")
    refusal = HTTP.post(f"{service.url}/predict", content=SHIP[:1000], headers={"X-API-Key": KEY}).json()
    told.wait_for()
    assert told.inner_text() == refusal["detail"]
    assert page.locator(".result .details").inner_text() == "cut"
    assert page.locator("#announcer").inner_text() == f"cut: {refusal['detail']}"
    assert not page.get_by_role("button", name="Try again").count(), "it would be refused again"
    drop(page, large=b"\xff\xd8" + bytes(1_500_000))
    page.locator(".result .problem", has_text="1,000,000 bytes, the largest that is allowed").wait_for()
    drop(page, empty=b"")
    page.locator(".result .problem", has_text="the image is empty").wait_for()
    drop(page)
    page.locator("#problem", has_text="not a picture file").wait_for()


def test_an_answer_that_the_service_is_unsure_of_says_so_aloud_too(service: RunningService, open_page: Open) -> None:
    green = encode(draw_flat(4, 0))
    answer = HTTP.post(f"{service.url}/predict", content=green, headers={"X-API-Key": KEY}).json()
    assert answer["uncertain"]
    page = open_page()
    drop(page, green=green)
    page.locator(".result h3").wait_for()
    said = f"{answer['confidence']:.1%}, not sure"
    assert page.locator(".result h3").inner_text() == f"{answer['label']} {said}"
    assert page.locator("#announcer").inner_text() == f"green: {answer['label']}, {said}"


def test_an_explanation_comes_on_demand_and_counts_as_no_prediction(service: RunningService, open_page: Open) -> None:
    page = open_page()
    drop(page, ship=SHIP)
    page.locator(".why").focus()
    images = counted_images(service)
    page.keyboard.press("Enter")
    said = page.locator(".said")
    said.wait_for(timeout=60_000)
    assert re.search(r"make ship likelier.* from \d+\.\d% to \d+\.\d%", said.inner_text())
    assert page.locator("canvas").evaluate("(canvas) => [canvas.width, canvas.height]") == [16, 16]
    alphas = "(c) => [...c.getContext('2d').getImageData(0, 0, 16, 16).data].filter((_, i) => i % 4 == 3)"
    assert max(page.locator("canvas").evaluate(alphas)) > 100
    assert counted_images(service) == images


def test_our_drawings_are_offered_and_are_what_they_are_called(open_page: Open) -> None:
    page = open_page()
    samples = page.locator("#samples button")
    samples.first.wait_for()
    names = [picture.get_attribute("alt") for picture in page.locator("#samples img").all()]
    assert names == [path.stem for path in sorted(SAMPLES.iterdir())]
    samples.evaluate_all("(buttons) => buttons.forEach((button) => button.click())")
    page.locator(".result h3").nth(len(names) - 1).wait_for()
    said = [text.split()[0] for text in page.locator(".result h3").all_inner_texts()]
    assert said == names[::-1]


def test_the_card_is_shown_with_its_interval_its_classes_and_its_confusions(
    service: RunningService, open_page: Open
) -> None:
    page = open_page()
    scores = HTTP.get(f"{service.url}/card", headers={"X-API-Key": KEY}).json()["card"]["scores"]
    model = page.locator("#model")
    model.locator(".score", has_text=f"{scores['accuracy']:.1%}").wait_for()
    low, high = scores["interval"]
    assert f"{low:.1%} to {high:.1%}" in model.inner_text()
    assert f"{scores['n']:,} held-out" in model.inner_text()
    assert model.locator(".bars b").all_inner_texts() == [f"{right:.1%}" for right in scores["per_class"].values()]
    cells = [int(text or 0) for text in model.locator("tbody td").all_inner_texts()]
    assert cells == [count for row in scores["confusion"] for count in row]


def test_the_key_is_asked_for_and_remembered_for_the_tab(open_page: Open) -> None:
    page = open_page(key="")
    page.locator("#problem", has_text="needs a valid API key").wait_for()
    page.keyboard.type("wrong")  # the field has the focus
    page.keyboard.press("Enter")
    drop(page, ship=SHIP)
    page.locator(".result .problem", has_text="needs a valid API key").wait_for()
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    page.locator(".score").wait_for()
    assert page.locator("#problem").is_hidden()
    page.reload()
    page.locator(".score").wait_for()
    assert page.locator("#key").input_value() == KEY
    other_tab = page.context.new_page()
    other_tab.goto(page.url)
    other_tab.locator("#problem", has_text="needs a valid API key").wait_for()


def test_a_key_is_taken_where_the_browser_stores_nothing(open_page: Open) -> None:
    page = open_page(key="")
    blocked = "get() { throw new DOMException('blocked', 'SecurityError'); }"
    page.add_init_script(f"Object.defineProperty(window, 'sessionStorage', {{ {blocked} }})")
    page.reload()
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    page.locator(".score").wait_for()


def test_a_service_that_is_gone_is_told_and_its_return_is_noticed(open_page: Open) -> None:
    page = open_page()
    page.locator(".score").wait_for()
    page.context.set_offline(True)
    page.locator("#health", has_text="does not answer").wait_for()
    drop(page, ship=SHIP)
    page.locator(".result .problem", has_text="does not answer").wait_for()
    page.context.set_offline(False)
    page.locator("#figures").wait_for()
    assert page.locator("#health").inner_text() == ""
    page.get_by_role("button", name="Try again").click()
    page.locator(".result h3", has_text="ship").wait_for()


def test_the_strip_shows_the_services_own_figures(open_page: Open) -> None:
    page = open_page()
    figures = page.locator("#figures dd")
    figures.first.wait_for()
    drop(page, ship=SHIP)
    wait_until(lambda: figures.nth(1).inner_text() == "1")
    assert float(figures.nth(0).inner_text()) > 0
    assert all(re.fullmatch(r"[\d.,]+ ms", figures.nth(number).inner_text()) for number in (2, 3))


def test_it_speaks_chinese_to_who_reads_chinese(open_page: Open) -> None:
    page = open_page(locale="zh-CN")
    drop(page, ship=SHIP)
    page.locator(".result h3").wait_for()
    page.locator(".score").wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.locator("h1").inner_text() == "这个网络看到了什么？"
    assert page.locator(".result h3").inner_text().startswith("船 ship ")
    assert "毫秒" in page.locator(".details").inner_text()


def test_the_page_is_small_and_needs_no_key_but_what_it_asks_does(service: RunningService) -> None:
    files = [*STATIC.iterdir(), *SAMPLES.iterdir()]
    assert sum(path.stat().st_size for path in files) < 100_000
    for path in ["/", *(f"/static/{file.name}" for file in STATIC.iterdir())]:
        answer = HTTP.get(f"{service.url}{path}")
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert HTTP.head(f"{service.url}{path}").headers["Content-Length"] == str(len(answer.content))
        again = HTTP.get(f"{service.url}{path}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
    for path in ("/static/none.js", "/static/../page.py", "/static/%2e%2e%2fpage.py"):
        assert HTTP.get(f"{service.url}{path}").status_code in (401, 404)
    for path in ("/card", "/samples", "/samples/ship.svg"):
        assert HTTP.get(f"{service.url}{path}").status_code == 401
        assert HTTP.get(f"{service.url}{path}", headers={"X-API-Key": KEY}).status_code == 200
    for path in ("/preview", "/explain"):
        assert HTTP.post(f"{service.url}{path}", content=SHIP).status_code == 401


def test_without_a_key_nothing_is_open_but_probes_metrics_and_the_page(service: RunningService) -> None:
    with httpx.Client(base_url=service.url) as http:
        paths = http.get("/openapi.json", headers={"X-API-Key": KEY}).json()["paths"]
        assert {"/predict", "/v2/repository/models/{name}/load", "/explain"} <= set(paths)
        opened = {
            path for path, methods in paths.items() for method in methods if http.request(method, path).is_success
        }
        assert opened == {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"}
        assert http.get("/").is_success
        for path in ("/docs", "/openapi.json", "/nothing"):
            assert http.get(path).status_code == 401, path


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_nothing_is_wider_than_a_phone(open_page: Open, locale: str) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, locale=locale)
    page.locator(".score").wait_for()
    drop(page, **{"a-very-long-name-of-a-file-without-a-single-space" * 3: SHIP, "bad": b"no picture"})
    page.locator(".result .problem").wait_for()
    page.locator(".result h3").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


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
