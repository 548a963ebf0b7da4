"""All nsqlookupds of this nsqd: who is told what comes and goes, and who is asked when a topic is created.

Rules:

- No registry delays anybody: each has a task of its own, and the broker's notifications return at once.
- Losing all registries touches no delivery. A topic that is created while at least one can be asked is not started
  before its channels elsewhere are known, or the limit of the question has passed; its publishers and subscribers are
  answered at once all the same, and what is published meanwhile waits in the topic. A stop may come before the answer:
  so the same holds for topics that recovery brings without any of their messages having gone to a channel.
- The broker is changed in rounds only, and a topic that was deleted (and perhaps made again) while its channels were
  asked for is left alone: what counts is the object, not the name. A channel of it that is deleted meanwhile stays
  deleted, whatever the registries say: they may know it from this nsqd itself.
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

__all__ = ["Registries", "Rounds"]

log = get_logger("nsqd")

CHANNELS_A_ROUND = 100  # each is a write of its own
START_AGAIN = 1.0  # seconds, after the disk refused
FOUND_WITHIN = 5.0  # seconds after a start; who has no registry by then starts without


class Rounds(Protocol):
    """The rhythm in which the broker may be changed."""

    def begin(self) -> None: ...
    def end(self) -> None: ...


class Registries(Listener):
    """The registries of one broker. Becomes its listener; `run` keeps the connections."""

    def __init__(
        self, broker: Broker, rounds: Rounds, peer_options: PeerOptions, query: KnownChannels
    ) -> None:
        self._broker = broker
        self._rounds = rounds
        self._peer_options = peer_options
        self._query = query
        self._peers: dict[str, Peer] = {}
        self._deleted: dict[
            Topic, set[str]
        ] = {}  # of each topic that is asked for: channels deleted meanwhile
        self._nursery: trio.Nursery | None = None
        broker.listener = self
        broker.lookup_first = self.lookup_first

    async def run(self) -> None:
        """Keep the connections until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                for peer in self._peers.values():
                    self._nursery.start_soon(peer.run)
                await self._prepare_recovered()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- which there are

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """From now on these, each once: new ones are connected at once, removed ones closed, the others untouched."""
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
        """The addresses of those that are connected and know this nsqd."""
        return [peer.address for peer in self._peers.values() if peer.identified]

    # --- what comes and goes

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
        """The durable channels that the registries know of this topic; bounded in time, never raises."""
        return await self._query.ask([peer.http for peer in self._peers.values() if peer.http], topic)

    def lookup_first(self, topic: Topic) -> bool:
        """Whether the topic has to wait; then it is started by a task that asks for its channels."""
        if self._nursery is None or not any(peer.http for peer in self._peers.values()):
            return False
        self._deleted[topic] = set()
        self._nursery.start_soon(self._prepare, topic)
        return True

    async def _prepare_recovered(self) -> None:
        """Ask for those that recovery has not started, as soon as the registries are there."""
        assert self._nursery is not None
        recovered = [topic for topic in self._broker.topics.values() if not topic.started]
        for topic in recovered:
            self._deleted[topic] = set()
        if recovered:
            with trio.move_on_after(FOUND_WITHIN):
                for peer in list(self._peers.values()):
                    await peer.reached.wait()
        for topic in recovered:
            self._nursery.start_soon(self._prepare, topic)

    async def _prepare(self, topic: Topic) -> None:
        try:
            names = sorted(await self.known_channels(topic.name))
            for at in range(0, len(names), CHANNELS_A_ROUND):
                with self._round():
                    self._create_channels(topic, names[at : at + CHANNELS_A_ROUND])
                await trio.lowlevel.checkpoint()
        finally:
            del self._deleted[topic]
        while True:
            if self._start(topic):
                return
            await trio.sleep(START_AGAIN)

    def _create_channels(self, topic: Topic, names: list[str]) -> None:
        if not self._is_alive(topic):
            return
        try:
            for name in names:
                if name not in self._deleted[topic]:
                    topic.channel(name)
        except Refused as reason:
            log.error("TOPIC(%s): channels that the registries know are not created - %s", topic.name, reason)

    def _start(self, topic: Topic) -> bool:
        """Let it flow. False when the disk refused, and it has to be tried again."""
        with self._round():
            try:
                if self._is_alive(topic):
                    topic.start()
            except Refused as reason:
                log.error("TOPIC(%s): failed to start, tried again - %s", topic.name, reason)
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
