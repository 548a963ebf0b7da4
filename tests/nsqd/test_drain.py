"""A drain waits for the last message, for its time-out, or is cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing

from nsqd.broker import Refused
from nsqd.drain import REFUSAL, Drain
from tests.nsqd.broker.harness import Consumer, Harness

TIMEOUT = 30.0


@attrs.define(eq=False)
class Stage:
    """A drain that runs, on a broker with one message in flight."""

    harness: Harness
    drain: Drain
    consumer: Consumer
    stopped: trio.Event

    def publish(self) -> None:
        self.harness.broker.context.refuse_publishing()

    def finish(self) -> None:
        self.harness.finish(self.consumer)

    async def stopped_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.stopped.wait()
        return self.stopped.is_set()


@contextlib.asynccontextmanager
async def draining(limit: float = 0.0, *, for_good: bool = False) -> AsyncIterator[Stage]:
    harness, stopped = Harness(), trio.Event()
    consumer = harness.subscribe(rdy=1)
    harness.publish(b"a")
    drain = Drain(harness.broker, limit, stop=stopped.set, for_good=for_good)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain.run)
        yield Stage(harness, drain, consumer, stopped)
        nursery.cancel_scope.cancel()


async def test_it_stops_after_the_last_message(autojump_clock: trio.testing.MockClock) -> None:
    async with draining() as stage:
        stage.drain.begin()
        with pytest.raises(Refused, match=REFUSAL):
            stage.publish()
        assert not await stage.stopped_within(3600)
        stage.finish()
        assert await stage.stopped_within(1)


@pytest.mark.parametrize("already", [False, True])
async def test_with_hand_over_it_does_not_wait_for_consumers(
    already: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with draining() as stage:
        if already:
            stage.drain.begin()
            assert not await stage.stopped_within(10)
        stage.drain.begin(hand_over=True)
        with pytest.raises(Refused, match=REFUSAL):
            stage.publish()
        assert await stage.stopped_within(1)
        assert stage.drain.hand_over


async def test_a_cancelled_hand_over_is_none(autojump_clock: trio.testing.MockClock) -> None:
    async with draining() as stage:
        stage.drain.begin(hand_over=True)
        assert stage.drain.cancel()
        stage.drain.begin()
        assert not await stage.stopped_within(3600)


async def test_it_stops_after_its_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async with draining(TIMEOUT) as stage:
        stage.drain.begin()
        assert not await stage.stopped_within(TIMEOUT - 1)
        assert await stage.stopped_within(2)


async def test_a_cancelled_drain_accepts_messages_and_does_not_stop(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with draining(TIMEOUT) as stage:
        stage.drain.begin()
        await trio.sleep(TIMEOUT - 1)
        caplog.set_level("INFO")
        caplog.clear()
        assert stage.drain.cancel()
        assert not stage.drain.active
        stage.publish()
        stage.finish()
        assert not await stage.stopped_within(10 * TIMEOUT)
        assert [record.message for record in caplog.records] == [
            "drain: cancelled, publishes are accepted; messages remaining: 1"
        ]


async def test_a_drain_after_a_cancelled_one_has_its_whole_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with draining(TIMEOUT) as stage:
        for _ in range(3):
            stage.drain.begin()
            assert not await stage.stopped_within(TIMEOUT - 1)
            assert stage.drain.cancel()
        stage.drain.begin()
        assert not await stage.stopped_within(TIMEOUT - 1)
        assert await stage.stopped_within(2)


async def test_begun_and_cancelled_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """Before the task has run at all, and with an empty broker, which a drain would stop at once."""
    async with draining() as stage:
        stage.finish()
        for _ in range(2):
            stage.drain.begin()
            assert stage.drain.cancel()
        assert not await stage.stopped_within(100)
        stage.drain.begin()
        stage.drain.cancel()
        stage.drain.begin()
        assert await stage.stopped_within(1)


async def test_it_is_too_late_once_the_daemon_stops(autojump_clock: trio.testing.MockClock) -> None:
    async with draining() as stage:
        assert stage.drain.cancel(), "without a drain it has no effect"
        stage.drain.begin()
        stage.finish()
        assert await stage.stopped_within(1)
        assert not stage.drain.cancel()
        with pytest.raises(Refused, match=REFUSAL):
            stage.publish()


async def test_the_drain_of_a_stand_in_cannot_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async with draining(for_good=True) as stage:
        stage.drain.begin()
        assert not stage.drain.cancel()
        with pytest.raises(Refused, match=REFUSAL):
            stage.publish()
        stage.finish()
        assert await stage.stopped_within(1)
