"""One cluster, one console and one Chromium for all tests of this folder; errors in a page fail its test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import attrs
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    expect,
)

from tests.browser.admin import AdminDaemon
from tests.browser.scene import Scene, find_chromium
from tests.timing import patience

AXE = Path(__file__).parent / "vendored" / "axe.min.js"
ARTEFACTS = Path(__file__).parents[1] / "artefacts"
WAIT_S = 10.0

WIDE = (1320, 900)
PHONE = (390, 844)


@attrs.define(eq=False, slots=False)  # Playwright sets attributes on listeners
class Watch:
    """The errors of a page."""

    home: str
    errors: list[str] = attrs.field(factory=list)

    def watch(self, page: Page) -> None:
        """Record the errors of this page."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(f"crashed: {error}"))
        page.on("request", self._follow)

    def _hear(self, message: ConsoleMessage) -> None:
        if "404" in message.text and urlsplit(message.location["url"]).path.startswith(
            ("/topics/", "/nodes/")
        ):
            return  # the page of something that does not exist, yet or any more: browsers note the status
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def _follow(self, request: Request) -> None:
        if not request.url.startswith((self.home + "/", "data:")):
            self.errors.append(f"request to another host: {request.url}")


# A browser of the whole session would keep an event loop running, which disturbs other tests.
@pytest.fixture(scope="package")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster with traffic, and a console for it."""
    if find_chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM")
    flags = ("--poll-interval=500ms", "--alarm-no-consumer-after=1s", "--alarm-clear-after=1s")
    with Scene(tmp_path_factory.mktemp("scene"), flags) as scene:
        yield scene


# A browser of the whole session would keep an event loop running, which disturbs other tests.
@pytest.fixture(scope="package")
def browser(scene: Scene) -> Iterator[Browser]:
    """A Chromium."""
    with scene.browser() as browser:
        yield browser


OpenPage = Callable[..., Page]
StartConsole = Callable[..., AdminDaemon]


@pytest.fixture
def start_console(scene: Scene) -> Iterator[StartConsole]:
    """Starts further consoles for the same cluster, with these flags; they are stopped after all pages are closed."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> AdminDaemon:
            console = scene.start_console(*flags)
            stack.callback(console.kill)
            return console

        yield start


@pytest.fixture
def open_page(scene: Scene, browser: Browser, start_console: object) -> Iterator[OpenPage]:
    """Opens pages: `open_page("/nodes", scheme="dark", size=PHONE)`. At the end, none of them may have had an error.

    `home` is the address of another console; `watched=False` is for tests with expected errors. With `beside`, it is
    one more window of that page's browser; otherwise other arguments are passed to Playwright.
    """
    contexts: list[BrowserContext] = []
    watches: list[Watch] = []

    def open_one(
        path: str,
        *,
        scheme: Literal["light", "dark"] = "light",
        size: tuple[int, int] = WIDE,
        home: str = scene.url(""),
        watched: bool = True,
        beside: Page | None = None,
        **more: Any,
    ) -> Page:
        more.setdefault("reduced_motion", "reduce")
        if beside is None:
            viewport: ViewportSize = {"width": size[0], "height": size[1]}
            contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme, **more))
        page = (beside.context if beside else contexts[-1]).new_page()
        page.set_default_timeout(1000 * patience(WAIT_S))
        expect.set_options(timeout=1000 * patience(WAIT_S))
        if watched:
            watches.append(Watch(home))
            watches[-1].watch(page)
        page.goto(home + path)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [error for watch in watches for error in watch.errors] == []


def live(page: Page) -> Page:
    """Wait until the page updates itself."""
    page.wait_for_selector("#pulse[data-state=live]")
    return page


def renewed(page: Page, times: int = 2) -> None:
    """Wait until the page has updated itself so many times."""
    page.evaluate(
        """(times) => new Promise((done) => {
            document.addEventListener("console:updated", () => { times -= 1; if (times === 0) done(); });
        })""",
        times,
    )
