"""The watch: alarms of a cluster that is polled, with the history of the poller, on trio's mock clock."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from nsqadmin.alarms.watch import AlarmWatch
from nsqkit.options import MINUTE
from tests.nsqadmin.cluster.polling import ONE, REGISTRY, TWO, Stage, nsqds, polling, registries
from tests.nsqadmin.fake_upstream import channel, node, topic


class Figures:
    """The counters of one channel, which change between polls."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {"client_count": 1, "message_count": 0, "depth": 0}

    def add(self, *, published: int = 0, finished: int = 0, **others: int) -> None:
        """Change the counters."""
        self.values["message_count"] += published
        self.values["depth"] += published - finished
        for name, more in others.items():
            self.values[name] = self.values.get(name, 0) + more


async def polls(
    stage: Stage, watch: AlarmWatch, seconds: int, figures: Figures | None = None, **each: int
) -> None:
    """Poll every 5 seconds for so long, with these changes of the channel before each poll."""
    for _ in range(seconds // 5):
        if figures is not None:
            figures.add(**each)
            stage.upstream.nsqd(ONE, topic("t", channel("c", **figures.values), message_count=0))
        await watch.examine(await stage.round(after_s=5))


def ids(watch: AlarmWatch) -> list[str]:
    return [alarm.id for alarm in watch.alarms]


async def test_a_channel_falls_behind_and_recovers(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE)) as stage:
        watch, figures = AlarmWatch(stage.poller), Figures()
        await polls(stage, watch, 300, figures, published=100, finished=50)
        assert ids(watch) == []
        await polls(stage, watch, 180, figures, published=100, finished=50)
        assert ids(watch) == ["behind:t/c"]
        [alarm] = watch.alarms
        assert alarm.figures["messages_per_second"] == pytest.approx(10, rel=0.05)
        assert alarm.duration(stage.poller.snapshot.at) == "7 min 50 s"
        await polls(stage, watch, 55, figures, published=100, finished=150)
        assert ids(watch) == ["behind:t/c"]
        await polls(stage, watch, 120, figures, published=100, finished=150)
        assert ids(watch) == []


async def test_time_outs_and_requeues_are_shares_of_the_deliveries(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with polling(**nsqds(ONE)) as stage:
        watch, figures = AlarmWatch(stage.poller), Figures()
        each = {"published": 100, "finished": 100, "timeout_count": 4, "requeue_count": 20}
        await polls(stage, watch, 240, figures, **each)
        assert ids(watch) == ["requeues:t/c"]
        await polls(stage, watch, 300, figures, **{**each, "timeout_count": 20, "requeue_count": 4})
        assert ids(watch) == ["timeouts:t/c"]
        await polls(stage, watch, 300, figures, **{**each, "timeout_count": 0, "requeue_count": 0})
        assert ids(watch) == []


async def test_a_channel_is_stuck_until_it_finishes_something(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE)) as stage:
        watch, figures = AlarmWatch(stage.poller), Figures()
        figures.add(published=3, finished=3, in_flight_count=3)
        await polls(stage, watch, 120, figures)
        assert ids(watch) == []
        await polls(stage, watch, 15, figures)
        assert ids(watch) == ["stuck:t/c"]
        await polls(stage, watch, 65, figures, published=1, finished=1)
        assert ids(watch) == []


async def test_what_newer_nsqds_report_of_themselves(autojump_clock: trio.testing.MockClock) -> None:
    lost = topic("t", channel("c", client_count=1, damaged_count=2))
    async with polling(**nsqds(ONE, TWO)) as stage:
        watch = AlarmWatch(stage.poller)
        stage.upstream.nsqd(ONE, lost, copies={"wanted": 3, "in_step": 1})
        stage.upstream.nsqd(TWO, copies={"wanted": 3, "in_step": 3})
        await polls(stage, watch, 60)
        assert ids(watch) == ["damaged:t/c", f"under-replicated:{ONE}"]
        stage.upstream.nsqd(ONE, lost, copies={"wanted": 3, "in_step": 3})
        await polls(stage, watch, 90)
        assert ids(watch) == ["damaged:t/c"]


async def test_a_node_is_silent_gone_and_back(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**registries(REGISTRY)) as stage:
        watch = AlarmWatch(stage.poller)
        stage.upstream.registry(REGISTRY, [node(ONE), node(TWO)])
        for address in (ONE, TWO):
            stage.upstream.nsqd(address)
        await polls(stage, watch, 60)
        del stage.upstream.responses[ONE]
        await polls(stage, watch, 25)
        assert ids(watch) == []
        await polls(stage, watch, 15)
        assert ids(watch) == [f"silent:{ONE}"]
        stage.upstream.registry(REGISTRY, [node(TWO)])
        await polls(stage, watch, 120)
        assert ids(watch) == [f"silent:{ONE}"]
        assert "no registry lists it" in watch.alarms[0].text
        stage.upstream.registry(REGISTRY, [node(ONE), node(TWO)])
        stage.upstream.nsqd(ONE)
        await polls(stage, watch, 70)
        assert ids(watch) == []


async def test_changes_are_logged_and_many_are_counted(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nsq.nsqadmin.alarms")
    waiting = [topic(f"t{number:02}", depth=3) for number in range(25)]
    async with polling(**nsqds(ONE), alarm_no_consumer_after=0, alarm_clear_after=0) as stage:
        watch = AlarmWatch(stage.poller)
        stage.upstream.nsqd(ONE, *waiting)
        await polls(stage, watch, 10)
        stage.upstream.nsqd(ONE, *waiting[1:])
        await polls(stage, watch, 10)
    lines = [record.getMessage() for record in caplog.records if record.name == "nsq.nsqadmin.alarms"]
    assert lines[0] == (
        "ALARM: t00: no channel: 3 messages waiting, no channel; "
        "Start a consumer, which creates its channel, or delete the topic if nobody needs it."
    )
    assert lines[20:] == [
        "ALARM: 5 more raised and 0 more over; see /alarms",
        "ALARM: t00: no channel: over after 10 s",
    ]


async def test_a_failure_costs_one_snapshot(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with polling(**nsqds(ONE), alarm_no_consumer_after=0) as stage:
        watch = AlarmWatch(stage.poller)
        stage.upstream.nsqd(ONE, topic("t", depth=3))
        examine, failures = watch.examine, iter([ValueError("unforeseen")])

        async def fail_once(self: AlarmWatch, snapshot: Any) -> None:
            for failure in failures:
                raise failure
            await examine(snapshot)

        monkeypatch.setattr(AlarmWatch, "examine", fail_once)
        stage.nursery.start_soon(watch.run)
        stage.run()
        with trio.fail_after(60):
            await watch.next_change()
    assert ids(watch) == ["no-channel:t"]
    assert "could not be examined" in caplog.text


async def test_growth_is_seen_in_the_minutes_of_the_option(autojump_clock: trio.testing.MockClock) -> None:
    async with polling(**nsqds(ONE), alarm_behind_after=2 * MINUTE, alarm_backlog=10) as stage:
        watch, figures = AlarmWatch(stage.poller), Figures()
        await polls(stage, watch, 200, figures, published=2, finished=1)
        assert ids(watch) == ["behind:t/c"]
