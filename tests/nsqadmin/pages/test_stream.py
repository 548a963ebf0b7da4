"""The stream that keeps pages true: it tells of each poll, stays alive, is bounded, and ends when it should."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing
from msgspec.structs import replace

from nsqadmin.console import Console
from nsqadmin.pages import stream
from nsqadmin.pages.stream import HEARTBEAT_SECONDS, LiveStream
from tests.nsqadmin.pages.cluster import NOW, fake_console, snapshot


@attrs.define(eq=False)
class Browser:
    """One who looks: what came to it so far."""

    headers: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    status: int = 0
    text: str = ""
    complete: bool = False
    gone: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def look(self, application: LiveStream) -> None:
        scope = {"type": "http", "method": "GET", "path": "/live", "headers": self.headers}
        await application(scope, self._receive, self._send)
        self.ended.set()

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.text += message["body"].decode()
            self.complete = not message.get("more_body", False)


def poll(console: Console, at: float) -> None:
    """End a poll of the cluster."""
    picture: Any = console.picture
    picture.show(replace(picture.snapshot, at=at))


@pytest.fixture
def console() -> Console:
    """A console that has polled once."""
    return fake_console(snapshot())


async def test_each_poll_is_told(console: Console, nursery: trio.Nursery) -> None:
    browser = Browser()
    nursery.start_soon(browser.look, LiveStream(console))
    await trio.testing.wait_all_tasks_blocked()
    assert (browser.status, browser.text) == (200, "retry: 3000\n\n")
    for at in (NOW + 5, NOW + 10):
        browser.text = ""
        poll(console, at)
        await trio.testing.wait_all_tasks_blocked()
        assert browser.text == f"id: {at!r}\nevent: picture\ndata: {{}}\n\n"
    browser.gone.set()


async def test_a_quiet_stream_shows_that_it_lives(
    console: Console, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    browser = Browser()
    nursery.start_soon(browser.look, LiveStream(console))
    await trio.sleep(HEARTBEAT_SECONDS * 2.5)
    assert browser.text == "retry: 3000\n\n" + ": still here\n\n" * 2
    browser.gone.set()


@pytest.mark.parametrize(("seen", "told"), [(NOW, False), (NOW - 5, True)])
async def test_who_comes_back_hears_what_was_missed(
    console: Console, nursery: trio.Nursery, seen: float, told: bool
) -> None:
    browser = Browser([(b"Last-Event-ID", repr(seen).encode())])
    nursery.start_soon(browser.look, LiveStream(console))
    await trio.testing.wait_all_tasks_blocked()
    assert ("event: picture" in browser.text) is told
    browser.gone.set()


async def test_a_browser_that_goes_leaves_nothing_behind(console: Console, nursery: trio.Nursery) -> None:
    application = LiveStream(console)
    browser = Browser()
    nursery.start_soon(browser.look, application)
    await trio.testing.wait_all_tasks_blocked()
    assert application.open_streams == 1
    browser.gone.set()
    await browser.ended.wait()
    assert application.open_streams == 0


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


async def test_there_is_a_bound(
    console: Console, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STREAMS", 2)
    application = LiveStream(console)
    first, second, third, fourth = (Browser() for _ in range(4))
    nursery.start_soon(first.look, application)
    nursery.start_soon(second.look, application)
    await trio.testing.wait_all_tasks_blocked()
    await third.look(application)
    assert (third.status, third.complete) == (503, True)
    first.gone.set()
    await first.ended.wait()
    nursery.start_soon(fourth.look, application)
    await trio.testing.wait_all_tasks_blocked()
    assert fourth.status == 200
    second.gone.set()
    fourth.gone.set()
