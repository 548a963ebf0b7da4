"""Who has what: the producers that are connected, and the topics and channels they have registered.

Rules:

- Everything is in memory; a restart begins empty and the nsqds register anew.
- A **key** is a topic, or a channel of a topic. It comes with its first registration or is created by hand, and it
  stays when its producers go, until it is deleted. The exception: an `#ephemeral` key goes when a producer
  *unregisters* and none is left; not when the last one disconnects.
- A **producer** is one connection of an nsqd that has said who it is. An nsqd connected twice is two producers.
  Whoever is registered for a channel is registered for its topic too.
- A producer that has not been heard of for `inactive_after` seconds is hidden from look-ups and nodes; nothing of it is
  removed, and one PING brings it back.
- A **tombstone** is on one producer in one topic and hides it from look-ups of that topic for `tombstone_lifetime`
  seconds. Registering again does not lift it; connecting again does, being another producer.

Theory of operation: synchronous, no I/O; the time is an argument (seconds of a clock that never leaps). Both directions
are indexed: a key knows its producers, a producer its keys. So REGISTER and UNREGISTER cost the same however much there
is, a disconnect costs what that producer had registered, and a look-up costs its answer. A name is stored once,
however many producers have registered it.

The number of keys and of registrations is bounded (`Limits`), for a client can name as many as it likes; `Full` says
so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from nsqkit.wire.names import is_ephemeral

__all__ = ["Found", "Full", "Limits", "Producer", "ProducerInfo", "Registry"]


class Full(Exception):
    """There is no room for another key or registration."""


@attrs.frozen(kw_only=True)
class Limits:
    """How much is taken in; far above what a cluster has."""

    keys: int = 1_000_000
    """Topics and channels, added up."""
    registrations: int = 10_000_000
    """Pairs of a producer and a topic, and of a producer and a channel, added up."""


@attrs.frozen(kw_only=True)
class ProducerInfo:
    """What an nsqd says of itself."""

    remote_address: str
    """`ip:port` of its connection; `@` on a unix socket."""
    hostname: str = ""
    broadcast_address: str
    tcp_port: int
    http_port: int
    version: str
    topology_zone: str = ""
    topology_region: str = ""

    @property
    def node(self) -> str:
        """The name under which it is tombstoned."""
        return f"{self.broadcast_address}:{self.http_port}"


@attrs.define(eq=False)
class Producer:
    """One connected nsqd and what it has registered. Only the registry changes it."""

    info: ProducerInfo
    last_update: float
    """When it was last heard of, in seconds of the registry's clock."""
    topics: dict[str, float | None] = attrs.field(factory=dict)
    """The topics it has, each with the time of its tombstone; None without one."""
    channels: dict[str, set[str]] = attrs.field(factory=dict)
    """The channels it has by topic; no topic without a channel is in it."""


@attrs.define(eq=False)
class _Key:
    """A topic or a channel."""

    name: str
    producers: dict[Producer, None] = attrs.field(factory=dict)


@attrs.frozen
class Found:
    """The answer to a look-up."""

    channels: list[str]
    producers: list[ProducerInfo]


class Registry:
    """The registrations of one nsqlookupd. All times are seconds of one clock that never goes back."""

    def __init__(
        self, *, inactive_after: float = 300.0, tombstone_lifetime: float = 45.0, limits: Limits | None = None
    ) -> None:
        self.inactive_after = inactive_after
        self.tombstone_lifetime = tombstone_lifetime
        self.limits = limits or Limits()
        self.key_count = 0
        self.registration_count = 0
        self._producers: dict[Producer, None] = {}
        self._topics: dict[str, _Key] = {}
        self._tombstones: dict[tuple[Producer, str], float] = {}
        """When they were set, the oldest first: to count them. What counts for look-ups stands in the producer."""
        self._channels: dict[str, dict[str, _Key]] = {}
        """By topic; a topic need not have a key for its channels to have theirs. No empty dict is in it."""

    # --- what an nsqd says on its connection

    def identify(self, info: ProducerInfo, now: float) -> Producer:
        """A producer has connected."""
        producer = Producer(info, now)
        self._producers[producer] = None
        return producer

    def ping(self, producer: Producer, now: float) -> None:
        """The producer was heard of. Registering does not count as that."""
        assert producer in self._producers, "a producer that has gone"
        producer.last_update = now

    def register(self, producer: Producer, topic: str, channel: str = "") -> None:
        """The producer has this topic and, unless empty, this channel of it.

        What is registered already stays as it is, its tombstone too. `Full`: nothing was changed.
        """
        assert producer in self._producers, "a producer that has gone"
        has_topic = topic in producer.topics
        has_channel = not channel or channel in producer.channels.get(topic, ())
        self._claim_registrations((not has_topic) + (not has_channel))
        self._make_keys(topic, channel)
        if not has_topic:
            key = self._topics[topic]
            key.producers[producer] = None
            producer.topics[key.name] = None
        if not has_channel:
            key = self._channels[topic][channel]
            key.producers[producer] = None
            producer.channels.setdefault(self._topics[topic].name, set()).add(key.name)
        self.registration_count += (not has_topic) + (not has_channel)

    def unregister(self, producer: Producer, topic: str, channel: str = "") -> None:
        """The producer has this channel no more or, without one, neither the topic nor any channel of it."""
        assert producer in self._producers, "a producer that has gone"
        if channel:
            self._leave_channel(producer, topic, channel)
            if is_ephemeral(channel) and self._is_deserted(self._channels.get(topic, {}).get(channel)):
                self._drop_channel(topic, channel)
            return
        for name in list(producer.channels.get(topic, ())):
            self._leave_channel(producer, topic, name)
        self._leave_topic(producer, topic)
        if is_ephemeral(topic) and self._is_deserted(self._topics.get(topic)):
            self._drop_topic(topic)

    def disconnect(self, producer: Producer) -> None:
        """The producer's connection has ended: it is gone from everywhere, its keys stay. Once for each."""
        del self._producers[producer]
        for topic, channels in producer.channels.items():
            keys = self._channels[topic]
            for channel in channels:
                del keys[channel].producers[producer]
            self.registration_count -= len(channels)
        for topic in producer.topics:
            del self._topics[topic].producers[producer]
            self._tombstones.pop((producer, topic), None)
        self.registration_count -= len(producer.topics)
        producer.topics.clear()
        producer.channels.clear()

    # --- what an operator does

    def create_topic(self, topic: str) -> None:
        """Make a topic without producers, if there is none. `Full`: nothing was changed."""
        self._make_keys(topic, "")

    def create_channel(self, topic: str, channel: str) -> None:
        """Make a channel without producers, and its topic, where there is none. `Full`: nothing was changed."""
        self._make_keys(topic, channel)

    def delete_topic(self, topic: str) -> None:
        """Remove the topic and all its channels from everybody, if it is there. No producer is told."""
        for channel in self.channels(topic):
            self.delete_channel(topic, channel)
        key = self._topics.get(topic)
        if key is not None:
            for producer in list(key.producers):
                self._leave_topic(producer, topic)
            self._drop_topic(topic)

    def delete_channel(self, topic: str, channel: str) -> bool:
        """Remove the channel from everybody; False when there was none. No producer is told."""
        key = self._channels.get(topic, {}).get(channel)
        if key is None:
            return False
        for producer in list(key.producers):
            self._leave_channel(producer, topic, channel)
        self._drop_channel(topic, channel)
        return True

    def tombstone(self, topic: str, node: str, now: float) -> int:
        """Hide every producer of the topic whose `ProducerInfo.node` this is, from now on; how many that were."""
        key = self._topics.get(topic)
        hidden = [p for p in key.producers if p.info.node == node] if key is not None else []
        for producer in hidden:
            producer.topics[topic] = now
            self._tombstones.pop((producer, topic), None)
            self._tombstones[producer, topic] = now
        return len(hidden)

    # --- what is asked

    def topics(self) -> list[str]:
        """All topics, with producers or without."""
        return list(self._topics)

    def channels(self, topic: str) -> list[str]:
        """All channels of the topic, with producers or without."""
        return list(self._channels.get(topic, ()))

    def lookup(self, topic: str, now: float) -> Found | None:
        """The topic's channels, and its producers that are active and not tombstoned; None: no such topic."""
        key = self._topics.get(topic)
        if key is None:
            return None
        visible = [
            producer.info
            for producer in key.producers
            if self.is_active(producer, now) and not self.is_tombstoned(producer, topic, now)
        ]
        return Found(self.channels(topic), visible)

    def producers(self) -> list[Producer]:
        """All producers that are connected, active or not."""
        return list(self._producers)

    def nodes(self, now: float) -> list[Producer]:
        """The producers that are active."""
        return [producer for producer in self._producers if self.is_active(producer, now)]

    def is_active(self, producer: Producer, now: float) -> bool:
        """Whether it was heard of lately enough."""
        return now - producer.last_update <= self.inactive_after

    def is_tombstoned(self, producer: Producer, topic: str, now: float) -> bool:
        """Whether a tombstone hides it in a topic that it has."""
        since = producer.topics[topic]
        return since is not None and now - since < self.tombstone_lifetime

    @property
    def topic_count(self) -> int:
        """How many topics there are, with producers or without."""
        return len(self._topics)

    @property
    def channel_count(self) -> int:
        """How many channels of all topics there are, with producers or without."""
        return self.key_count - len(self._topics)

    def tombstone_count(self, now: float) -> int:
        """How many tombstones hide something now. Costs as much as have come to their end since the last call."""
        tombstones = self._tombstones
        while tombstones:
            key, since = next(iter(tombstones.items()))
            if now - since < self.tombstone_lifetime:
                break
            del tombstones[key]
        return len(tombstones)

    def registered(self) -> Iterator[tuple[tuple[str, str, str], Iterable[Producer]]]:
        """(category, topic, channel) and producers of everything that has producers, for a look inside.

        Categories are `client` (every producer, both names empty), `topic` and `channel`. Do not change the registry
        before the end of it.
        """
        if self._producers:
            yield ("client", "", ""), self._producers
        for topic, key in self._topics.items():
            if key.producers:
                yield ("topic", topic, ""), key.producers
        for topic, keys in self._channels.items():
            for channel, key in keys.items():
                if key.producers:
                    yield ("channel", topic, channel), key.producers

    # --- inside

    def _claim_registrations(self, count: int) -> None:
        if count and self.registration_count + count > self.limits.registrations:
            raise Full("too many registrations")

    def _make_keys(self, topic: str, channel: str) -> None:
        """Make what is not there of the topic and, unless empty, the channel."""
        needs_topic = topic not in self._topics
        needs_channel = bool(channel) and channel not in self._channels.get(topic, ())
        if not needs_topic and not needs_channel:
            return
        if self.key_count + needs_topic + needs_channel > self.limits.keys:
            raise Full("too many topics and channels")
        if needs_topic:
            self._topics[topic] = _Key(topic)
        if needs_channel:
            self._channels.setdefault(self._topics[topic].name, {})[channel] = _Key(channel)
        self.key_count += needs_topic + needs_channel

    def _leave_topic(self, producer: Producer, topic: str) -> None:
        if topic in producer.topics:
            assert topic not in producer.channels, "registered for a channel, but not for its topic"
            del producer.topics[topic]
            self._tombstones.pop((producer, topic), None)
            del self._topics[topic].producers[producer]
            self.registration_count -= 1

    def _leave_channel(self, producer: Producer, topic: str, channel: str) -> None:
        mine = producer.channels.get(topic, set())
        if channel in mine:
            mine.remove(channel)
            if not mine:
                del producer.channels[topic]
            del self._channels[topic][channel].producers[producer]
            self.registration_count -= 1

    @staticmethod
    def _is_deserted(key: _Key | None) -> bool:
        """Whether the key is there and nobody has it."""
        return key is not None and not key.producers

    def _drop_topic(self, topic: str) -> None:
        del self._topics[topic]
        self.key_count -= 1

    def _drop_channel(self, topic: str, channel: str) -> None:
        keys = self._channels[topic]
        del keys[channel]
        if not keys:
            del self._channels[topic]
        self.key_count -= 1
