"""The messages of a channel in a real browser: looked at, downloaded, finished, requeued, published."""

from __future__ import annotations

import gzip
import json

import msgspec
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage, live, renewed
from tests.browser.looks import check_looks
from tests.browser.scene import Scene
from tests.browser.test_actions import confirm_by_typing, expect_toast
from tests.process.raw import RawClient
from tests.process.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]

PATH = "/messages/{}/c"
HOSTILE = "<script>document.title = 'broken'</script>"


def set_up(scene: Scene, topic: str, *bodies: bytes) -> None:
    """A channel with these messages on the first nsqd."""
    scene.cluster.create_channel(topic, "c")
    for body in bodies:
        assert scene.cluster.nsqds[0].request("POST", f"/pub?topic={topic}", body)[0] == 200


def opened(open_page: OpenPage, scene: Scene, topic: str, more: str = "") -> Page:
    """The page, from the channel's own one once that knows of the channel."""
    page = live(open_page(f"/topics/{topic}/c"))
    page.wait_for_selector("text=Messages >> nth=0")
    page.click("nav[aria-label='Messages by state'] >> text=Ready")
    page.wait_for_url(f"**{PATH.format(topic)}?state=ready")
    return live(page)


def test_messages_are_shown_decoded_and_downloaded(open_page: OpenPage, scene: Scene) -> None:
    packed = msgspec.msgpack.encode({"kind": "packed"})
    bodies = [b'{"order":{"id":7}}', HOSTILE.encode(), packed, gzip.compress(b'{"zipped":1}'), b"\x00\xff"]
    set_up(scene, "look.bodies", *bodies)
    page = opened(open_page, scene, "look.bodies")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(len(bodies))
    badges = [each.inner_text() for each in page.query_selector_all("tbody summary .badge")]
    assert badges == ["JSON", "text", "MessagePack", "JSON in gzip", "binary"]
    rows.nth(0).locator("summary").click()
    expect(rows.nth(0).locator("pre")).to_have_text('{\n  "order": {\n    "id": 7\n  }\n}')
    rows.nth(1).locator("summary").click()
    expect(rows.nth(1).locator("pre")).to_have_text(HOSTILE)
    with page.expect_download() as download:
        rows.nth(4).get_by_text("Download").click()
    assert download.value.path().read_bytes() == b"\x00\xff"
    counts = scene.cluster.nsqds[0].channel_stats("look.bodies", "c")
    assert (counts["depth"], counts["requeue_count"], counts["in_flight_count"]) == (len(bodies), 0, 0)
    check_looks(page, "messages")
    page.fill("#find-q", "order")
    page.press("#find-q", "Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("#content")).to_contain_text("looked at 5")


def test_a_stuck_message_is_requeued_and_finished(open_page: OpenPage, scene: Scene) -> None:
    set_up(scene, "look.stuck", b"stuck")
    nsqd = scene.cluster.nsqds[0]
    with RawClient.connect(nsqd.tcp_port) as client:
        client.identify(client_id="sticky", hostname="sticky.example", feature_negotiation=True)
        client.sub("look.stuck", "c")
        client.rdy(1)
        stuck = client.message()
        client.rdy(0)
        page = opened(open_page, scene, "look.stuck")
        page.click("nav[aria-label='Messages by state'] >> text=In flight")
        row = page.locator("tbody tr")
        expect(row).to_contain_text("sticky.example")
        expect(row).to_contain_text(stuck.id.decode())
        live(page)
        row.get_by_text("Requeue").click()
        page.click("#ask [data-part=ok]")
        expect_toast(page, "good", "requeued")
        expect(page.locator("tbody tr")).to_have_count(0)
        page.click("nav[aria-label='Messages by state'] >> text=Requeued")
        live(page)
        page.locator("tbody tr").get_by_text("Finish").click()
        confirm_by_typing(page, stuck.id.decode())
        expect_toast(page, "good", "finished")
        expect(page.locator("tbody tr")).to_have_count(0)
        assert nsqd.unfinished("look.stuck", "c") == 0


def test_a_message_is_given_up_put_back_and_moved(open_page: OpenPage, scene: Scene) -> None:
    set_up(scene, "look.give", b"bad")
    nsqd = scene.cluster.nsqds[0]
    page = opened(open_page, scene, "look.give")
    page.locator("tbody tr").get_by_text("Give up").click()
    page.click("#ask [data-part=ok]")
    expect_toast(page, "good", "given up")
    expect(page.locator("#dead-letters")).to_contain_text("1 in look.give.c.dead")
    page.fill("#redrive-rate", "10")
    check_looks(page, "dead letters")
    page.get_by_role("button", name="Put back").click()
    page.click("#ask [data-part=ok]")
    expect_toast(page, "good", "Dead letters are put back into channel c")
    wait_until(lambda: nsqd.unfinished("look.give", "c") == 1, 10.0, "it is back")
    page.click("text=Look again")
    expect(page.locator("#dead-letters")).to_contain_text("1 put back, done")
    row = page.locator("tbody tr")
    message_id = row.locator("th").inner_text()
    row.locator("summary").click()
    row.locator("input[name=to]").fill("look.moved")
    row.get_by_text("Move").click()
    expect(page.locator("#ask [data-part=title]")).to_contain_text("to topic look.moved?")
    confirm_by_typing(page, message_id)
    expect_toast(page, "good", "moved to topic look.moved")
    assert nsqd.unfinished("look.give", "c") == 0
    assert nsqd.request("GET", "/topic/peek?topic=look.moved")[1].count(b'"body":"bad"') == 1


def test_a_message_is_published(open_page: OpenPage, scene: Scene) -> None:
    set_up(scene, "look.publish", b"first")
    page = opened(open_page, scene, "look.publish")
    page.fill("#publish-body", '{"typed": "here"}')
    page.click("#publish button")
    expect_toast(page, "good", "Message published to topic look.publish")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.locator("tbody tr").nth(1).locator("summary").click()
    shown = page.locator("tbody tr").nth(1).locator("pre").inner_text()
    assert json.loads(shown) == {"typed": "here"}


def test_a_channel_is_moved_back(open_page: OpenPage, scene: Scene) -> None:
    set_up(scene, "look.replay", b"one", b"two")
    nsqd = scene.cluster.nsqds[0]
    with RawClient.connect(nsqd.tcp_port) as client:
        client.identify(feature_negotiation=True)
        client.sub("look.replay", "c")
        client.rdy(2)
        for _ in range(2):
            client.fin(client.message().id)
        page = opened(open_page, scene, "look.replay")
        expect(page.locator("tbody tr")).to_have_count(0)
        expect(page.locator("#replay li").first).to_contain_text("the first one")
        check_looks(page, "replay")
        page.fill("#seek-to", "start")
        page.click("#seek button")
        confirm_by_typing(page, "c")
        expect_toast(page, "good", "Channel c moved to start")
        assert [client.message().body for _ in range(2)] == [b"one", b"two"]


def test_the_page_stays_as_it_is_while_it_is_read(open_page: OpenPage, scene: Scene) -> None:
    set_up(scene, "look.still", b"first")
    page = opened(open_page, scene, "look.still")
    assert scene.cluster.nsqds[0].request("POST", "/pub?topic=look.still", b"second")[0] == 200
    other = live(open_page("/topics/look.still/c", beside=page))
    renewed(other, 2)
    expect(page.locator("tbody tr")).to_have_count(1)
    page.click("text=Look again")
    expect(page.locator("tbody tr")).to_have_count(2)
