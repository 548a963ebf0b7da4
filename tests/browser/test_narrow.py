"""On a phone: no page scrolls sideways, tables keep their main columns, names are broken between their parts."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import OpenPage, live
from tests.browser.looks import is_wider_than_the_screen
from tests.browser.scene import Scene

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]

PARTS = "narrow.europe-west.checkout_service.order-confirmation.delivery"
LETTERS = "narrow" + "x" * 58
CHANNEL = "emailNotifications.retry-after-failure_with-backoff-of-an-hour"
WIDTHS = (360, 375, 400)
LINES = """(element) => {
    const texts = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) texts.push(node);
    let shown = "", top = null;
    for (const node of texts) {
        for (let n = 0; n < node.length; n += 1) {
            const range = document.createRange();
            range.setStart(node, n);
            range.setEnd(node, n + 1);
            const box = range.getClientRects()[0];
            if (!box) continue;
            if (top !== null && box.top > top + 4) shown += "\\n";
            top = box.top;
            shown += node.data[n];
        }
    }
    return shown.split("\\n");
}"""
"""The text of an element in lines, as they are on the screen."""


@pytest.fixture(scope="module")
def long_names(scene: Scene) -> Iterator[None]:
    """Topics and channels with names of 64 characters or a little less."""
    names = [(PARTS, CHANNEL), (LETTERS, LETTERS)]
    nsqd = scene.cluster.nsqds[0]
    for topic, channel in names:
        scene.cluster.create_channel(topic, channel)
        assert nsqd.request("POST", f"/pub?topic={topic}", b"hello")[0] == 200
    yield
    for topic, _ in names:
        for daemon in (*scene.cluster.nsqds, *scene.cluster.registries):
            daemon.request("POST", f"/topic/delete?topic={topic}")


def visible_heads(table: Locator) -> list[str]:
    """The titles of the columns that can be seen without scrolling."""
    box = table.locator("xpath=..").bounding_box()
    assert box is not None
    found = []
    for head in table.locator("thead th").all():
        place = head.bounding_box()
        if place is not None and place["x"] + place["width"] <= box["x"] + box["width"] + 1:
            found.append(head.inner_text())
    return found


@pytest.mark.usefixtures("long_names")
def test_tables_keep_depth_and_rate_and_nothing_is_wider_than_the_screen(
    open_page: OpenPage, scene: Scene
) -> None:
    page = live(open_page("/?q=narrow"))
    node = f"/nodes/127.0.0.1:{scene.cluster.nsqds[0].http_port}"
    for path, heads in (
        ("/?q=narrow", ["Topic", "Depth", "In /s", "Out /s"]),
        (f"/topics/{PARTS}", ["Channel", "Depth", "Out /s"]),
        (f"/topics/{LETTERS}", ["Channel", "Depth", "Out /s"]),
        (f"/topics/{PARTS}/{CHANNEL}", ["Node", "Depth", "In flight"]),
        (f"/topics/{LETTERS}/{LETTERS}", ["Node", "Depth", "In flight"]),
        ("/nodes", ["Node", "Depth", "In /s", "Consumers"]),
        (f"{node}?q=narrow", ["Topic", "Depth", "In flight"]),
    ):
        page.goto(scene.url(path))
        expect(page.locator("tbody").first).to_be_visible()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert visible_heads(page.locator("table").first)[: len(heads)] == heads, (path, width)
            assert not is_wider_than_the_screen(page), (path, width)


def test_the_navigation_is_one_line(open_page: OpenPage) -> None:
    page = live(open_page("/"))
    links = page.locator(".top nav a")
    assert links.count() == 6
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        for link in links.all():
            place = link.bounding_box()
            assert place is not None
            assert place["x"] + place["width"] <= width, (link.inner_text(), width)
            assert len(link.evaluate(LINES)) == 1, (link.inner_text(), width)


@pytest.mark.usefixtures("long_names")
def test_names_are_broken_between_their_parts(open_page: OpenPage, scene: Scene) -> None:
    page = live(open_page("/?q=narrow", size=(375, 800)))
    for path, place, name in (
        ("/?q=narrow", f"tbody a[href$='{PARTS}']", PARTS),
        (f"/topics/{PARTS}", "h1", PARTS),
        (f"/topics/{PARTS}", "tbody th a", CHANNEL),
        (f"/topics/{PARTS}/{CHANNEL}", ".crumbs li:last-child a", PARTS),
        (f"/topics/{PARTS}/{CHANNEL}", "h1", CHANNEL),
    ):
        page.goto(scene.url(path))
        lines: list[str] = page.locator(place).first.evaluate(LINES)
        shown = "".join(lines)
        assert shown.startswith(name), (path, place)
        assert len(lines) > 1, (path, place)
        for line in lines[:-1]:
            assert line.endswith((".", "-", "_", " ", "email")), (path, place, lines)


@pytest.mark.usefixtures("long_names")
def test_a_dialog_shows_a_long_name_whole(open_page: OpenPage) -> None:
    page = live(open_page(f"/topics/{quote(LETTERS)}", size=(360, 800)))
    page.click(".actions >> text=Delete")
    for part in ("title", "name"):
        place = page.locator(f"#ask [data-part={part}]")
        expect(place).to_contain_text(LETTERS)
        assert place.evaluate("(each) => each.scrollWidth <= each.closest('dialog').clientWidth")
    assert not is_wider_than_the_screen(page)
