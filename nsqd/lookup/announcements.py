"""What one registry has yet to be told, without any I/O.

Rules:

- Nothing is a queue of events. Kept is which topics and channels have changed; what is true of them is looked up when
  the commands are made. So what waits here is never more than what there is and what this registry was told of.
- `restart` begins anew for a new connection: everything there is has to be told, as the registry has forgotten it all.
- What has gone is told before what has come: a topic deleted and made again loses its old entry (and the tombstone on
  it) before it gets a new one, and a channel deleted on the registry's side as well comes back there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from typing import Protocol

import attrs

from nsqd.lookup.protocol import encode_register, encode_unregister

__all__ = ["Announcements", "HasChannels"]


class HasChannels(Protocol):
    """A topic, as far as a registry is concerned."""

    @property
    def channels(self) -> Mapping[str, object]: ...


@attrs.define
class _Gone:
    """What of one topic was told and is no more."""

    channels: set[str] = attrs.field(factory=set)
    topic: bool = False


class Announcements:
    """The difference between what there is (`topics`, read when it is needed) and what a registry was told."""

    def __init__(self, topics: Mapping[str, HasChannels]) -> None:
        self._topics = topics
        self._told: dict[str, set[str]] = {}
        self._gone: OrderedDict[str, _Gone] = OrderedDict()
        self._come: OrderedDict[str, set[str] | None] = OrderedDict()  # None: the topic with all that it has

    def restart(self) -> None:
        """A new connection: tell everything."""
        self.clear()
        self._come.update(dict.fromkeys(self._topics))

    def clear(self) -> None:
        """There is no connection: keep nothing."""
        self._told.clear()
        self._gone.clear()
        self._come.clear()

    # --- what happens

    def topic_created(self, topic: str) -> None:
        self._come[topic] = None

    def topic_deleted(self, topic: str) -> None:
        self._come.pop(topic, None)
        told = self._told.pop(topic, None)
        if told is not None:
            gone = self._gone.setdefault(topic, _Gone())
            gone.channels |= told
            gone.topic = True

    def channel_created(self, topic: str, channel: str) -> None:
        channels = self._come.setdefault(topic, set())
        if channels is not None:
            channels.add(channel)

    def channel_deleted(self, topic: str, channel: str) -> None:
        coming = self._come.get(topic)
        if coming is not None:
            coming.discard(channel)
        told = self._told.get(topic, set())
        if channel in told:
            told.remove(channel)
            self._gone.setdefault(topic, _Gone()).channels.add(channel)

    # --- what to say

    def take(self, limit: int) -> list[bytes]:
        """Up to so many commands to send now; none when the registry was told everything."""
        commands: list[bytes] = []
        while self._gone and len(commands) < limit:
            commands += self._take_gone(limit - len(commands))
        while self._come and len(commands) < limit:
            commands += self._take_come(limit - len(commands))
        return commands

    def _take_gone(self, limit: int) -> list[bytes]:
        """The channels first: only their own command removes the entries of ephemeral ones."""
        topic, gone = next(iter(self._gone.items()))
        commands = [
            encode_unregister(topic, gone.channels.pop()) for _ in range(min(limit, len(gone.channels)))
        ]
        if not gone.channels and len(commands) < limit:
            del self._gone[topic]
            commands += [encode_unregister(topic)] if gone.topic else []
        return commands

    def _take_come(self, limit: int) -> list[bytes]:
        """A channel's command tells of its topic as well."""
        name, wanted = self._come.popitem(last=False)
        topic = self._topics.get(name)
        if topic is None:
            return []
        if wanted is None and not topic.channels:
            self._told.setdefault(name, set())
            return [encode_register(name)]
        channels = list(topic.channels if wanted is None else _those_in(topic.channels, wanted))
        if len(channels) > limit:
            self._come[name] = set(channels[limit:])
            self._come.move_to_end(name, last=False)
        if channels:
            self._told.setdefault(name, set()).update(channels[:limit])
        return [encode_register(name, channel) for channel in channels[:limit]]


def _those_in(there: Container[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if name in there]
