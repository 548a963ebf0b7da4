"""Rates of topics and channels, from the counters in two responses of one nsqd; and counts of the last minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from nsqadmin.model import ChannelStats, TopicStats
from nsqkit.yielder import Yielder

__all__ = ["ChannelKey", "LastMinute", "Rates", "rates_between"]

ChannelKey = tuple[str, str]
"""A topic and one of its channels; an empty channel stands for the topic itself."""


class Rates(NamedTuple):
    """Of one topic or channel of one nsqd."""

    in_rate: float
    """Messages a second."""
    out_rate: float
    """Messages a second that left: finished, or emptied. Always 0 for a topic; its channels have it."""
    requeues: int
    """Since the response before; so are the time-outs."""
    timeouts: int


NO_RATES = Rates(0.0, 0.0, 0, 0)


async def rates_between(
    old: Mapping[str, TopicStats], new: Mapping[str, TopicStats], seconds: float, yielder: Yielder
) -> dict[ChannelKey, Rates]:
    """The rates between two responses of one nsqd, `seconds` apart. Idle topics and channels are left out.

    A counter that is lower than before has restarted at 0, with its nsqd or because the topic was deleted and created.
    """
    rates: dict[ChannelKey, Rates] = {}
    for name, topic in new.items():
        before = old.get(name)
        published = _increase(topic.message_count, before.message_count if before else 0)
        if published:
            rates[name, ""] = Rates(published / seconds, 0.0, 0, 0)
        channels_before = {each.channel_name: each for each in before.channels or ()} if before else {}
        for channel in topic.channels or ():
            found = _channel_rates(channels_before.get(channel.channel_name), channel, seconds)
            if found != NO_RATES:
                rates[name, channel.channel_name] = found
        await yielder.maybe_yield()
    return rates


def _channel_rates(old: ChannelStats | None, new: ChannelStats, seconds: float) -> Rates:
    if old is None or new.message_count < old.message_count:
        # How many messages left is unknown: some of those of the old counter may have been lost with it.
        return Rates(new.message_count / seconds, 0.0, new.requeue_count, new.timeout_count)
    # nsqds do not count finished messages; what entered and is no longer there was finished, or emptied.
    entered = new.message_count - old.message_count
    left = max(0, entered + _unfinished(old) - _unfinished(new))
    return Rates(
        entered / seconds,
        left / seconds,
        _increase(new.requeue_count, old.requeue_count),
        _increase(new.timeout_count, old.timeout_count),
    )


def _unfinished(channel: ChannelStats) -> int:
    return channel.depth + channel.in_flight_count + channel.deferred_count


def _increase(new: int, old: int) -> int:
    return new - old if new >= old else new


@attrs.define(eq=False)
class LastMinute:
    """Requeues and time-outs of the last 60 seconds."""

    sums: dict[ChannelKey, tuple[int, int]] = attrs.field(factory=dict, init=False)
    """Requeues and time-outs of each channel that had any."""
    _parts: deque[tuple[float, dict[ChannelKey, tuple[int, int]]]] = attrs.field(factory=deque, init=False)

    def add(self, now: float, counts: dict[ChannelKey, tuple[int, int]]) -> None:
        """Add counts of this time (seconds), and subtract those that are more than 60 seconds old."""
        self._parts.append((now, counts))
        for key, (requeues, timeouts) in counts.items():
            known = self.sums.get(key, (0, 0))
            self.sums[key] = known[0] + requeues, known[1] + timeouts
        while self._parts and self._parts[0][0] <= now - 60:
            for key, (requeues, timeouts) in self._parts.popleft()[1].items():
                known = self.sums[key]
                rest = known[0] - requeues, known[1] - timeouts
                if rest == (0, 0):
                    del self.sums[key]
                else:
                    self.sums[key] = rest
