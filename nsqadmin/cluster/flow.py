"""What moved between two answers of one nsqd, and how much of it in the last minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from nsqadmin.cluster.model import ChannelStats, TopicStats
from nsqkit.yielder import Yielder

__all__ = ["Flow", "LastMinute", "Name", "flows_between"]

Name = tuple[str, str]
"""A topic and a channel of it; no channel: the topic itself."""

NO_FLOW = (0.0, 0.0, 0, 0)


class Flow(NamedTuple):
    """Of one topic or channel."""

    in_rate: float
    """Messages a second."""
    out_rate: float
    """What left: finished, or emptied. Of a topic: 0, it is in its channels."""
    requeues: int
    timeouts: int


async def flows_between(
    old: Mapping[str, TopicStats], new: Mapping[str, TopicStats], seconds: float, yielder: Yielder
) -> dict[Name, Flow]:
    """What moved between two answers of one nsqd that lie so far apart. What stood still is not in it.

    A counter that is lower than before began again at 0, with the nsqd or with a new life of its topic.
    """
    flows: dict[Name, Flow] = {}
    for name, topic in new.items():
        before = old.get(name)
        came = _rise(topic.message_count, before.message_count if before else 0)
        if came:
            flows[name, ""] = Flow(came / seconds, 0.0, 0, 0)
        known = {each.channel_name: each for each in before.channels or ()} if before else {}
        for channel in topic.channels or ():
            flow = _channel_flow(known.get(channel.channel_name), channel, seconds)
            if flow != NO_FLOW:
                flows[name, channel.channel_name] = flow
        await yielder.maybe_yield()
    return flows


def _channel_flow(old: ChannelStats | None, new: ChannelStats, seconds: float) -> Flow:
    if old is None or new.message_count < old.message_count:
        return Flow(new.message_count / seconds, 0.0, new.requeue_count, new.timeout_count)
    came = new.message_count - old.message_count
    left = max(0, came + _held(old) - _held(new))
    return Flow(
        came / seconds,
        left / seconds,
        _rise(new.requeue_count, old.requeue_count),
        _rise(new.timeout_count, old.timeout_count),
    )


def _held(channel: ChannelStats) -> int:
    return channel.depth + channel.in_flight_count + channel.deferred_count


def _rise(new: int, old: int) -> int:
    return new - old if new >= old else new


@attrs.define(eq=False)
class LastMinute:
    """Sums over the last 60 seconds, of what moved at all."""

    sums: dict[Name, tuple[int, int]] = attrs.field(factory=dict, init=False)
    """Requeues and time-outs of a channel; none of either is not in it."""
    _parts: deque[tuple[float, dict[Name, tuple[int, int]]]] = attrs.field(factory=deque, init=False)

    def add(self, now: float, moved: dict[Name, tuple[int, int]]) -> None:
        """Count in what moved up to now, and out what did so more than 60 seconds ago."""
        self._parts.append((now, moved))
        for name, (requeues, timeouts) in moved.items():
            known = self.sums.get(name, (0, 0))
            self.sums[name] = known[0] + requeues, known[1] + timeouts
        while self._parts and self._parts[0][0] <= now - 60:
            for name, (requeues, timeouts) in self._parts.popleft()[1].items():
                known = self.sums[name]
                left = known[0] - requeues, known[1] - timeouts
                if left == (0, 0):
                    del self.sums[name]
                else:
                    self.sums[name] = left
