"""A machine with an nsqlookupd: the product's registry and witness, and the original, which is no witness."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import attrs

from nsqlookupd.protocol_v1 import Context, Session
from nsqlookupd.registry import ProducerInfo, Registry
from nsqlookupd.witness import DEFAULT_TERMS, Answer, Member, Terms, Witness
from tests.nsqd.replication.simulation.machine import Machine, Process
from tests.nsqd.replication.simulation.network import End, Lost

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Known", "RegistryMachine"]

KEEPALIVE: Final = 120.0  # seconds


@attrs.define(eq=False)
class Known:
    """What one registry was told of a life, as the checker has noted it."""

    info: ProducerInfo
    heard_at: float
    followers: tuple[str, ...] = ()
    adopt_after: float = DEFAULT_TERMS.adopt_after
    left: bool = False
    connections: int = 0
    granted: tuple[str, float] | None = None
    """To whom, and when; until that was given back, or the life was heard again."""


class ObservedWitness(Witness):
    """The checker is told what goes in, and what comes out."""

    def __init__(self, machine: RegistryMachine) -> None:
        super().__init__()
        self._machine = machine

    def connected(self, info: ProducerInfo, now: float) -> Member:
        if info.life not in self._machine.known:
            self._machine.forgotten.pop(info.life, None)  # it begins anew
        known = self._heard(info, now)
        known.info = info
        known.connections += 1
        self._machine.adopted.add(info.stands_in_for)
        return super().connected(info, now)

    def disconnected(self, member: Member) -> None:
        if (known := self._machine.known.get(member.info.life)) is not None:
            known.connections -= 1
        super().disconnected(member)

    def heard(self, member: Member, now: float) -> None:
        self._heard(member.info, now)
        super().heard(member, now)

    def _heard(self, info: ProducerInfo, now: float) -> Known:
        before = self._machine.forgotten.pop(info.life, None)
        known = self._machine.known.setdefault(info.life, before or Known(info, now))
        known.heard_at, known.left, known.granted = now, False, None
        return known

    def announce(self, member: Member, terms: Terms, now: float) -> None:
        known = self._machine.known[member.info.life]
        known.followers, known.adopt_after = terms.followers, terms.adopt_after
        super().announce(member, terms, now)

    def leave(self, member: Member, now: float, *, for_good: bool) -> None:
        known = self._machine.known
        if for_good:
            known.pop(member.info.life, None)
            owner = known.get(member.info.stands_in_for)
            silent = owner is not None and now - owner.heard_at >= self._machine.cluster.adopt_after
            if owner is not None and (silent or not owner.connections):
                # If it is heard on a connection that has not ended, it is as before.
                self._machine.forgotten[member.info.stands_in_for] = known.pop(member.info.stands_in_for)
        elif member.info.life in known:
            known[member.info.life].left = True
        super().leave(member, now, for_good=for_good)

    def grant(self, member: Member, life: str, now: float) -> Answer:
        answer = super().grant(member, life, now)
        self._machine.answered(member.info, life, answer)
        return answer

    def give_back(self, member: Member, life: str, now: float) -> None:
        known = self._machine.known.get(life)
        if known is not None and known.granted is not None and known.granted[0] == member.info.life:
            known.granted = None
        super().give_back(member, life, now)


@attrs.define(eq=False)
class RegistryMachine(Machine):
    """`original`: it ignores what the original does not know. `started`: when its process was, which has no memory.

    `known`: what it was told of lives since then.
    """

    original: bool = False
    started: float = 0.0
    known: dict[str, Known] = attrs.field(factory=dict)
    forgotten: dict[str, Known] = attrs.field(factory=dict)
    adopted: set[str] = attrs.field(factory=set)
    """Lives of which it has known a stand-in."""
    registry: Registry = attrs.field(factory=Registry)
    witness: Witness = attrs.field(factory=Witness)

    @property
    def cluster(self) -> Cluster:
        return self.world  # type: ignore[return-value]

    def lose_power(self) -> None:
        """It has no disk."""

    def lose_disk(self) -> None:
        """It has none."""

    def run(self) -> Process[None]:
        world = self.world
        self.started = world.now
        self.known, self.forgotten, self.adopted = {}, {}, set()
        self.registry = Registry()
        self.witness = ObservedWitness(self)
        identity = {"broadcast_address": self.name, "http_port": 4161, "tcp_port": 4160, "version": "1"}
        as_witness = identity if self.original else {**identity, "witness": self.witness.id}
        context = Context(
            registry=self.registry,
            identity=json.dumps(identity).encode(),
            witness_identity=json.dumps(as_witness).encode(),
            witness=self.witness,
        )
        sessions: list[tuple[End, Session]] = []
        world.network.listening.add(self.name)
        try:
            while True:
                yield
                self.witness.advance(world.now)
                for end in world.network.arrivals(self.name):
                    sessions.append((end, Session(context, f"{end.incoming.source}:1")))
                sessions = [each for each in sessions if self._serve(*each)]
        finally:
            for end, session in sessions:
                session.end()
                end.close()

    def _serve(self, end: End, session: Session) -> bool:
        """All that has arrived. False when the connection has ended."""
        try:
            if self.world.now - end.heard_at > KEEPALIVE:
                raise Lost("the kernel has had no answer")
            while (data := end.receive_bytes()) is not None:
                end.send_bytes(session.feed(data, self.world.now))
        except Lost:
            session.end()
            end.close()
            return False
        return True

    def answered(self, follower: ProducerInfo, life: str, answer: Answer) -> None:
        """It has said whether a follower may adopt a life."""
        world = self.cluster
        name = follower.broadcast_address
        if answer.changed:
            said = "grants" if answer.granted else "does not grant"
            world.tell(f"{self.name} {said} {life[:4]} to {name}: {answer.reason}")
        if answer.granted:
            world.checker.granted(self, follower, life)
            if (known := self.known.get(life)) is not None:
                known.granted = (follower.life, world.now)
            world.grants[self.name, life] = (follower.life, world.now)
