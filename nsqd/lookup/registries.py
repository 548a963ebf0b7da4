"""All nsqlookupds of this nsqd: topics and channels are announced to them, and new topics are looked up there.

Rules:

- No registry delays the broker or another registry: each has its own task, and the broker's notifications return at
  once.
- Deliveries do not depend on registries. A topic that is created while at least one can be queried is not started
  before its channels elsewhere are known, or the query has timed out; its publishers and subscribers are answered at
  once all the same, and messages published meanwhile wait in the topic. nsqd may stop before the query has ended, so
  the same applies to recovered topics none of whose messages were given to a channel.
- The broker is changed in rounds only. A topic that was deleted (and perhaps created again) during its query is not
  touched: topics are compared by identity, not by name. A channel of it that was deleted during the query is not
  created, even if registries list it: they may know it from this nsqd itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import trio

from nsqd.broker import Broker, Channel, Listener, Refused, Topic
from nsqd.lookup.known_channels import KnownChannels
from nsqd.lookup.peer import Peer, PeerOptions
from nsqkit.logging import get_logger

__all__ = ["Registries", "RoundControl"]

log = get_logger("nsqd")

CHANNELS_PER_ROUND = 100  # created by a query; each is an append of its own
START_RETRY_INTERVAL = 1.0  # seconds, after a write error
REGISTRIES_TIMEOUT = 5.0  # seconds that recovered topics wait for the connections to the registries


class RoundControl(Protocol):
    """Begins and ends the rounds in which the broker may be changed."""

    def begin(self) -> None: ...
    def end(self) -> None: ...


class Registries(Listener):
    """The registries of one broker. Installs itself as the broker's listener; `run` maintains the connections."""

    def __init__(
        self, broker: Broker, rounds: RoundControl, peer_options: PeerOptions, query: KnownChannels
    ) -> None:
        self._broker = broker
        self._rounds = rounds
        self._peer_options = peer_options
        self._query = query
        self._peers: dict[str, Peer] = {}
        # For each topic with a query in progress: channels deleted since it began.
        self._deleted: dict[Topic, set[str]] = {}
        self._nursery: trio.Nursery | None = None
        broker.listener = self
        broker.lookup_first = self.lookup_first

    async def run(self) -> None:
        """Maintain the connections until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                for peer in self._peers.values():
                    self._nursery.start_soon(peer.run)
                await self._prepare_recovered()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- addresses

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Set the addresses: connect to new ones, close removed ones, leave the others. Duplicates count once."""
        for address in self._peers.keys() - set(addresses):
            log.info("LOOKUPD(%s): removed", address)
            self._peers.pop(address).close()
        for address in addresses:
            if address not in self._peers:
                self._peers[address] = peer = Peer(address, self._broker.topics, self._peer_options)
                if self._nursery is not None:
                    self._nursery.start_soon(peer.run)

    @property
    def identified(self) -> list[str]:
        """The addresses of the registries that have answered IDENTIFY on the present connection."""
        return [peer.address for peer in self._peers.values() if peer.identified]

    # --- notifications by the broker

    def topic_created(self, topic: Topic) -> None:
        for peer in self._peers.values():
            peer.topic_created(topic.name)

    def topic_deleted(self, topic: Topic) -> None:
        for peer in self._peers.values():
            peer.topic_deleted(topic.name)

    def channel_created(self, topic: Topic, channel: Channel) -> None:
        for peer in self._peers.values():
            peer.channel_created(topic.name, channel.name)

    def channel_deleted(self, topic: Topic, channel: Channel) -> None:
        if topic in self._deleted:
            self._deleted[topic].add(channel.name)
        for peer in self._peers.values():
            peer.channel_deleted(topic.name, channel.name)

    # --- a new topic

    async def known_channels(self, topic: str) -> set[str]:
        """The durable channels of this topic that the registries know; bounded in time, never raises."""
        return await self._query.ask([peer.http for peer in self._peers.values() if peer.http], topic)

    def lookup_first(self, topic: Topic) -> bool:
        """Whether a new topic has to wait. If so, a task queries for its channels and starts it."""
        if self._nursery is None or not any(peer.http for peer in self._peers.values()):
            return False
        self._deleted[topic] = set()
        self._nursery.start_soon(self._prepare_topic, topic)
        return True

    async def _prepare_recovered(self) -> None:
        """Prepare the topics that recovery has not started, once the registries are connected."""
        assert self._nursery is not None
        recovered = [topic for topic in self._broker.topics.values() if not topic.started]
        for topic in recovered:
            self._deleted[topic] = set()
        if recovered:
            with trio.move_on_after(REGISTRIES_TIMEOUT):
                for peer in list(self._peers.values()):
                    await peer.reached.wait()
        for topic in recovered:
            self._nursery.start_soon(self._prepare_topic, topic)

    async def _prepare_topic(self, topic: Topic) -> None:
        try:
            names = sorted(await self.known_channels(topic.name))
            for at in range(0, len(names), CHANNELS_PER_ROUND):
                with self._round():
                    self._create_channels(topic, names[at : at + CHANNELS_PER_ROUND])
                await trio.lowlevel.checkpoint()  # rounds stay short, even with thousands of channels
        finally:
            del self._deleted[topic]
        while True:
            if self._start(topic):
                return
            await trio.sleep(START_RETRY_INTERVAL)

    def _create_channels(self, topic: Topic, names: list[str]) -> None:
        if not self._is_alive(topic):
            return
        try:
            for name in names:
                if name not in self._deleted[topic]:
                    topic.channel(name)
        except Refused as reason:
            log.error(
                "TOPIC(%s): failed to create the channels that registries know - %s", topic.name, reason
            )

    def _start(self, topic: Topic) -> bool:
        """Start a topic. False if it could not be written, and has to be tried again."""
        with self._round():
            try:
                if self._is_alive(topic):
                    topic.start()
            except Refused as reason:
                log.error("TOPIC(%s): failed to start - %s; retrying in a second", topic.name, reason)
                return False
        return True

    def _is_alive(self, topic: Topic) -> bool:
        return self._broker.topics.get(topic.name) is topic

    @contextlib.contextmanager
    def _round(self) -> Iterator[None]:
        self._rounds.begin()
        try:
            yield
        finally:
            self._rounds.end()
