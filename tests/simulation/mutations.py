"""Rules of takeover, each of which can be switched off: then some seed must be red.

Each mutation patches the product's own classes, or what stands for its tasks here, while it is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

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


def _never(patch: Patch, *ignored: Refusal) -> None:
    """A witness grants in place of these refusals."""
    grant = Witness.grant

    def changed(self: Witness, member: Any, life: str, now: float) -> Answer:
        answer = grant(self, member, life, now)
        if answer.refusal not in ignored:
            return answer
        if (known := self._lives.get(life)) is not None:
            known.granted_to = member.info.life
        return Answer(refusal=None, reason="ignored", changed=answer.changed)

    patch.setattr(Witness, "grant", changed)


def age_ignored(patch: Patch) -> None:
    """A registry that has just been started grants what it knows nothing of."""
    _never(patch, Refusal.YOUNG, Refusal.UNKNOWN)


def heard_ignored(patch: Patch) -> None:
    """A registry grants a life that it hears."""
    _never(patch, Refusal.HEARD)


def list_ignored(patch: Patch) -> None:
    """A registry grants a life to followers that the leader has not announced."""
    patch.setattr(witness.Terms, "followers", property(lambda _: _Everybody()), raising=False)


class _Everybody(tuple[str, ...]):
    def __contains__(self, _: object) -> bool:
        return True


def granted_ignored(patch: Patch) -> None:
    """A registry grants a life to several followers."""
    patch.setattr(Witness, "_holder", lambda _self, _life: "")


def brake_off(patch: Patch) -> None:
    """A registry grants however many nodes are silent."""
    patch.setattr(Witness, "_nodes", lambda _self: (0, 1))


def one_at_a_time_off(patch: Patch) -> None:
    """A node adopts while another adoption of it is in progress."""
    patch.setattr(node, "may_ask", lambda _copies: True)


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

    def changed(self: Fencing, address: str, *rest: Any) -> None:
        heard(self, address, *rest[:-1], False)

    patch.setattr(Fencing, "heard_registry", changed)


_ALL: Final[Sequence[Callable[[Patch], None]]] = (
    age_ignored,
    heard_ignored,
    list_ignored,
    granted_ignored,
    brake_off,
    one_at_a_time_off,
    answers_counted,
    grace_ignored,
    release_forgotten,
    fence_late,
    standing_ignored,
)
MUTATIONS: Final = {mutation.__name__.replace("_", "-"): mutation for mutation in _ALL}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """With this rule switched off; None: with none."""
    with pytest.MonkeyPatch.context() as patch:
        if name is not None:
            MUTATIONS[name](patch)
        yield
