"""Rules of takeover, each of which can be switched off: then some seed must be red.

Each mutation patches the product's own classes, or what stands for its tasks here, while it is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import attrs
import pytest

from nsqd.copies.fencing import Fencing
from nsqd.replication.licence import Licence
from nsqlookupd import witness
from nsqlookupd.witness import Answer, Refusal, Witness
from tests.simulation import node
from tests.simulation.node import NodeDaemon
from tests.simulation.peers import Peers

__all__ = ["MUTATIONS", "mutated"]

Patch = pytest.MonkeyPatch


def age_ignored(patch: Patch) -> None:
    """A registry that has just been started grants what it has not heard since then."""
    grant = Witness.grant

    def changed(self: Witness, member: Any, life: str, now: float) -> Answer:
        answer = grant(self, member, life, now)
        if answer.refusal not in (Refusal.YOUNG, Refusal.UNKNOWN):
            return answer
        return Answer(refusal=None, reason="not heard", changed=answer.changed)

    patch.setattr(Witness, "grant", changed)


def heard_ignored(patch: Patch) -> None:
    """A registry grants a life that it hears."""
    patch.setattr(witness._Life, "patience", property(lambda _: 0.0))


def list_ignored(patch: Patch) -> None:
    """A registry grants a life to followers that the leader has not announced."""
    judge = Witness._judge

    def changed(self: Witness, follower: str, life: Any) -> Any:
        if life is None:
            return judge(self, follower, life)
        terms, life.terms = life.terms, attrs.evolve(life.terms, followers=(follower,))
        try:
            return judge(self, follower, life)
        finally:
            life.terms = terms

    patch.setattr(Witness, "_judge", changed)


def granted_ignored(patch: Patch) -> None:
    """A registry grants a life to several followers."""
    patch.setattr(Witness, "_holder", lambda _self, _life: "")


def brake_off(patch: Patch) -> None:
    """A registry grants however many nodes are silent."""
    patch.setattr(Witness, "_nodes", lambda _self: (0, 1))


def answers_counted(patch: Patch) -> None:
    """More than half of those that answer is enough."""

    def refusal(self: Licence) -> str | None:
        answers = sum(bool(answer.witness) for answer in self.answers)
        return None if 2 * self.yes > answers else "too few"

    patch.setattr(Licence, "refusal", property(refusal))


def grace_ignored(patch: Patch) -> None:
    """A leader that was stopped to be started again is adopted as one that has died."""
    patch.setattr(witness._Life, "patience", property(lambda self: self.terms.adopt_after))
    due_at = node.due_at
    patch.setattr(node, "due_at", lambda state, started, after, _grace: due_at(state, started, after, after))


def release_forgotten(patch: Patch) -> None:
    """A follower keeps what was granted for nothing."""

    def release(_self: Peers, _life: str) -> Iterator[None]:
        yield from ()

    patch.setattr(Peers, "release", release)


def fence_late(patch: Patch) -> None:
    """The fence is looked at when a round ends."""
    begin, end = NodeDaemon.begin, NodeDaemon.round

    def changed(self: NodeDaemon) -> None:
        rounds, self.rounds = self.rounds, None
        end(self)
        self.rounds = rounds
        begin(self)

    patch.setattr(NodeDaemon, "round", changed)
    patch.setattr(NodeDaemon, "begin", lambda self: self.broker.advance(self.now, self.wall_ns))


def standing_ignored(patch: Patch) -> None:
    """The fence opens also for registries that know of an adoption."""
    heard = Fencing.heard_registry

    def changed(self: Fencing, address: str, adopted: bool, asked_at: float) -> None:
        heard(self, address, False, asked_at)

    patch.setattr(Fencing, "heard_registry", changed)


def echo_read_late(patch: Patch) -> None:
    """An answer counts for the fence from when it is read."""
    heard = Fencing.heard_follower
    patch.setattr(
        Fencing,
        "heard_follower",
        lambda self, address, _, followers: heard(self, address, self._broker.now, followers),
    )


def one_follower_is_enough(patch: Patch) -> None:
    """The fence opens as soon as any of the followers is heard."""
    heard = Fencing.heard_follower
    patch.setattr(
        Fencing,
        "heard_follower",
        lambda self, address, asked_at, _: heard(self, address, asked_at, [address]),
    )


def stand_in_forgotten(patch: Patch) -> None:
    """A registry knows of a stand-in as long as that is there."""
    patch.setattr(
        Witness,
        "may_be_adopted",
        lambda self, member, _now: bool(self.stand_in_of(member.info.life)),
    )


_ALL: Final[Sequence[Callable[[Patch], None]]] = (
    age_ignored,
    heard_ignored,
    list_ignored,
    granted_ignored,
    brake_off,
    answers_counted,
    grace_ignored,
    release_forgotten,
    fence_late,
    standing_ignored,
    echo_read_late,
    one_follower_is_enough,
    stand_in_forgotten,
)
MUTATIONS: Final = {mutation.__name__.replace("_", "-"): mutation for mutation in _ALL}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """With this rule switched off; None: with none."""
    with pytest.MonkeyPatch.context() as patch:
        if name is not None:
            MUTATIONS[name](patch)
        yield
