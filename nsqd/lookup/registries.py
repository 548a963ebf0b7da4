"""All nsqlookupds of this nsqd: topics and channels are announced to them, and new topics are looked up there.

Rules:

- No registry delays the broker or another registry: each has its own task, and the broker's notifications return at
  once.
- Deliveries do not depend on registries. A topic that is created while at least one can be queried is not started
  before its channels elsewhere are known, or the query has timed out; its publishers and subscribers are answered at
  once all the same, and messages published meanwhile wait in the topic. nsqd may stop before the query has ended, so
  the same applies to recovered topics none of whose messages were given to a channel.
- There may be thousands of recovered topics. New topics, and recovered ones that a client publishes to or subscribes
  to, are queried first. A registry is queried for recovered topics when it is connected; one that is not connected
  within `REGISTRIES_TIMEOUT` is not queried, and delays no query to another.
- The broker is changed in rounds only. A topic that was deleted (and perhaps created again) during its query is not
  touched: topics are compared by identity, not by name. A channel of it that was deleted during the query is not
  created, even if registries list it: they may know it from this nsqd itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs
import trio

from nsqd.broker import Broker, Channel, Listener, Refused, Topic
from nsqd.lookup.known_channels import KnownChannels, Query
from nsqd.lookup.peer import REPLY_TIMEOUT, Followers, Peer, PeerOptions
from nsqd.lookup.protocol import (
    MAX_FOLLOWERS,
    Heard,
    HttpAddress,
    RegistryError,
    WitnessAnswer,
    encode_grant,
    encode_leaving,
    encode_release,
    parse_grant,
)
from nsqd.lookup.urgent_first import UrgentFirst
from nsqkit.logging import get_logger
from nsqkit.yielder import Yielder

__all__ = ["Registries", "RoundControl"]

log = get_logger("nsqd")

CHANNELS_PER_ROUND = 100  # created by a query; each is an append of its own
START_RETRY_INTERVAL = 1.0  # seconds, after a write error
REGISTRIES_TIMEOUT = 5.0  # seconds that recovered topics wait for the connections to the registries
GRANT_TIMEOUT = 2 * REPLY_TIMEOUT  # commands may be under way when it is asked
LEAVING_TIMEOUT = 1.0  # seconds


@attrs.define(eq=False)
class _Preparation:
    """What a topic waits for before it is started: its query. `deleted`: channels deleted since that began."""

    topic: Topic
    query: Query
    deleted: set[str] = attrs.field(factory=set)


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
        self._followers: Followers | None = None
        self._preparations: dict[Topic, _Preparation] = {}  # from the query to the start of a topic
        self._ready: UrgentFirst[_Preparation] = UrgentFirst()  # those whose queries have ended
        self._woken = trio.Event()  # set when `_ready` is no longer empty
        self._nursery: trio.Nursery | None = None
        broker.listener = self
        broker.lookup_first = self.lookup_first

    async def run(self) -> None:
        """Maintain the connections until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                for peer in self._peers.values():
                    self._nursery.start_soon(peer.run)
                self._prepare_recovered()
                await self._start_topics()
        finally:
            self._nursery = None

    # --- addresses

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Set the addresses: connect to new ones, close removed ones, leave the others. Duplicates count once."""
        for address in self._peers.keys() - set(addresses):
            log.info("LOOKUPD(%s): removed", address)
            self._peers.pop(address).close()
        self._query.keep_only(self.http_addresses)
        for address in addresses:
            if address not in self._peers:
                self._peers[address] = peer = Peer(address, self._broker.topics, self._peer_options)
                if self._followers is not None:
                    peer.announce_followers(self._followers)
                if self._nursery is not None:
                    self._nursery.start_soon(peer.run)

    @property
    def identified(self) -> list[str]:
        """The addresses of the registries that have answered IDENTIFY on the present connection."""
        return [peer.address for peer in self._peers.values() if peer.identified]

    @property
    def http_addresses(self) -> list[HttpAddress]:
        """Where those can be asked over HTTP that were connected once."""
        return [peer.http for peer in self._peers.values() if peer.http]

    # --- copies on other nodes: registries as witnesses; an nsqd without copies calls none of these

    def announce_followers(self, lives: Sequence[str], adopt_after: float, restart_grace: float) -> None:
        """Say who may adopt the life of this nsqd, now and after each connect; `MAX_FOLLOWERS` lives at most.

        An empty list withdraws an earlier one. `adopt_after`, `restart_grace`: seconds of silence, until which nobody
        may; the latter after `leaving`.
        """
        followers = Followers(tuple(lives[:MAX_FOLLOWERS]), adopt_after, restart_grace)
        if followers == self._followers:
            return
        self._followers = followers
        for peer in self._peers.values():
            peer.announce_followers(followers)

    async def grants(self, life: str) -> list[WitnessAnswer]:
        """Ask all registries whether this nsqd may adopt its copy of a life; within `GRANT_TIMEOUT`.

        A registry that has granted it grants it to no other follower, so `release` it when it is not adopted: also when
        too few have granted it, or two followers might wait for one another.
        """
        answers: list[WitnessAnswer] = []

        async def ask(peer: Peer) -> None:
            answers.append(await _grant_of(peer, life))

        async with trio.open_nursery() as nursery:
            for peer in self._peers.values():
                nursery.start_soon(ask, peer)
        return answers

    async def release(self, life: str) -> None:
        """Give back what `grants` got; within `GRANT_TIMEOUT`."""
        with trio.move_on_after(GRANT_TIMEOUT):
            await self._tell_witnesses(encode_release(life))

    async def leaving(self, *, for_good: bool) -> None:
        """Say that this nsqd stops, and disconnect from the registries that were told; within `LEAVING_TIMEOUT`.

        `for_good`: nothing is left here that could be adopted.
        """
        told = [peer for peer in self._peers.values() if peer.witness]
        with trio.move_on_after(LEAVING_TIMEOUT):
            await self._tell_witnesses(encode_leaving(for_good=for_good))
        for peer in told:
            peer.close()  # whatever it said from now on, it would be heard again

    async def _tell_witnesses(self, command: bytes) -> None:
        async with trio.open_nursery() as nursery:
            for peer in self._peers.values():
                nursery.start_soon(peer.ask, command)

    def heard(self) -> list[Heard]:
        """All registries, and when each has heard of this nsqd last."""
        return [
            Heard(peer.address, peer.witness, peer.heard_at, peer.is_here) for peer in self._peers.values()
        ]

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
        if topic in self._preparations:
            self._preparations[topic].deleted.add(channel.name)
        for peer in self._peers.values():
            peer.channel_deleted(topic.name, channel.name)

    def topic_awaited(self, topic: Topic) -> None:
        if (preparation := self._preparations.get(topic)) and not preparation.query.urgent:
            self._query.hurry(preparation.query)
            self._ready.hurry(preparation)

    # --- topics that are not started

    def lookup_first(self, topic: Topic) -> bool:
        """Whether a new topic has to wait. If so, the registries are queried for its channels, and it is started."""
        registries = self.http_addresses
        if self._nursery is None or not registries:
            return False
        query = self._prepare(topic, len(registries), urgent=True).query
        for registry in registries:
            self._query.ask(self._nursery, registry, query)
        return True

    def _prepare(self, topic: Topic, registries: int, *, urgent: bool) -> _Preparation:
        preparation = _Preparation(
            topic,
            Query(topic.name, lambda _: self._prepared(preparation), urgent=urgent, waiting_for=registries),
        )
        self._preparations[topic] = preparation
        return preparation

    def _prepared(self, preparation: _Preparation) -> None:
        """A query has ended. The topic is started by the task that starts all of them, between other tasks."""
        self._ready.put(preparation, urgent=preparation.query.urgent)
        self._woken.set()

    def _prepare_recovered(self) -> None:
        """Query for the topics that recovery has not started."""
        assert self._nursery is not None
        peers = list(self._peers.values())
        recovered = [topic for topic in self._broker.topics.values() if not topic.started]
        preparations = [self._prepare(topic, len(peers), urgent=False) for topic in recovered]
        if not peers:
            for preparation in preparations:
                self._prepared(preparation)
        elif preparations:
            for peer in peers:
                self._nursery.start_soon(self._ask_when_reached, peer, [p.query for p in preparations])

    async def _ask_when_reached(self, peer: Peer, queries: Sequence[Query]) -> None:
        assert self._nursery is not None
        with trio.move_on_after(REGISTRIES_TIMEOUT):
            await peer.reached.wait()
        yielder = Yielder()
        for query in queries:
            if peer.http:
                self._query.ask(self._nursery, peer.http, query)
            else:
                query.ended_for_one()
            await yielder.maybe_yield()

    async def _start_topics(self) -> None:
        """Start the topics whose queries have ended, until cancelled: in slices, as there may be thousands at once."""
        yielder = Yielder()
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            while self._ready:
                await self._start_prepared(self._ready.pop())
                await yielder.maybe_yield()

    async def _start_prepared(self, preparation: _Preparation) -> None:
        assert self._nursery is not None
        names = sorted(preparation.query.channels)
        for at in range(0, len(names), CHANNELS_PER_ROUND):
            with self._round():
                self._create_channels(preparation, names[at : at + CHANNELS_PER_ROUND])
            if at + CHANNELS_PER_ROUND < len(names):
                await trio.lowlevel.checkpoint()  # rounds stay short, even with thousands of channels
        del self._preparations[preparation.topic]
        if not self._start(preparation.topic):
            self._nursery.start_soon(self._start_later, preparation.topic)

    async def _start_later(self, topic: Topic) -> None:
        while True:
            await trio.sleep(START_RETRY_INTERVAL)
            if self._start(topic):
                return

    def _create_channels(self, preparation: _Preparation, names: list[str]) -> None:
        topic = preparation.topic
        if not self._is_alive(topic):
            return
        try:
            for name in names:
                if name not in preparation.deleted:
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


async def _grant_of(peer: Peer, life: str) -> WitnessAnswer:
    witness = peer.witness
    if not peer.identified:
        return WitnessAnswer(peer.address, "", granted=False, reason="not connected")
    if not witness:
        return WitnessAnswer(
            peer.address, "", granted=False, reason="it is no witness, as the original's nsqlookupd"
        )
    reply: bytes | None = None
    with trio.move_on_after(GRANT_TIMEOUT):
        reply = await peer.ask(encode_grant(life))
    if reply is None:
        return WitnessAnswer(peer.address, witness, granted=False, reason="no answer")
    try:
        grant = parse_grant(reply)
    except RegistryError as error:
        return WitnessAnswer(peer.address, witness, granted=False, reason=str(error))
    return WitnessAnswer(peer.address, witness, grant.granted, grant.reason)
