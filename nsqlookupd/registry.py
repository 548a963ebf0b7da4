"""The registry: connected producers, and the topics and channels that they have registered.

Rules:

- Everything is in memory; after a restart the registry is empty and the nsqds register anew.
- A **key** is a topic, or a channel of a topic. It is created by its first registration or by an operator, and stays
  without producers until it is deleted. The exception: an `#ephemeral` key is removed when its last producer
  *unregisters*; not when that disconnects.
- A **producer** is one connection of an nsqd that has identified itself. An nsqd connected twice is two producers. A
  producer that is registered for a channel is registered for its topic too.
- A producer without a sign of life for `inactive_after` seconds is hidden from look-ups and nodes; its registrations
  are kept, and the next PING makes it visible again.
- A **tombstone** belongs to one producer in one topic and hides it from look-ups of that topic for `tombstone_lifetime`
  seconds. Registering again does not remove it; after a reconnect there is a new producer, without a tombstone.

Theory of operation: synchronous, no I/O; time is an argument (seconds of a monotonic clock). Both directions are
indexed: a key has its producers, a producer its keys. So the cost of REGISTER and UNREGISTER is constant, that of a
disconnect is proportional to the producer's registrations, that of a look-up to its result. A name is stored once,
however many producers have registered it.

The number of keys and of registrations is bounded (`RegistryLimits`), as a client can register any number of names. At
a limit, and only then,

1. keys without producers give way, the longest without first: those of the address that has left most of them behind.
   An address that has created more than half of all keys does not displace the few (a hundredth) of another.
2. Without such keys, the address with most registrations gives way to one that has less than half of its number, and
   within one address the producer with most to one with less than half of its number: that producer is evicted, its
   connection is closed. Operators displace no producers.
3. Otherwise `Full` is raised.

So what a peer has registered and left, or holds in masses, keeps nobody out. A key belongs to the address that has
created it; all operators count as one address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from typing import Final

import attrs

from nsqkit.service.shares import Shares, remote_group
from nsqkit.wire.names import is_ephemeral

__all__ = ["Found", "Full", "Producer", "ProducerInfo", "Registry", "RegistryLimits"]

_OPERATORS: Final = "operators"  # the owner of the keys that were created over HTTP


class Full(Exception):
    """There is no room for another key or registration."""


@attrs.frozen(kw_only=True)
class RegistryLimits:
    """Upper bounds; the defaults are far above the size of any cluster."""

    keys: int = 1_000_000
    """Topics and channels, in total."""
    registrations: int = 10_000_000
    """Pairs of a producer and a topic, and of a producer and a channel, in total."""
    per_producer: int = 0
    """The same of one producer; 0: no limit."""


@attrs.frozen(kw_only=True)
class ProducerInfo:
    """The fields of an nsqd's IDENTIFY."""

    remote_address: str
    """`ip:port` of its connection; `@` on a unix socket."""
    hostname: str = ""
    broadcast_address: str
    tcp_port: int
    http_port: int
    version: str
    topology_zone: str = ""
    topology_region: str = ""
    life: str = ""
    """Of its data path, 32 hexadecimal digits; empty for an nsqd that has to do with no copies. See `witness.py`."""
    incarnation: int = 0
    replication_address: str = ""
    """`host:port` where it takes copies of others; empty if it takes none."""
    stands_in_for: str = ""
    """The life whose copy it serves; empty if it is no stand-in."""

    @property
    def node(self) -> str:
        """The name under which it is tombstoned."""
        return f"{self.broadcast_address}:{self.http_port}"


def _ignore() -> None:
    """Nobody is to be told."""


def _ignore_topic(_topic: str) -> None:
    """Nobody is to be told."""


@attrs.define(eq=False)
class Producer:
    """One connected nsqd and what it has registered. Only the registry changes it."""

    info: ProducerInfo
    last_update: float
    """When it was last heard of, in seconds of the registry's clock."""
    topics: dict[str, float | None] = attrs.field(factory=dict)
    """Its topics, each with the time of its tombstone; None without one."""
    channels: dict[str, set[str]] = attrs.field(factory=dict)
    """Its channels by topic; topics without a channel have no entry."""
    on_evicted: Callable[[], None] = _ignore
    """Called when it had to give way; it is no producer any more."""
    group: str = attrs.field(init=False)
    """Its address, as far as limits are concerned."""

    def __attrs_post_init__(self) -> None:
        self.group = remote_group(self.info.remote_address)


@attrs.define(eq=False)
class _Key:
    """A topic or a channel, which is empty for a topic. `owner`: the group of the producer that created it."""

    topic: str
    channel: str
    owner: str
    producers: dict[Producer, None] = attrs.field(factory=dict)
    version: int = 0
    """Of a topic; see `Registry.version`."""


@attrs.frozen
class Found:
    """The result of a look-up."""

    channels: list[str]
    producers: list[ProducerInfo]


class Registry:
    """The registrations of one nsqlookupd. All times are seconds of one clock that never goes back."""

    def __init__(
        self,
        *,
        inactive_after: float = 300.0,
        tombstone_lifetime: float = 45.0,
        limits: RegistryLimits | None = None,
    ) -> None:
        self.inactive_after = inactive_after
        self.tombstone_lifetime = tombstone_lifetime
        self.limits = limits or RegistryLimits()
        self.on_topic_changed: Callable[[str], None] = _ignore_topic
        """Called with each topic whose version has changed."""
        self.key_count = 0
        self._changes = 0
        self._registrations: Shares[Producer] = Shares()
        self._producers: dict[Producer, None] = {}
        self._topics: dict[str, _Key] = {}
        self._tombstones: dict[tuple[Producer, str], float] = {}
        """The times at which they were set, the oldest first; used to count them. Look-ups use `Producer.topics`."""
        self._channels: dict[str, dict[str, _Key]] = {}
        """By topic, which may have no key itself. There are no empty dicts in it."""
        self._keys_of: Counter[str] = Counter()
        """The number of keys by owner."""
        self._orphans: dict[str, dict[_Key, None]] = {}
        """The keys without producers by owner, the longest without first. There are no empty dicts in it."""

    # --- commands of nsqds

    def identify(self, info: ProducerInfo, now: float, on_evicted: Callable[[], None] = _ignore) -> Producer:
        """Add a producer that has connected. `on_evicted` is called if it has to give way to others."""
        producer = Producer(info, now, on_evicted=on_evicted)
        self._producers[producer] = None
        return producer

    def ping(self, producer: Producer, now: float) -> None:
        """Note a sign of life of the producer. Registering is none."""
        assert producer in self._producers, "a disconnected producer"
        producer.last_update = now

    def register(self, producer: Producer, topic: str, channel: str = "") -> None:
        """Register the producer for a topic and, unless empty, a channel of it.

        An existing registration is left unchanged, with its tombstone. `Full`: the producer has nothing new.
        """
        assert producer in self._producers, "a disconnected producer"
        has_topic = topic in producer.topics
        has_channel = not channel or channel in producer.channels.get(topic, ())
        needed = (not has_topic) + (not has_channel)
        if not needed:
            return
        most = self.limits.per_producer
        if most and self._registrations.of(producer.group).get(producer, 0) + needed > most:
            raise Full(f"too many registrations of one nsqd ({most})")
        while self.registration_count + needed > self.limits.registrations:
            if not self._evict_for(producer):
                raise Full("too many registrations")
        self._make_keys(topic, channel, producer)
        if not has_topic:
            key = self._topics[topic]
            self._add_producer(key, producer)
            producer.topics[key.topic] = None
        if not has_channel:
            key = self._channels[topic][channel]
            self._add_producer(key, producer)
            producer.channels.setdefault(self._topics[topic].topic, set()).add(key.channel)

    def unregister(self, producer: Producer, topic: str, channel: str = "") -> None:
        """Unregister the producer from a channel or, without one, from the topic and all its channels."""
        assert producer in self._producers, "a disconnected producer"
        if channel:
            self._remove_from_channel(producer, topic, channel)
            self._drop_if_ephemeral(self._channels.get(topic, {}).get(channel))
            return
        for name in list(producer.channels.get(topic, ())):
            self._remove_from_channel(producer, topic, name)
        self._remove_from_topic(producer, topic)
        self._drop_if_ephemeral(self._topics.get(topic))

    def disconnect(self, producer: Producer) -> None:
        """Remove a producer whose connection has ended; the keys stay. To be called once for each."""
        del self._producers[producer]
        for topic, channels in producer.channels.items():
            keys = self._channels[topic]
            for channel in channels:
                self._detach(keys[channel], producer)
        for topic in producer.topics:
            self._detach(self._topics[topic], producer)
            self._tombstones.pop((producer, topic), None)
        self._registrations.remove(producer.group, producer)
        producer.topics.clear()
        producer.channels.clear()

    # --- commands of operators

    def create_topic(self, topic: str) -> None:
        """Create a topic without producers, if it does not exist. `Full`: nothing was changed."""
        self._make_keys(topic, "", None)

    def create_channel(self, topic: str, channel: str) -> None:
        """Create a channel without producers, and its topic, if they do not exist. `Full`: nothing was changed."""
        self._make_keys(topic, channel, None)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic, if it exists, with all its channels and registrations. Producers are not notified."""
        for channel in self.channels(topic):
            self.delete_channel(topic, channel)
        key = self._topics.get(topic)
        if key is not None:
            for producer in list(key.producers):
                self._remove_from_topic(producer, topic)
            self._drop(key)

    def delete_channel(self, topic: str, channel: str) -> bool:
        """Delete a channel with its registrations; False if it does not exist. Producers are not notified."""
        key = self._channels.get(topic, {}).get(channel)
        if key is None:
            return False
        for producer in list(key.producers):
            self._remove_from_channel(producer, topic, channel)
        self._drop(key)
        return True

    def tombstone(self, topic: str, node: str, now: float) -> int:
        """Set a tombstone on each producer of the topic with this `ProducerInfo.node`; returns their number."""
        key = self._topics.get(topic)
        hidden = [p for p in key.producers if p.info.node == node] if key is not None else []
        if hidden and key is not None:
            self._topic_changed(key)
        for producer in hidden:
            producer.topics[topic] = now
            self._tombstones.pop((producer, topic), None)
            self._tombstones[producer, topic] = now
        return len(hidden)

    # --- queries

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

    def version(self, topic: str) -> int:
        """A number that is another one after each change of the topic's producers or tombstones; 0: no such topic.

        What time alone changes does not change it.
        """
        key = self._topics.get(topic)
        return key.version if key is not None else 0

    def producers(self) -> list[Producer]:
        """All connected producers, active or not."""
        return list(self._producers)

    def nodes(self, now: float) -> list[Producer]:
        """The producers that are active."""
        return [producer for producer in self._producers if self.is_active(producer, now)]

    def is_active(self, producer: Producer, now: float) -> bool:
        """Whether its last sign of life is at most `inactive_after` seconds ago."""
        return now - producer.last_update <= self.inactive_after

    def is_tombstoned(self, producer: Producer, topic: str, now: float) -> bool:
        """Whether a tombstone hides the producer in one of its topics."""
        since = producer.topics[topic]
        return since is not None and now - since < self.tombstone_lifetime

    @property
    def registration_count(self) -> int:
        """The pairs of a producer and a topic, and of a producer and a channel."""
        return self._registrations.total

    @property
    def topic_count(self) -> int:
        """The number of topics, with producers or without."""
        return len(self._topics)

    @property
    def channel_count(self) -> int:
        """The number of channels of all topics, with producers or without."""
        return self.key_count - len(self._topics)

    def tombstone_count(self, now: float) -> int:
        """The number of tombstones in effect. The cost is that of those that have expired since the last call."""
        tombstones = self._tombstones
        while tombstones:
            key, since = next(iter(tombstones.items()))
            if now - since < self.tombstone_lifetime:
                break
            del tombstones[key]
        return len(tombstones)

    def registered(self) -> Iterator[tuple[tuple[str, str, str], Iterable[Producer]]]:
        """(category, topic, channel) and producers of everything that has producers, for debugging.

        Categories are `client` (every producer, both names empty), `topic` and `channel`. The registry must not be
        changed during the iteration.
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

    # --- helpers

    def _make_keys(self, topic: str, channel: str, producer: Producer | None) -> None:
        """Create the topic and, unless empty, the channel, if they do not exist. None: an operator does."""
        needs_topic = topic not in self._topics
        needs_channel = bool(channel) and channel not in self._channels.get(topic, ())
        if not needs_topic and not needs_channel:
            return
        if self.key_count + needs_topic + needs_channel > self.limits.keys:
            self._make_room(topic, channel, producer)
        owner = producer.group if producer is not None else _OPERATORS
        if needs_topic:
            key = self._topics[topic] = _Key(topic, "", owner)
            self._key_added(key)
        if needs_channel:
            name = self._topics[topic].topic
            key = self._channels.setdefault(name, {})[channel] = _Key(name, channel, owner)
            self._key_added(key)

    def _key_added(self, key: _Key) -> None:
        self.key_count += 1
        self._keys_of[key.owner] += 1
        self._orphans.setdefault(key.owner, {})[key] = None
        self._topic_changed(key)

    def _topic_changed(self, key: _Key) -> None:
        """Give a topic another version; to be called when the change is done. Other keys have none."""
        if not key.channel:
            self._changes += 1
            key.version = self._changes
            self.on_topic_changed(key.topic)

    # --- at a limit

    def _make_room(self, topic: str, channel: str, producer: Producer | None) -> None:
        """Room for the keys of a topic and a channel, of which one may exist and stays. `Full`."""
        group = producer.group if producer is not None else _OPERATORS
        wanted = (self._topics.get(topic), self._channels.get(topic, {}).get(channel))
        kept = [key for key in wanted if key is not None]
        needed = 1 + bool(channel) - len(kept)
        while self.key_count + needed > self.limits.keys:
            orphan = self._orphan_to_drop(group, kept)
            if orphan is not None:
                self._drop(orphan)
            elif producer is None or not self._evict_for(producer):
                raise Full("too many topics and channels")

    def _orphan_to_drop(self, group: str, kept: list[_Key]) -> _Key | None:
        """The key without producers, none of `kept`, that gives way to this group first."""
        orphans = self._orphans
        # Three, as of two all that there is may have to be kept.
        for owner in nlargest(3, orphans, key=lambda owner: len(orphans[owner])):
            few = len(orphans[owner]) <= self.limits.keys // 100
            if few and owner != group and self._keys_of[group] > self.limits.keys // 2:
                continue
            for key in orphans[owner]:
                if key not in kept:
                    return key
        return None

    def _evict_for(self, producer: Producer) -> bool:
        """Evict the producer that has most; False if this one has not much less."""
        shares, group = self._registrations, producer.group
        largest = shares.largest()
        if not largest:
            return False
        victim = max(shares.of(largest), key=shares.of(largest).__getitem__)
        if largest == group:
            has_much_more = shares.of(group)[victim] > 2 * shares.of(group).get(producer, 0) + 2
        else:
            has_much_more = shares.sum_of(largest) > 2 * shares.sum_of(group) + 2
        if not has_much_more:
            return False
        self.disconnect(victim)
        victim.on_evicted()
        return True

    # --- keys and their producers

    def _add_producer(self, key: _Key, producer: Producer) -> None:
        if not key.producers:
            self._not_orphaned(key)
        key.producers[producer] = None
        self._topic_changed(key)
        self._registrations.add(producer.group, producer, 1)

    def _remove_producer(self, key: _Key, producer: Producer) -> None:
        self._detach(key, producer)
        self._registrations.add(producer.group, producer, -1)

    def _detach(self, key: _Key, producer: Producer) -> None:
        del key.producers[producer]
        self._topic_changed(key)
        if not key.producers:
            self._orphans.setdefault(key.owner, {})[key] = None

    def _not_orphaned(self, key: _Key) -> None:
        orphans = self._orphans[key.owner]
        del orphans[key]
        if not orphans:
            del self._orphans[key.owner]

    def _remove_from_topic(self, producer: Producer, topic: str) -> None:
        if topic in producer.topics:
            assert topic not in producer.channels, "registered for a channel, but not for its topic"
            del producer.topics[topic]
            self._tombstones.pop((producer, topic), None)
            self._remove_producer(self._topics[topic], producer)

    def _remove_from_channel(self, producer: Producer, topic: str, channel: str) -> None:
        mine = producer.channels.get(topic, set())
        if channel in mine:
            mine.remove(channel)
            if not mine:
                del producer.channels[topic]
            self._remove_producer(self._channels[topic][channel], producer)

    def _drop_if_ephemeral(self, key: _Key | None) -> None:
        """Drop an ephemeral key, if it exists and has no producers left."""
        if key is not None and not key.producers and is_ephemeral(key.channel or key.topic):
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        """Forget a key that has no producers."""
        if key.channel:
            keys = self._channels[key.topic]
            del keys[key.channel]
            if not keys:
                del self._channels[key.topic]
        else:
            del self._topics[key.topic]
            self._topic_changed(key)
        self._not_orphaned(key)
        self.key_count -= 1
        self._keys_of[key.owner] -= 1
        if not self._keys_of[key.owner]:
            del self._keys_of[key.owner]
