"""Every page, in light and dark, on a wide screen and a phone: it is accessible, and fits the screen."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OpenPage, live
from tests.browser.looks import check_looks
from tests.browser.scene import Scene

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]

PAGES = {
    "front": "/",
    "front-found-nothing": "/?q=nothing-of-this-name",
    "topic": "/topics/payments",
    "topic-unknown": "/topics/not-yet-there",
    "channel": "/topics/webhooks/deliver",
    "channel-ephemeral": "/topics/clickstream/metrics%23ephemeral",
    "channel-idle": "/topics/invoices/archive",
    "nodes": "/nodes",
    "node": "/nodes/{node}",
    "alarms": "/alarms",
    "audit": "/audit",
    "audit-filtered": "/audit?what=create&since=1h",
    "audit-found-nothing": "/audit?who=nobody",
    "lookup": "/lookup",
    "counter": "/counter",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits(scene: Scene, open_page: OpenPage, name: str) -> None:
    node = f"127.0.0.1:{scene.cluster.nsqds[0].http_port}"
    page = live(open_page(PAGES[name].format(node=node)))
    if name in ("front", "alarms"):
        page.wait_for_selector(".alarms li")
    check_looks(page, name)


def test_controls_can_be_reached_with_the_keyboard(open_page: OpenPage) -> None:
    page = live(open_page("/"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    missing = {"Nodes", "Lookup", "Counter", "1 h", "q", "Depth", "orders"}
    for _ in range(80):  # with alarms there are more links before the table
        page.keyboard.press("Tab")
        missing.discard(
            page.evaluate("(document.activeElement.textContent || document.activeElement.name).trim()")
        )
    assert not missing


def test_pages_can_be_read_without_scripts(open_page: OpenPage) -> None:
    page = open_page("/?sort=name", java_script_enabled=False)
    names = [each.inner_text() for each in page.query_selector_all("tbody th a")]
    assert "orders" in names
    page.click("thead >> text=Messages")
    assert page.get_attribute("th[aria-sort]", "aria-sort") == "descending"
    page.fill("input[type=search]", "CLICK")
    page.press("input[type=search]", "Enter")
    assert [each.inner_text() for each in page.query_selector_all("tbody th a")] == ["clickstream"]


def test_the_first_load_is_small(open_page: OpenPage, scene: Scene) -> None:
    sizes: dict[str, int] = {}
    page = open_page("about:blank", home="", watched=False)
    page.on(
        "response",
        lambda response: sizes.update({response.url: int(response.headers.get("content-length", 0))}),
    )
    page.goto(scene.url("/"))
    live(page)
    assert len(sizes) >= 9
    assert sum(sizes.values()) < 140_000, sizes
