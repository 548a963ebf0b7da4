"""Checks of how a page looks: in light and dark, on a wide screen and a phone, and for assistive technology."""

from __future__ import annotations

from typing import Literal

from playwright.sync_api import Page

from tests.browser.conftest import ARTEFACTS, AXE, PHONE, WIDE

__all__ = ["check_looks", "is_wider_than_the_screen"]

LOOKS: tuple[tuple[str, Literal["light", "dark"], tuple[int, int]], ...] = (
    ("light", "light", WIDE),
    ("dark", "dark", WIDE),
    ("phone", "dark", PHONE),
)
AXE_RUN = """async () => {
    const {violations} = await axe.run();
    return violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html} ${node.failureSummary}`));
}"""


def check_looks(page: Page, name: str) -> None:
    """Check that the page is accessible and fits the screen; keeps screenshots of it under this name."""
    page.evaluate(AXE.read_text())
    ARTEFACTS.mkdir(exist_ok=True)
    for look, scheme, (width, height) in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        if page.query_selector("figure[data-chart]"):
            page.wait_for_selector(".plot canvas")
        page.screenshot(path=ARTEFACTS / f"{name}-{look}.png", full_page=True)
        assert page.evaluate(AXE_RUN) == [], (name, look)
        assert not is_wider_than_the_screen(page), (name, look)


def is_wider_than_the_screen(page: Page) -> bool:
    """Whether the page scrolls sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))
