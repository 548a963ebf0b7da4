"""Copies of a real nsqd on another one: shown while they are in step and not, and adopted when the leader is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, live
from tests.browser.looks import check_looks
from tests.browser.scene import Scene
from tests.browser.test_actions import confirm_by_typing, expect_toast
from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]

TOPIC, CHANNEL = "kept", "nobody"


@pytest.fixture
def pair(scene: Scene) -> Iterator[tuple[Daemon, Daemon]]:
    """Two additional nsqds, a leader and its follower, neither of which runs; they are removed afterwards."""
    address = f"{HOST}:{free_port()}"
    leader, follower = scene.cluster.add_nsqd(), scene.cluster.add_nsqd()
    leader.flags = (*leader.flags, f"--replicate-to={address}", "--replica-timeout=1s")
    ports = f"--stand-in-ports={free_port()}-{free_port()}"
    follower.flags = (*follower.flags, f"--replication-address={address}", ports)
    try:
        yield leader, follower
    finally:
        for nsqd in (follower, leader):  # a stand-in ends with the follower
            nsqd.kill()
            scene.cluster.nsqds.remove(nsqd)
        for registry in scene.cluster.registries:
            registry.request("POST", f"/topic/delete?topic={TOPIC}")


def test_a_copy_is_watched_and_adopted(
    open_page: OpenPage, scene: Scene, pair: tuple[Daemon, Daemon]
) -> None:
    leader, follower = pair
    leader.start()
    leader.create_channel(TOPIC, CHANNEL)
    assert leader.request("POST", f"/pub?topic={TOPIC}", b"hello")[0] == 200
    scene.cluster.wait_listed(TOPIC, [leader], within_s=5.0)

    page = live(open_page(f"/nodes/{HOST}:{leader.http_port}"))
    expect(page.locator("h1")).to_contain_text("1 of 2 copies")
    expect(page.locator("#followers tbody tr")).to_contain_text("out of step")
    check_looks(page, "copies-missing")
    follower.start()
    expect(page.locator("#followers tbody .badge")).to_have_text("in step")
    expect(page.locator("h1")).not_to_contain_text("copies")

    address = f"{HOST}:{follower.http_port}"
    scene.cluster.wait_known(scene.cluster.nsqds, within_s=5.0)
    page = live(open_page(f"/nodes/{address}"))
    held = page.locator("#held tbody tr")
    expect(held.locator(".badge")).to_have_text("connected")
    expect(held.locator("button")).to_have_count(0)
    [copy] = follower.stats()["copies"]["held"]
    body = json.dumps({"action": "adopt_copy", "life": copy["life"]}).encode()
    status, answer = scene.console.request("POST", f"/api/nodes/{address}", body)
    assert status == 409
    assert json.loads(answer)["message"] == f"REFUSED: its leader {leader.tcp_address} is connected"

    leader.kill()
    expect(held.locator(".badge")).to_contain_text("silent for")
    check_looks(page, "copies-held")
    held.get_by_text("Adopt", exact=True).click()
    confirm_by_typing(page, leader.tcp_address)
    expect_toast(page, "good", f"{address} adopts the copy of {leader.tcp_address}")
    expect(held.locator(".badge")).to_have_text("adopted")
    expect(held.locator("button")).to_have_count(0)

    held.locator("a.mono").click()
    expect(page.locator("h1")).to_contain_text(f"stand-in for {leader.tcp_address}")
    expect(page.locator(f'tbody[id="t-{TOPIC}"] .child .n').first).to_have_text("1")
    expect(page.locator(".actions")).to_have_count(0)
