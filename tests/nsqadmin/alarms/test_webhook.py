"""The webhook of alarms: receivers that are there, slow, dead, or answer with errors, on trio's mock clock."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from nsqadmin.alarms.webhook import AlarmWebhook
from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamError

URL = "https://joe:geheim@hooks.example/T0?token=geheim"


def alarm(topic: str) -> Alarm:
    return Alarm(
        kind=Kind.PAUSED,
        subject=Subject(topic=topic, channel="c"),
        since=100.0,
        text="1 message waiting in a paused channel",
        advice="Unpause it.",
        figures={"messages": 1},
    )


@attrs.define(eq=False)
class Alarms:
    """In place of the watch."""

    alarms: tuple[Alarm, ...] = ()
    changed: trio.Event = attrs.field(factory=trio.Event)

    def become(self, *topics: str) -> None:
        """Have alarms about these."""
        self.alarms = tuple(alarm(topic) for topic in topics)
        self.changed.set()
        self.changed = trio.Event()

    async def next_change(self) -> None:
        await self.changed.wait()


@attrs.define(eq=False)
class Receiver(Upstream):
    """A receiver that answers as the test says."""

    errors: list[str] = attrs.field(factory=list)
    """Of the next requests, before those that succeed."""
    delay_s: float = 0
    tried_at: list[float] = attrs.field(factory=list)
    messages: list[dict[str, Any]] = attrs.field(factory=list)

    async def send_json(self, url: str, value: Any) -> None:
        """As `Upstream.send_json`."""
        assert url == URL
        self.tried_at.append(trio.current_time())
        await trio.sleep(self.delay_s)
        if self.errors:
            raise UpstreamError(self.errors.pop(0))
        self.messages.append(value)

    @property
    def told(self) -> list[tuple[list[str], list[str]]]:
        """The topics in each message: raised, cleared."""
        return [
            ([each["topic"] for each in message["raised"]], [each["topic"] for each in message["cleared"]])
            for message in self.messages
        ]


@attrs.define(eq=False)
class Stage:
    alarms: Alarms
    receiver: Receiver

    async def become(self, *topics: str, after_s: float = 10) -> None:
        """Change the alarms, and let time pass."""
        self.alarms.become(*topics)
        await trio.sleep(after_s)


@contextlib.asynccontextmanager
async def running(**receiver: Any) -> AsyncIterator[Stage]:
    stage = Stage(Alarms(), Receiver(AdminOptions(), **receiver))
    webhook = AlarmWebhook(URL, cast(Any, stage.alarms), stage.receiver, "/adm", clock=lambda: 160.9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(webhook.run)
        await trio.testing.wait_all_tasks_blocked()
        yield stage
        nursery.cancel_scope.cancel()


async def test_each_change_is_sent_once(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as stage:
        await stage.become("a", "b")
        await stage.become("a", "b")
        await stage.become("b", "d")
        await stage.become()
    assert stage.receiver.told == [(["a", "b"], []), (["d"], ["a"]), ([], ["b", "d"])]


async def test_the_message_has_the_documented_form(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as stage:
        await stage.become("a#ephemeral")
    assert stage.receiver.messages == [
        {
            "at": 160,
            "via": socket.gethostname(),
            "active": 1,
            "raised": [
                {
                    "id": "paused:a#ephemeral/c",
                    "kind": "paused",
                    "severity": "info",
                    "topic": "a#ephemeral",
                    "channel": "c",
                    "since": 100,
                    "text": "1 message waiting in a paused channel, for 1 min",
                    "advice": "Unpause it.",
                    "figures": {"messages": 1},
                    "path": "/adm/topics/a%23ephemeral/c",
                }
            ],
            "cleared": [],
        }
    ]


async def test_a_failed_request_is_repeated_with_growing_pauses(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nsq.nsqadmin.alarms")
    async with running(errors=["POST https://hooks.example/T0: 500"] * 9) as stage:
        await stage.become("a", after_s=400)
        await stage.become("a", "b")
    began = stage.receiver.tried_at[0]
    assert [at - began for at in stage.receiver.tried_at[:10]] == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert stage.receiver.told == [(["a"], []), (["b"], [])]
    assert [record.getMessage() for record in caplog.records] == [
        "ALARM: https://hooks.example/T0 was not told: POST https://hooks.example/T0: 500; trying again",
        "ALARM: https://hooks.example/T0 has been told",
    ]


async def test_a_receiver_that_was_away_hears_what_is_true_now(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(errors=["dead"] * 5) as stage:
        await stage.become("a", "came-and-went", after_s=2)
        await stage.become("a", "b", after_s=100)
    assert stage.receiver.told == [(["a", "b"], [])]


async def test_a_request_that_hangs_is_given_up_and_repeated(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(delay_s=1_000) as stage:
        await stage.become("a", after_s=30.5)
        stage.receiver.delay_s = 0
        await trio.sleep(1)
    assert [at - stage.receiver.tried_at[0] for at in stage.receiver.tried_at] == [0, 31]
    assert stage.receiver.told == [(["a"], [])]
    assert "no answer within 30 s" in caplog.text


async def test_a_slow_receiver_gets_changes_together(autojump_clock: trio.testing.MockClock) -> None:
    async with running(delay_s=5.5) as stage:
        for number in range(10):
            await stage.become(*(f"t{each}" for each in range(number + 1)), after_s=1)
        await trio.sleep(10)
    assert [len(raised) for raised, _ in stage.receiver.told] == [1, 5, 4]


async def test_many_alarms_are_sent_in_parts(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as stage:
        await stage.become(*(f"t{number}" for number in range(1_200)))
        await stage.become()
    assert [(len(raised), len(cleared)) for raised, cleared in stage.receiver.told] == [
        (500, 0),
        (500, 0),
        (200, 0),
        (0, 500),
        (0, 500),
        (0, 200),
    ]


async def test_secrets_of_the_url_are_not_logged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(errors=["refused"]) as stage:
        await stage.become("a")
    assert "hooks.example" in caplog.text
    assert "geheim" not in caplog.text
    assert "joe" not in caplog.text
