"""A drain is begun, watched and cancelled; it is shown while it lasts, in light and dark, and no longer afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import WIDE, OpenPage, live
from tests.browser.looks import check_looks
from tests.browser.scene import Scene
from tests.browser.test_actions import confirm_by_typing, expect_toast
from tests.process.daemon import Daemon

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]

TOPIC, CHANNEL = "parting", "held"


@pytest.fixture
def leaving(scene: Scene) -> Iterator[Daemon]:
    """An additional nsqd with a message in a paused channel; it is removed afterwards."""
    nsqd = scene.cluster.add_nsqd()
    try:
        nsqd.start()
        nsqd.create_channel(TOPIC, CHANNEL)
        assert nsqd.request("POST", f"/channel/pause?topic={TOPIC}&channel={CHANNEL}")[0] == 200
        assert nsqd.request("POST", f"/pub?topic={TOPIC}", b"hello")[0] == 200
        scene.cluster.wait_listed(TOPIC, [nsqd], within_s=5.0)
        yield nsqd
    finally:
        nsqd.kill()
        scene.cluster.nsqds.remove(nsqd)
        for registry in scene.cluster.registries:
            registry.request("POST", f"/topic/delete?topic={TOPIC}")


def test_a_drain_is_begun_watched_and_cancelled(open_page: OpenPage, leaving: Daemon) -> None:
    address = f"127.0.0.1:{leaving.http_port}"
    page = live(open_page(f"/nodes/{address}"))
    page.click(".actions >> text=Drain")
    expect(page.locator("#ask")).to_contain_text(f"({address})?")
    confirm_by_typing(page, address)
    expect_toast(page, "good", f"{address} is draining")
    expect(page.locator("#drain")).to_contain_text("1 message is left.")
    expect(page.locator("#drain li")).to_contain_text("paused")
    assert leaving.request("GET", "/ping") == (200, b"OK - draining")

    page.click(".actions >> text=Cancel the drain")
    page.click("#ask [data-part=ok]")
    expect_toast(page, "good", f"The drain of {address} is cancelled")
    expect(page.locator("#drain")).to_have_count(0)
    assert leaving.request("GET", "/ping") == (200, b"OK")
    expect(page.locator(".actions button")).to_have_text("Drain")


def test_a_drain_is_shown_while_it_lasts(open_page: OpenPage, leaving: Daemon) -> None:
    address = f"127.0.0.1:{leaving.http_port}"
    nodes, front = live(open_page("/nodes")), live(open_page("/"))
    page = live(open_page(f"/nodes/{address}"))
    expect(page.locator("h1")).not_to_contain_text("draining")

    assert leaving.request("POST", "/drain")[0] == 200
    panel = page.locator("#drain")
    expect(panel).to_contain_text("This node is draining.")
    expect(panel).to_contain_text("1 message is left.")
    expect(panel.locator("li")).to_have_text(f"{TOPIC} / {CHANNEL} paused 1 message: unpause it")
    row = nodes.locator(f'tr[id="n-{address}"]')
    expect(row.locator(".badge.warn").first).to_have_text("draining, 1 left")
    expect(front.locator("#draining")).to_have_text("1 node draining")
    for name, each in {"node": page, "nodes": nodes, "front": front}.items():
        check_looks(each, f"draining-{name}")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    panel.locator("a").click()
    expect(page.locator(f'tr[id="n-{address}"] .badge', has_text="draining")).to_be_visible()

    for action in ("unpause", "empty"):
        assert leaving.request("POST", f"/channel/{action}?topic={TOPIC}&channel={CHANNEL}")[0] == 200
    assert leaving.wait(10) == 0
    expect(front.locator("#draining")).to_have_count(0)
    expect(row).to_have_count(0)
    page.goto(page.url.partition("/topics")[0] + f"/nodes/{address}")
    expect(page.locator("#content")).to_contain_text("No such node")
    expect(page.locator("#drain")).to_have_count(0)
