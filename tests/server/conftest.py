"""What the server's tests share."""

import base64
import contextlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.running import HTTP, RunningService, running_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, JSHandle, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEY = "typed-into-the-page"
ROOT = Path(__file__).parents[2]
STATIC, SAMPLES = ROOT / "server" / "static", ROOT / "server" / "samples"
SHIP = (ROOT / "docs" / "ship.png").read_bytes()

Open = Callable[..., "Page"]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The command sets up logging for a process of its own; these tests share one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "keys").write_text(f"{KEY}\n")
    flags = ("--checkpoint", "strong", "--api-keys-file", str(folder / "keys"), "--max-body-bytes", "1000000")
    with running_service(folder, *flags) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright_of = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with playwright_of.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(service: RunningService, browser: "Browser") -> Iterator[Open]:
    """Call it for a tab with the page. Whatever its scripts or its security policy complain of fails the test."""
    complaints: list[str] = []

    def note(message: Any) -> None:
        if "Content Security Policy" in message.text:
            complaints.append(message.text)

    with contextlib.ExitStack() as tabs:

        def open_page(key: str = KEY, **options: Any) -> "Page":
            context = browser.new_context(**options)
            tabs.callback(context.close)
            if key:
                context.add_init_script(f"sessionStorage.setItem('cifar-api-key', '{key}')")
            page = context.new_page()
            page.on("console", note)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: outside(request.url))
            page.goto(service.url)
            return page

        def outside(url: str) -> None:
            if not url.startswith((f"{service.url}/", "blob:")):
                complaints.append(f"it asked another host: {url}")

        yield open_page
        assert not complaints


def transfer(page: "Page", files: dict[str, bytes]) -> "JSHandle":
    """What a drop or a paste carries."""
    encoded = [[name, base64.b64encode(content).decode()] for name, content in files.items()]
    return page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, content] of files)
                transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
            return transfer;
        }""",
        encoded,
    )


def drop(page: "Page", **files: bytes) -> None:
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer(page, files)})


def shown_bars(page: "Page") -> dict[str, str]:
    rows = page.locator(".result .bars li").all()
    return {row.locator(".label").inner_text(): row.locator("b").inner_text() for row in rows}


def counted_images(service: RunningService) -> float:
    page = HTTP.get(f"{service.url}/metrics").text
    return float(re.findall(r"^cifar_images_total (\S+)", page, re.MULTILINE)[0])
