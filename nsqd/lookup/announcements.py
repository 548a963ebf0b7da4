"""The commands that one registry has yet to get, without any I/O.

Rules:

- There is no queue of events. Only the names of changed topics and channels are kept; their present state is read when
  the commands are made. So memory is bounded by the existing names and those that this registry has registered.
- `restart` begins anew for a new connection: everything has to be registered, as the registry has forgotten it all.
- UNREGISTER commands precede REGISTER commands: a topic that was deleted and created again loses its old entry (with
  its tombstone) before it gets a new one, and a channel that was deleted in the registry too is registered again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

import attrs

from nsqd.lookup.protocol import encode_register, encode_unregister

__all__ = ["Announcements", "HasChannels"]


class HasChannels(Protocol):
    """A topic, as `Announcements` reads it."""

    @property
    def channels(self) -> Mapping[str, object]: ...


@attrs.define
class _Removed:
    """Deleted parts of one topic that are still registered: some channels, and perhaps the topic itself."""

    channels: set[str] = attrs.field(factory=set)
    topic: bool = False


class Announcements:
    """The difference between the existing topics and channels and those registered with one registry.

    `topics`: the broker's, by name; read when commands are made.
    """

    def __init__(self, topics: Mapping[str, HasChannels]) -> None:
        self._topics = topics
        self._registered: dict[str, set[str]] = {}
        self._to_unregister: OrderedDict[str, _Removed] = OrderedDict()
        # Channels by topic; None: the topic with all that it has.
        self._to_register: OrderedDict[str, set[str] | None] = OrderedDict()

    def restart(self) -> None:
        """Begin a new connection: register everything."""
        self.clear()
        self._to_register.update(dict.fromkeys(self._topics))

    def clear(self) -> None:
        """Forget everything: there is no connection."""
        self._registered.clear()
        self._to_unregister.clear()
        self._to_register.clear()

    # --- changes

    def topic_created(self, topic: str) -> None:
        self._to_register[topic] = None

    def topic_deleted(self, topic: str) -> None:
        self._to_register.pop(topic, None)
        registered = self._registered.pop(topic, None)
        if registered is not None:
            removed = self._to_unregister.setdefault(topic, _Removed())
            removed.channels |= registered
            removed.topic = True

    def channel_created(self, topic: str, channel: str) -> None:
        channels = self._to_register.setdefault(topic, set())
        if channels is not None:
            channels.add(channel)

    def channel_deleted(self, topic: str, channel: str) -> None:
        pending = self._to_register.get(topic)
        if pending is not None:
            pending.discard(channel)
        registered = self._registered.get(topic, set())
        if channel in registered:
            registered.remove(channel)
            self._to_unregister.setdefault(topic, _Removed()).channels.add(channel)

    # --- commands

    def take(self, limit: int) -> list[bytes]:
        """Remove and return up to `limit` commands to send; none if the registry is up to date."""
        commands: list[bytes] = []
        while self._to_unregister and len(commands) < limit:
            commands += self._take_unregistrations(limit - len(commands))
        while self._to_register and len(commands) < limit:
            commands += self._take_registrations(limit - len(commands))
        return commands

    def _take_unregistrations(self, limit: int) -> list[bytes]:
        # The channels first: UNREGISTER of a topic leaves the entries of its ephemeral channels in the registry.
        topic, removed = next(iter(self._to_unregister.items()))
        commands = [
            encode_unregister(topic, removed.channels.pop()) for _ in range(min(limit, len(removed.channels)))
        ]
        if not removed.channels and len(commands) < limit:
            del self._to_unregister[topic]
            commands += [encode_unregister(topic)] if removed.topic else []
        return commands

    def _take_registrations(self, limit: int) -> list[bytes]:
        # REGISTER of a channel registers its topic as well.
        name, wanted = self._to_register.popitem(last=False)
        topic = self._topics.get(name)
        if topic is None:
            return []
        if wanted is None and not topic.channels:
            self._registered.setdefault(name, set())
            return [encode_register(name)]
        channels = list(topic.channels if wanted is None else filter(topic.channels.__contains__, wanted))
        if len(channels) > limit:
            self._to_register[name] = set(channels[limit:])
            self._to_register.move_to_end(name, last=False)
        if channels:
            self._registered.setdefault(name, set()).update(channels[:limit])
        return [encode_register(name, channel) for channel in channels[:limit]]
