"""The webhook: every action is reported to one URL."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import trio

from nsqadmin.auth import Identity, Means, Role
from nsqadmin.notify import Event, Notifier, report
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream
from nsqkit.service.http import Request, Response, Route, error, text
from tests.nsqadmin.scripted import Script, dead_address, producer, scripted
from tests.nsqadmin.serving import Browser, serving
from tests.timing import patience

ALL_ACTIONS = [
    ("POST", "/api/topics", {"topic": "t"}, [("create_topic", "t", None, None)]),
    (
        "POST",
        "/api/topics",
        {"topic": "t", "channel": "c"},
        [("create_topic", "t", None, None), ("create_channel", "t", "c", None)],
    ),
    ("DELETE", "/api/topics/t", None, [("delete_topic", "t", None, None)]),
    ("DELETE", "/api/topics/t/c", None, [("delete_channel", "t", "c", None)]),
    *[
        ("POST", path, {"action": action}, [(f"{action}_{what}", "t", channel, None)])
        for action in ("pause", "unpause", "empty")
        for what, path, channel in (("topic", "/api/topics/t", None), ("channel", "/api/topics/t/c", "c"))
    ],
]


class Receiver:
    """A webhook that keeps the reports."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self._news = trio.Event()

    def __call__(self, request: Request) -> Response:
        assert request.header(b"content-type") == b"application/json"
        self.reports.append(json.loads(request.body))
        self._news.set()
        self._news = trio.Event()
        return text("thanks", 202)

    async def wait(self, count: int) -> list[dict[str, Any]]:
        """The reports, once there are so many."""
        with trio.fail_after(patience(5)):
            while len(self.reports) < count:
                await self._news.wait()
        return self.reports


async def cluster(script: Script) -> str:
    """A registry with one nsqd that takes everything."""
    registry, nsqd = await script.daemon(), await script.nsqd({"topics": []})
    registry.on("/lookup", {"producers": [producer(nsqd)]})
    for daemon in (registry, nsqd):
        for what in ("topic", "channel"):
            for action in ("create", "delete", "pause", "unpause", "empty"):
                daemon.on(f"/{what}/{action}")
    return registry.address


class TestReports:
    @pytest.mark.parametrize(("method", "path", "body", "expected"), ALL_ACTIONS)
    async def test_every_action_is_reported(
        self, method: str, path: str, body: Any, expected: list[Any]
    ) -> None:
        receiver = Receiver()
        async with scripted() as script:
            hook = await script.daemon()
            hook.on("/hook", receiver)
            registry = await cluster(script)
            async with serving(
                lookupds=[registry], notification_http_endpoint=f"http://{hook.address}/hook"
            ) as browser:
                assert (await browser.ask(method, path, body)).status_code == 200
                reports = await receiver.wait(len(expected))
        sent = [(each["action"], each["topic"], each.get("channel"), each.get("node")) for each in reports]
        assert sent == expected

    @pytest.mark.parametrize("action", ["drain", "cancel_drain"])
    async def test_a_drain_is_reported_with_its_node(self, action: str) -> None:
        receiver = Receiver()
        async with scripted() as script:
            hook, registry, nsqd = await script.daemon(), await script.daemon(), await script.daemon()
            hook.on("/hook", receiver)
            registry.on("/nodes", {"producers": [producer(nsqd)]})
            nsqd.on("/drain")
            nsqd.on("/drain/cancel")
            async with serving(
                lookupds=[registry.address], notification_http_endpoint=f"http://{hook.address}/hook"
            ) as browser:
                path = f"/api/nodes/{nsqd.address}"
                assert (await browser.ask("POST", path, {"action": action})).status_code == 200
                [report] = await receiver.wait(1)
        assert (report["action"], report["node"]) == (f"{action}_node", nsqd.address)
        assert "topic" not in report

    async def test_an_adoption_is_reported_with_its_node_and_the_life_of_the_copy(self) -> None:
        receiver, life = Receiver(), "0123456789abcdef" * 2
        async with scripted() as script:
            hook, registry, nsqd = await script.daemon(), await script.daemon(), await script.daemon()
            hook.on("/hook", receiver)
            registry.on("/nodes", {"producers": [producer(nsqd)]})
            nsqd.on("/replicas/adopt")
            async with serving(
                lookupds=[registry.address], notification_http_endpoint=f"http://{hook.address}/hook"
            ) as browser:
                body = {"action": "adopt_copy", "life": life}
                assert (await browser.ask("POST", f"/api/nodes/{nsqd.address}", body)).status_code == 200
                [report] = await receiver.wait(1)
        assert (report["action"], report["node"], report["life"]) == ("adopt_copy", nsqd.address, life)
        assert "topic" not in report

    async def test_a_report_has_the_user_and_the_address(self) -> None:
        receiver = Receiver()
        async with scripted() as script:
            hook = await script.daemon()
            hook.on("/hook", receiver)
            registry = await cluster(script)
            async with serving(
                lookupds=[registry], notification_http_endpoint=f"http://{hook.address}/hook"
            ) as browser:
                headers = {
                    "Authorization": "Basic YW5uOnNlY3JldA==",
                    "User-Agent": "test/1",
                    "X-Scheme": "https",
                }
                await browser.ask("DELETE", "/api/topics/t?x=1", headers=headers)
                [sent] = await receiver.wait(1)
        assert list(sent) == ["action", "topic", "timestamp", "user", "remote_ip", "user_agent", "url", "via"]
        assert sent["user"] == "ann"
        assert sent["remote_ip"].startswith("127.0.0.1:")
        assert sent["user_agent"] == "test/1"
        assert sent["url"] == f"https://{browser.address}/api/topics/t?x=1"
        assert sent["via"] == socket.gethostname()
        assert isinstance(sent["timestamp"], int)

    async def test_a_failed_pause_is_reported_but_a_failed_delete_is_not(self) -> None:
        receiver = Receiver()
        async with scripted() as script:
            hook, registry = await script.daemon(), await script.daemon()
            hook.on("/hook", receiver)
            registry.on("/lookup", error(404, "TOPIC_NOT_FOUND"))
            async with serving(
                lookupds=[registry.address], notification_http_endpoint=f"http://{hook.address}/hook"
            ) as browser:
                assert (await browser.ask("DELETE", "/api/topics/t")).status_code == 502
                assert (await browser.ask("POST", "/api/topics/t", {"action": "pause"})).status_code == 502
                reports = await receiver.wait(1)
        assert [each["action"] for each in reports] == ["pause_topic"]

    async def test_a_receiver_that_is_dead_or_refuses_does_not_affect_actions(self) -> None:
        receiver = Receiver()
        async with scripted() as script:
            hook = await script.daemon()
            registry = await cluster(script)

            async def act(browser: Browser) -> None:
                assert (await browser.ask("DELETE", "/api/topics/t")).json() == {"message": ""}

            dead = f"http://{dead_address()}/hook"
            async with serving(lookupds=[registry], notification_http_endpoint=dead) as browser:
                await act(browser)
            async with serving(
                lookupds=[registry], notification_http_endpoint=f"http://{hook.address}/hook"
            ) as browser:
                await act(browser)  # refused with a 404
                hook.on("/hook", receiver)
                await act(browser)
                assert await receiver.wait(1)


async def test_new_reports_are_dropped_and_logged_while_the_receiver_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = f"http://{dead_address()}/hook"
    upstream = Upstream(AdminOptions(notification_http_endpoint=endpoint))
    notifier = Notifier(upstream)  # which is not running
    for number in range(1_001):
        notifier.notify(request_with(), Event("delete_topic", f"t{number}"))
    assert [record.getMessage() for record in caplog.records] == [
        "NOTIFY: delete_topic t1000 not reported: 1000 reports are waiting already"
    ]


def request_with(*headers: tuple[bytes, bytes]) -> Request:
    return Request(
        "POST",
        b"/x",
        "/x",
        b"",
        list(headers),
        "1.1",
        "1.2.3.4:5",
        False,
        True,
        {},
        Route(handler=lambda _: text("")),
    )


def test_empty_fields_are_left_out() -> None:
    sent = report(request_with(), Event("tombstone_topic_producer", "t", node="n:1"), now=12.9)
    assert sent["node"] == "n:1"
    assert sent["timestamp"] == 12
    assert "channel" not in sent
    assert "user" not in sent
    assert sent["user_agent"] == ""


@pytest.mark.parametrize("value", [b"Basic !!!", b"Basic YW5u", b"Bearer YW5uOng=", b""])
def test_invalid_basic_authentication_has_no_user(value: bytes) -> None:
    assert "user" not in report(request_with((b"authorization", value)), Event("x", "t"), now=0)


@pytest.mark.parametrize(
    ("means", "name"), [(Means.SESSION, "ann"), (Means.BASIC, "ann"), (Means.HEADER, "eve")]
)
def test_a_user_of_the_console_is_named_and_otherwise_the_one_of_basic_authentication(
    means: Means, name: str
) -> None:
    request = request_with((b"authorization", b"Basic ZXZlOng="))
    request.identity = Identity("ann", means, Role.OPERATOR)
    assert report(request, Event("x", "t"), now=0)["user"] == name
