"""What an administrator can do: each asks first, does it on the real cluster, and says what came of it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage, StartConsole, live, renewed
from tests.browser.scene import Scene

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]


def publish(scene: Scene, topic: str, count: int = 1) -> None:
    """Publish to the first two nsqds."""
    for nsqd in scene.cluster.nsqds[:2]:
        for _ in range(count):
            assert nsqd.request("POST", f"/pub?topic={topic}", b"hello")[0] == 200


def confirm_by_typing(page: Page, name: str) -> None:
    """Confirm an action that cannot be undone."""
    ok = page.locator("#ask [data-part=ok]")
    expect(ok).to_be_disabled()
    page.fill("#ask-typed", name[:-1])
    expect(ok).to_be_disabled()
    page.fill("#ask-typed", name)
    page.press("#ask-typed", "Enter")


def expect_toast(page: Page, kind: str, text: str) -> None:
    """Wait for the result."""
    expect(page.locator(f"#toasts .notice.{kind}").last).to_contain_text(text)


def test_topics_and_channels_are_created_in_and_deleted_from_the_registries(
    open_page: OpenPage, scene: Scene
) -> None:
    page = live(open_page("/lookup"))
    page.fill("#create-topic", "made.here")
    page.fill("#create-channel", "one")
    renewed(page)  # a form that is being filled in is kept
    page.click("#create button")
    expect_toast(page, "good", "Channel one of topic made.here created")
    tree = page.locator("ul.tree > li", has_text="made.here")
    expect(tree).to_contain_text("one")
    assert all(registry.channels("made.here") == ["one"] for registry in scene.cluster.registries)

    tree.get_by_label("Delete channel one?").click()
    confirm_by_typing(page, "one")
    expect_toast(page, "good", "Channel one deleted")
    expect(tree).not_to_contain_text("one")

    tree.get_by_label("Delete topic made.here?").click()
    confirm_by_typing(page, "made.here")
    expect_toast(page, "good", "Topic made.here deleted")
    expect(tree).to_have_count(0)
    assert all("made.here" not in registry.topics() for registry in scene.cluster.registries)


def test_an_invalid_name_is_refused_before_it_is_sent(open_page: OpenPage) -> None:
    page = live(open_page("/lookup"))
    page.fill("#create-topic", "no spaces")
    page.click("#create button")
    assert page.evaluate("document.getElementById('create-topic').validity.patternMismatch")
    expect(page.locator("#toasts .notice")).to_have_count(0)


def test_a_topic_is_paused_emptied_and_deleted(open_page: OpenPage, scene: Scene) -> None:
    publish(scene, "act.topic", 3)
    nsqd = scene.cluster.nsqds[0]
    page = live(open_page("/topics/act.topic"))
    expect(page.locator("h1")).to_contain_text("no channel")

    page.click(".actions >> text=Pause")
    page.keyboard.press("Escape")
    expect(page.locator("#ask")).to_be_hidden()
    page.click(".actions >> text=Pause")
    page.click("#ask [data-part=ok]")
    expect_toast(page, "good", "Topic act.topic paused")
    expect(page.locator("h1")).to_contain_text("paused")
    page.click(".actions >> text=Unpause")
    page.click("#ask [data-part=ok]")
    expect_toast(page, "good", "Topic act.topic unpaused")
    expect(page.locator("h1")).not_to_contain_text("paused")

    depth = page.locator(".tiles > div", has_text="Depth").locator("dd").first
    expect(depth).to_have_text("6")
    page.click(".actions >> text=Empty")
    confirm_by_typing(page, "act.topic")
    expect_toast(page, "good", "Topic act.topic emptied")
    expect(depth).to_have_text("0")

    page.click(".actions >> text=Delete")
    confirm_by_typing(page, "act.topic")
    page.wait_for_url(scene.url("/"))
    expect_toast(page, "good", "Topic act.topic deleted")
    expect(page.locator("tbody th a", has_text="act.topic")).to_have_count(0)
    assert "act.topic" not in [each["topic_name"] for each in nsqd.stats()["topics"]]


def test_a_channel_is_paused_emptied_and_deleted(open_page: OpenPage, scene: Scene) -> None:
    scene.cluster.create_channel("act.channel", "c#ephemeral".replace("#", "%23"))
    publish(scene, "act.channel", 2)
    page = live(open_page("/topics/act.channel/c%23ephemeral"))
    depth = page.locator(".tiles > div", has_text="Depth").locator("dd").first
    expect(depth).to_have_text("4")

    page.click(".actions >> text=Pause")
    page.click("#ask [data-part=ok]")
    expect_toast(page, "good", "Channel c#ephemeral paused")
    expect(page.locator("h1")).to_contain_text("paused")
    assert scene.cluster.nsqds[1].channel_stats("act.channel", "c#ephemeral")["paused"]

    page.click(".actions >> text=Empty")
    confirm_by_typing(page, "c#ephemeral")
    expect_toast(page, "good", "Channel c#ephemeral emptied")
    expect(depth).to_have_text("0")

    page.click(".actions >> text=Delete")
    confirm_by_typing(page, "c#ephemeral")
    page.wait_for_url(scene.url("/topics/act.channel"))
    expect_toast(page, "good", "Channel c#ephemeral deleted")
    expect(page.locator("#channels-title")).to_contain_text("0")


def test_a_topic_is_removed_from_one_node(open_page: OpenPage, scene: Scene) -> None:
    publish(scene, "act.tombstone")
    first, second = scene.cluster.nsqds[:2]
    scene.cluster.wait_listed("act.tombstone", [first, second], within_s=5.0)
    page = live(open_page("/topics/act.tombstone"))
    expect(page.locator("#nodes-title")).to_contain_text("2")
    node = f"127.0.0.1:{first.http_port}"
    page.get_by_label(f"Remove topic act.tombstone from {node}?").click()
    confirm_by_typing(page, "act.tombstone")
    expect_toast(page, "good", f"Topic act.tombstone removed from {node}")
    expect(page.locator("#nodes-title")).to_contain_text("1")
    scene.cluster.wait_listed("act.tombstone", [second], within_s=5.0)


def test_a_refusal_of_a_daemon_is_shown(open_page: OpenPage, scene: Scene) -> None:
    scene.cluster.create_channel("act.gone", "c")
    publish(scene, "act.gone")
    page = live(open_page("/topics/act.gone/c"))
    page.click(".actions >> text=Pause")
    for nsqd in scene.cluster.nsqds:
        nsqd.request("POST", "/channel/delete?topic=act.gone&channel=c")
    page.click("#ask [data-part=ok]")
    expect_toast(page, "warn", "CHANNEL_NOT_FOUND")
    page.locator("#toasts .notice").get_by_label("Dismiss").click()
    expect(page.locator("#toasts .notice")).to_have_count(0)


def test_a_failed_action_is_shown(open_page: OpenPage) -> None:
    page = live(open_page("/topics/orders", watched=False))
    # At once, as an update of the page would set the address right again.
    button = page.locator(".actions >> text=Pause")
    button.evaluate("each => { each.dataset.url += '-never-there'; each.click(); }")
    page.click("#ask [data-part=ok]")
    expect_toast(page, "bad", "Failed: UPSTREAM_ERROR")


def test_users_who_are_no_administrators_have_no_actions(
    open_page: OpenPage, start_console: StartConsole
) -> None:
    console = start_console("--admin-user=ann", "--base-path=/adm")
    page = live(open_page("/adm/topics/orders", home=console.url))
    expect(page.locator("footer")).to_contain_text("Read-only")
    assert page.locator("button[data-do]").count() == 0
    headers = {"X-Forwarded-User": "ann"}
    page = live(open_page("/adm/topics/orders", home=console.url, extra_http_headers=headers))
    assert page.locator(".actions button").count() == 3
    page.click("tbody th a >> nth=0")
    page.wait_for_url(f"{console.url}/adm/topics/orders/audit")
    live(page)
    expect(page.locator("#plot-rates canvas")).to_be_visible()


def test_changes_carry_the_token_of_the_page(open_page: OpenPage) -> None:
    page = live(open_page("/topics/orders"))
    token = page.locator("#content").get_attribute("data-token")
    page.route("**/api/**", lambda route: route.fulfill(status=200, json={"message": ""}))
    page.click(".actions >> text=Pause")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.click("#ask [data-part=ok]")
    assert token
    assert sent.value.header_value("x-console-token") == token


def test_the_page_of_a_missing_topic_shows_it_once_it_exists(open_page: OpenPage, scene: Scene) -> None:
    page = live(open_page("/topics/act.later"))
    expect(page.locator("#content")).to_contain_text("No node has this topic")
    assert page.locator(".actions button").count() == 0
    publish(scene, "act.later")
    expect(page.locator("h1")).to_contain_text("no channel")
    expect(page.locator(".actions button")).to_have_count(3)
