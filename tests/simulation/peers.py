"""The connections of one nsqd to its nsqlookupds, as `nsqd.lookup.peer` and `nsqd.lookup.registries` have them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

import attrs

from nsqd.lookup.announcements import Announcements, HasChannels
from nsqd.lookup.backoff import LONGEST, Backoff
from nsqd.lookup.peer import PING_INTERVAL, PINGS_TO_ADOPTION, REPLY_TIMEOUT, Followers
from nsqd.lookup.protocol import (
    MAGIC,
    PING,
    STANDING,
    RegistryError,
    Replies,
    WitnessAnswer,
    check_reply,
    encode_grant,
    encode_identify,
    encode_leaving,
    encode_release,
    parse_grant,
    parse_identity,
    parse_standing,
)
from nsqd.lookup.registries import GRANT_TIMEOUT, LEAVING_TIMEOUT
from tests.nsqd.replication.simulation.machine import Process
from tests.nsqd.replication.simulation.network import End, Lost
from tests.nsqd.replication.simulation.surroundings import Surroundings

__all__ = ["Peer", "Peers"]


@attrs.define(eq=False)
class _Request:
    command: bytes
    reply: bytes | None = None
    ended: bool = False


@attrs.define(eq=False)
class Peer:
    """The connection of `source` to one registry. `on_ping`: as in `PeerOptions`."""

    world: Surroundings
    source: str
    registry: str
    identify: bytes
    announcements: Announcements
    ping_interval: float
    on_ping: Callable[..., None] | None
    witness: str = ""
    identified: bool = False
    followers: Followers | None = None
    followers_due: bool = False
    requests: list[_Request] = attrs.field(factory=list)
    process: Process[None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.process = self._run()

    def ask(self, command: bytes) -> _Request:
        request = _Request(command)
        if self.witness:
            self.requests.append(request)
        else:
            request.ended = True
        return request

    def _run(self) -> Process[None]:
        world = self.world
        backoff = Backoff(world.chance.random)
        while True:
            began = world.now
            with contextlib.suppress(Lost, RegistryError):
                yield from self._connection()
            if world.now - began >= LONGEST:
                backoff.reset()
            until = world.now + backoff.next()
            while world.now < until:
                yield

    def _connection(self) -> Process[None]:
        end = self.world.network.connect(self.source, self.registry)
        try:
            replies = Replies(1 << 20)
            (reply,) = yield from self._exchange(end, replies, [MAGIC + self.identify])
            self.witness, self.identified, self.followers_due = parse_identity(reply).witness, True, True
            self.announcements.restart()
            yield from self._announce(end, replies)
        finally:
            self._end()
            end.close()

    def _end(self) -> None:
        self.identified, self.witness = False, ""
        self.announcements.clear()
        for request in self.requests:
            request.ended = True
        self.requests.clear()

    def _exchange(self, end: End, replies: Replies, commands: list[bytes]) -> Process[list[bytes]]:
        world = self.world
        replies.awaited += len(commands)
        end.send_bytes(b"".join(commands))
        found: list[bytes] = []
        deadline = world.now + REPLY_TIMEOUT
        while replies.awaited:
            if (data := end.receive_bytes()) is not None:
                found += replies.feed(data)
                deadline = world.now + REPLY_TIMEOUT
            elif world.now >= deadline:
                raise Lost("no answer")
            else:
                yield
        return found

    def _announce(self, end: End, replies: Replies) -> Process[None]:
        world = self.world
        last_ping = world.now if self.on_ping is None else -math.inf
        while True:
            now = world.now
            requests = list(self.requests)
            commands = [request.command for request in requests]
            if self.followers_due and self.followers is not None and self.witness:
                commands.append(self.followers.command)
            self.followers_due = False
            commands += self.announcements.take(500)
            pings = now >= last_ping + self._ping_interval
            if pings:
                commands.append(STANDING if self.witness and self.on_ping is not None else PING)
                last_ping = now
            if commands:
                answers = yield from self._exchange(end, replies, commands)
                for answer in answers:
                    check_reply(answer)
                if pings and self.on_ping is not None:
                    adopted = bool(self.witness) and parse_standing(answers[-1])
                    self.on_ping(self.registry, adopted, now)
                for request, answer in zip(requests, answers, strict=False):
                    request.reply, request.ended = answer, True
                    if request in self.requests:
                        self.requests.remove(request)
                continue
            if (data := end.receive_bytes()) is not None:
                replies.feed(data)
            yield

    @property
    def _ping_interval(self) -> float:
        if not self.witness or self.followers is None:
            return self.ping_interval
        return min(self.ping_interval, self.followers.adopt_after / PINGS_TO_ADOPTION)


class Peers:
    """All of them. `fields`: of IDENTIFY. `topics`: the broker's."""

    def __init__(
        self,
        world: Surroundings,
        source: str,
        registries: Sequence[str],
        fields: Mapping[str, str | int],
        topics: Mapping[str, HasChannels],
        adopt_after: float,
        on_ping: Callable[..., None] | None = None,
    ) -> None:
        self._world = world
        interval = PING_INTERVAL if on_ping is None else min(PING_INTERVAL, adopt_after / PINGS_TO_ADOPTION)
        identify = encode_identify(fields)
        self.all = [
            Peer(world, source, name, identify, Announcements(topics), interval, on_ping)
            for name in registries
        ]

    def turn(self) -> None:
        for peer in self.all:
            next(peer.process, None)

    def close(self) -> None:
        for peer in self.all:
            peer.process.close()

    def announce_followers(self, followers: Followers) -> None:
        for peer in self.all:
            peer.followers, peer.followers_due = followers, True

    def grants(self, life: str) -> Process[list[WitnessAnswer]]:
        asked = [(peer, peer.witness, peer.ask(encode_grant(life))) for peer in self.all]
        yield from self._wait([request for _, _, request in asked], GRANT_TIMEOUT)
        answers: list[WitnessAnswer] = []
        for peer, witness, request in asked:
            if request.reply is None:
                answers.append(WitnessAnswer(peer.registry, witness, granted=False, reason="no answer"))
            else:
                grant = parse_grant(request.reply)
                answers.append(WitnessAnswer(peer.registry, witness, grant.granted, grant.reason))
        return answers

    def release(self, life: str) -> Process[None]:
        yield from self._wait([peer.ask(encode_release(life)) for peer in self.all], GRANT_TIMEOUT)

    def leaving(self, *, for_good: bool) -> Process[None]:
        told = [peer for peer in self.all if peer.witness]
        requests = [peer.ask(encode_leaving(for_good=for_good)) for peer in told]
        yield from self._wait(requests, LEAVING_TIMEOUT)
        for peer in told:
            peer.process.close()

    def _wait(self, requests: Sequence[_Request], timeout: float) -> Process[None]:
        deadline = self._world.now + timeout
        while self._world.now < deadline and not all(request.ended for request in requests):
            yield
