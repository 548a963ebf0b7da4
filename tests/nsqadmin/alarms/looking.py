"""Looking at one snapshot: what the rules find there, without the board's delays.

found = look(snapshot(topic("t", [channel("t", "c", depth=5, no_consumer_since=NOW)])))
assert kinds(found) == [Kind.NO_CONSUMER]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import attrs

from nsqadmin.alarms.alarm import Alarm, Kind
from nsqadmin.alarms.memory import Memory
from nsqadmin.alarms.rules import Situation, channel_alarms, cluster_alarms, node_alarms, topic_alarms
from nsqadmin.cluster.history import MetricValues
from nsqadmin.cluster.snapshot import ClusterSnapshot
from nsqadmin.options import AdminOptions
from nsqkit.options import SECOND
from tests.nsqadmin.pages.cluster import NOW

__all__ = ["FakeMinutes", "kinds", "look", "minutes"]


@attrs.define
class FakeMinutes:
    """A history that has the same last minutes for everything."""

    rows: Sequence[tuple[float, MetricValues]] = ()

    def last_minutes(self, topic: str, channel: str, count: int) -> list[tuple[float, MetricValues]]:
        """The last rows."""
        return list(self.rows[-count:])


def minutes(
    depths: Iterable[float], *, finished: float = 0.0, requeued: float = 0.0, timed_out: float = 0.0
) -> FakeMinutes:
    """One minute for each depth, up to `NOW`, with these rates (messages a second) in all of them."""
    values = list(depths)
    began = NOW - 60 * len(values)
    return FakeMinutes(
        [
            (began + 60 * number, (depth, 0.0, 0.0, finished, requeued, timed_out))
            for number, depth in enumerate(values)
        ]
    )


def look(
    snapshot: ClusterSnapshot,
    history: FakeMinutes | None = None,
    memory: Memory | None = None,
    **options: Any,
) -> list[Alarm]:
    """What the rules find, the worst first."""
    known = AdminOptions(**options)
    memory = memory or Memory(known.alarm_remember / SECOND)
    memory.note(snapshot)
    situation = Situation(snapshot, cast(Any, history or FakeMinutes()), memory, known)
    found = list(cluster_alarms(situation))
    for node in snapshot.nodes.values():
        found += node_alarms(situation, node)
    for topic in snapshot.topics.values():
        found += topic_alarms(situation, topic)
        for channel in topic.channels.values():
            memory.note_channel(channel)
            found += channel_alarms(situation, topic, channel)
    return sorted(found, key=lambda alarm: alarm.order)


def kinds(alarms: Iterable[Alarm]) -> list[Kind]:
    """Their kinds."""
    return [alarm.kind for alarm in alarms]
