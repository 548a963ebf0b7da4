"""The event stream: one event for each poll, heartbeats, a bound, and its end."""

from __future__ import annotations

import contextlib
import re
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from msgspec.structs import replace

from nsqadmin.auth import Identity, Means, Role
from nsqadmin.console import Console
from nsqadmin.pages import stream
from nsqadmin.pages.stream import HEARTBEAT_SECONDS, LiveStream
from nsqkit.service.http import Request
from tests.nsqadmin.pages.cluster import NOW, fake_console, snapshot


@attrs.define(eq=False)
class Browser:
    """The connection of one browser: what was sent to it so far."""

    last_seen: str = ""
    """The header Last-Event-ID."""
    wire: bytes = b""
    keep_alive: bool = True
    closed: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def look(self, stream: LiveStream, identity: Identity | None = None) -> None:
        headers = [(b"last-event-id", self.last_seen.encode())] if self.last_seen else []
        request = Request(
            "GET",
            b"/live",
            "/live",
            b"",
            headers,
            "1.1",
            "192.0.2.1:50312",
            secure=False,
            keep_alive=True,
            params={},
            route=cast(Any, None),
            identity=identity,
        )
        with contextlib.suppress(ConnectionError):
            await stream(request, self)
        self.ended.set()

    async def wait_disconnect(self) -> None:
        await self.closed.wait()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.wire += data

    @property
    def status(self) -> int:
        return int(self.wire.split()[1])

    @property
    def text(self) -> str:
        """The chunks of the body so far."""
        chunks = self.wire.partition(b"\r\n\r\n")[2]
        return "".join(re.findall(r"[0-9a-f]+\r\n(.*?)\r\n", chunks.decode(), re.DOTALL))

    @property
    def complete(self) -> bool:
        return self.wire.endswith(b"0\r\n\r\n")


def poll(console: Console, at: float) -> None:
    """End a poll of the cluster."""
    poller: Any = console.poller
    poller.show(replace(poller.snapshot, at=at))


@pytest.fixture
def console() -> Console:
    """A console that has polled once."""
    return fake_console(snapshot())


async def test_each_poll_is_an_event(console: Console, nursery: trio.Nursery) -> None:
    browser = Browser()
    nursery.start_soon(browser.look, LiveStream(console))
    await trio.testing.wait_all_tasks_blocked()
    assert (browser.status, browser.text) == (200, "retry: 3000\n\n")
    for at in (NOW + 5, NOW + 10):
        before = browser.text
        poll(console, at)
        await trio.testing.wait_all_tasks_blocked()
        assert browser.text == before + f"id: {at!r}\nevent: snapshot\ndata: {{}}\n\n"
    browser.closed.set()


async def test_an_idle_stream_sends_heartbeats(
    console: Console, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    browser = Browser()
    nursery.start_soon(browser.look, LiveStream(console))
    await trio.sleep(HEARTBEAT_SECONDS * 2.5)
    assert browser.text == "retry: 3000\n\n" + ": heartbeat\n\n" * 2
    browser.closed.set()


@pytest.mark.parametrize(("seen", "missed"), [(NOW, False), (NOW - 5, True)])
async def test_a_browser_that_reconnects_gets_a_missed_event(
    console: Console, nursery: trio.Nursery, seen: float, missed: bool
) -> None:
    browser = Browser(last_seen=repr(seen))
    nursery.start_soon(browser.look, LiveStream(console))
    await trio.testing.wait_all_tasks_blocked()
    assert ("event: snapshot" in browser.text) is missed
    browser.closed.set()


async def test_a_stream_ends_when_its_browser_closes_it(console: Console, nursery: trio.Nursery) -> None:
    application = LiveStream(console)
    browser = Browser()
    nursery.start_soon(browser.look, application)
    await trio.testing.wait_all_tasks_blocked()
    assert application.open_streams == 1
    browser.closed.set()
    await browser.ended.wait()
    assert application.open_streams == 0


async def test_a_stream_ends_at_once_when_its_user_is_logged_out(
    console: Console, nursery: trio.Nursery
) -> None:
    application = LiveStream(console)
    identities = [Identity(name, Means.SESSION, Role.VIEWER) for name in ("ann", "bob")]
    ann, bob = Browser(), Browser()
    for browser, identity in zip((ann, bob), identities, strict=True):
        nursery.start_soon(browser.look, application, identity)
    await trio.testing.wait_all_tasks_blocked()
    identities[0].ended.set()
    await ann.ended.wait()
    assert ann.complete
    assert (bob.ended.is_set(), application.open_streams) == (False, 1)
    bob.closed.set()


async def test_streams_end_when_the_console_stops(console: Console, nursery: trio.Nursery) -> None:
    application = LiveStream(console)
    browsers = [Browser() for _ in range(3)]
    for browser in browsers:
        nursery.start_soon(browser.look, application)
    await trio.testing.wait_all_tasks_blocked()
    console.stopping.set()
    for browser in browsers:
        await browser.ended.wait()
        assert browser.complete
    late = Browser()
    await late.look(application)
    assert late.status == 503


async def test_the_number_of_streams_is_bounded(
    console: Console, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STREAMS", 2)
    application = LiveStream(console)
    first, second, third, fourth = (Browser() for _ in range(4))
    nursery.start_soon(first.look, application)
    nursery.start_soon(second.look, application)
    await trio.testing.wait_all_tasks_blocked()
    await third.look(application)
    assert third.status == 503
    assert third.wire.endswith(b"\r\n\r\ntoo many streams\n")
    first.closed.set()
    await first.ended.wait()
    nursery.start_soon(fourth.look, application)
    await trio.testing.wait_all_tasks_blocked()
    assert fourth.status == 200
    second.closed.set()
    fourth.closed.set()


async def test_a_stream_ends_when_its_browser_closes_it_during_an_event(console: Console) -> None:
    class Lost(Browser):
        async def send(self, data: bytes) -> None:
            if b"event" in data:
                raise ConnectionError("gone")
            await super().send(data)

    stream = LiveStream(console)
    browser = Lost(last_seen="1.0")
    await browser.look(stream)
    assert not browser.complete
    assert stream.open_streams == 0
