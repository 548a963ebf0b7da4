"""One cluster, one console and one Chromium for all tests of this folder; pages report what goes wrong in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from tests.browser.admin import AdminDaemon
from tests.browser.scene import Scene, find_chromium
from tests.timing import patience

AXE = Path(__file__).parent / "vendored" / "axe.min.js"
ARTEFACTS = Path(__file__).parents[1] / "artefacts"
WAIT_S = 10.0

WIDE = (1320, 900)
PHONE = (390, 844)


@attrs.define(eq=False, slots=False)  # Playwright hangs things on whoever listens
class Watch:
    """What a page did that it should not have done."""

    home: str
    errors: list[str] = attrs.field(factory=list)

    def look_at(self, page: Page) -> None:
        """Listen to everything that the page does from now on."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(f"crashed: {error}"))
        page.on("request", self._follow)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def _follow(self, request: Request) -> None:
        if not request.url.startswith((self.home + "/", "data:")):
            self.errors.append(f"asked a stranger: {request.url}")


@pytest.fixture(
    scope="package"
)  # a browser that stays would keep an event loop running, in the way of others
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster with traffic, and a console for it."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium, or name one in CHROMIUM")
    with Scene(tmp_path_factory.mktemp("scene"), ("--poll-interval=500ms",)) as scene:
        yield scene


@pytest.fixture(
    scope="package"
)  # a browser that stays would keep an event loop running, in the way of others
def browser(scene: Scene) -> Iterator[Browser]:
    """A Chromium."""
    with scene.browser() as browser:
        yield browser


OpenPage = Callable[..., Page]
StartConsole = Callable[..., AdminDaemon]


@pytest.fixture
def start_console(scene: Scene) -> Iterator[StartConsole]:
    """Starts more consoles for the same cluster, with these flags; they end after all pages."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> AdminDaemon:
            console = scene.start_console(*flags)
            stack.callback(console.kill)
            return console

        yield start


@pytest.fixture
def open_page(scene: Scene, browser: Browser, start_console: object) -> Iterator[OpenPage]:
    """Opens pages: `open_page("/nodes", scheme="dark", size=PHONE)`. At the end, none of them may have misbehaved.

    `home` is another console than the usual one; `watched=False` is for tests that break things on purpose. What is
    given besides goes to Playwright.
    """
    pages: list[Page] = []
    watches: list[Watch] = []

    def open_one(
        path: str,
        *,
        scheme: Literal["light", "dark"] = "light",
        size: tuple[int, int] = WIDE,
        home: str = scene.url(""),
        watched: bool = True,
        **more: Any,
    ) -> Page:
        more.setdefault("reduced_motion", "reduce")
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, **more)
        page.set_default_timeout(1000 * patience(WAIT_S))
        expect.set_options(timeout=1000 * patience(WAIT_S))
        pages.append(page)
        if watched:
            watches.append(Watch(home))
            watches[-1].look_at(page)
        page.goto(home + path)
        return page

    yield open_one
    for page in pages:
        page.close()
    assert [error for watch in watches for error in watch.errors] == []


def live(page: Page) -> Page:
    """Wait until the page hears of the cluster."""
    page.wait_for_selector("#pulse[data-state=live]")
    return page


def renewed(page: Page, times: int = 2) -> None:
    """Wait until the page has renewed itself so often."""
    page.evaluate(
        """(times) => new Promise((done) => {
            document.addEventListener("console:updated", () => { times -= 1; if (times === 0) done(); });
        })""",
        times,
    )
