"""The registry as a witness: which lives it has heard when, and which follower may adopt the copy of a silent one.

A *life* is the data path of one nsqd, a *stand-in* an nsqd that serves the copy of another one's life
(docs/replication.md). A follower adopts a copy by itself only when more than half of the registries of its leader grant
it. This one grants a life to a follower when all of this holds; otherwise the answer is no, with the first reason:

1. It has itself been watching for the `adopt_after` of that life.
2. The life is known, and the follower is in the list that it announced last.
3. The life is silent: not heard for its `adopt_after`, or for its `restart_grace` if it said that it would be started
   again. Each command on a connection that has identified with the life is a sign of it.
4. No nsqd without a life is connected from the same node: copies were switched off there, and the life may go on.
5. No stand-in serves it, and it is granted to no other follower that may still act on that.
6. Not too many nodes are silent: one, or a third of them. More is the network or a roll-out, and no lost machine.

Theory of operation: synchronous, no I/O, in memory only, bounded (`MAX_LIVES`); time is an argument. Nothing survives a
restart: then no life is known, and the answer is no until each has announced itself again. That is safe, as all errors
of a witness have to be on that side.

- **Its clock counts only the time in which it ran.** When the process was stopped or starved, signs of life wait in its
  sockets, and a follower's question may be read before them. So a step of time counts for `MAX_STEP_S` at most;
  `advance` is called every `TICK_S` also when nothing comes in.
- **A grant is held** until the follower gives it back, the life is heard again, or the follower was neither connected
  nor heard for `adopt_after`: a connection that flaps does not free a life for a second follower. Followers that have
  each got a part of the registries give back what they have, or none of them would ever get more than half.
- **A node is an address**, and its life is the one that was heard there last. A machine that got a new disk has a new
  life, and the old one does not count as a silent node for ever. Neither does one that a stand-in serves. When a
  stand-in ends for good, the life that it stood in for is forgotten: nothing is left to adopt.
- **A leader with a fence asks** whether it may have been adopted (STANDING). A grant counts there for `adopt_after`,
  also one that was voided since: its follower may have acted on it, and its stand-in not be registered yet. A stand-in
  counts for ever, also when it has ended: what it had was delivered. A leader that hears so from its follower gives up
  what the stand-in had, and has another life from then on.
- What a process says of its life counts unless a later incarnation has been seen: the last bytes of one that is gone
  may be read after the first ones of the next.
"""

from __future__ import annotations

import enum
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

from nsqlookupd.registry import ProducerInfo

__all__ = [
    "DEFAULT_TERMS",
    "MAX_FOLLOWERS",
    "TICK_S",
    "Answer",
    "Member",
    "Refusal",
    "Shown",
    "Terms",
    "Witness",
]

MAX_LIVES: Final = 10_000
MAX_FOLLOWERS: Final = 16
MAX_STEP_S: Final = 1.0  # with a PING four times in `adopt_after`, safe from an `adopt_after` of 2 s on
TICK_S: Final = 0.5
_MAX_TOLD: Final = 1_000  # pairs of follower and life whose last answer is remembered, to log changes only


class Refusal(enum.Enum):
    """Why a grant is refused; in the order of the rules."""

    YOUNG = "young"
    UNKNOWN = "unknown"
    NOT_LISTED = "not listed"
    HEARD = "heard"
    COPIES_OFF = "copies off"
    SERVED = "served"
    GRANTED = "granted"
    TOO_MANY = "too many"


@attrs.frozen(kw_only=True)
class Terms:
    """What a life has announced: who may adopt it, and after how many seconds of silence.

    `restart_grace`: seconds, after it said that it would be started again.
    """

    followers: tuple[str, ...] = ()
    adopt_after: float = 60.0
    restart_grace: float = 300.0


DEFAULT_TERMS: Final = Terms()


@attrs.frozen(kw_only=True)
class Answer:
    """To a follower. `reason`: for the operator. `changed`: this pair was not told the same before."""

    refusal: Refusal | None
    reason: str
    changed: bool

    @property
    def granted(self) -> bool:
        return self.refusal is None


@attrs.define(eq=False)
class _Life:
    """`info`: of its latest incarnation. `heard_at`: by the clock of the witness."""

    info: ProducerInfo
    heard_at: float
    connections: int = 0
    terms: Terms = DEFAULT_TERMS
    stopped: bool = False
    """It said that it would be started again."""
    ended: bool = False
    """It said that it is gone for good."""
    granted_to: str = ""
    promised: tuple[str, float] | None = None
    """To whom it was granted last, and when, unless that was given back; also when it was heard since."""

    @property
    def life(self) -> str:
        return self.info.life

    @property
    def patience(self) -> float:
        """Seconds of silence after which it may be adopted."""
        terms = self.terms
        return max(terms.adopt_after, terms.restart_grace) if self.stopped else terms.adopt_after


@attrs.frozen(eq=False)
class Member:
    """A connection of an nsqd; `life` is None for one that has announced none."""

    info: ProducerInfo
    life: _Life | None


@attrs.frozen(kw_only=True)
class Shown:
    """A life, for an operator. `silent`: for its `adopt_after`. `served_by`: the life of a stand-in, or empty."""

    info: ProducerInfo
    heard_seconds: float
    connections: int
    terms: Terms
    stopped: bool
    silent: bool
    granted_to: str
    served_by: str


class Witness:
    """What one nsqlookupd knows of lives. `now`: seconds of a clock that never goes back.

    `id`: random, another one at each start: by it a follower knows two addresses of one witness.
    """

    def __init__(self, max_lives: int = MAX_LIVES) -> None:
        self.id = secrets.token_hex(16)
        self.answers: Counter[str] = Counter({"granted": 0, "refused": 0})
        self._max_lives = max_lives
        self._lives: dict[str, _Life] = {}
        """The longest silent first."""
        self._without_life: Counter[str] = Counter()
        """Connections of nsqds that have announced no life, by node."""
        self._told: dict[tuple[str, str], Refusal | None] = {}
        self._adopted: dict[str, None] = {}
        """Lives of which there was a stand-in, the oldest first."""
        self._now: float | None = None
        self._watched = 0.0

    # --- time

    def advance(self, now: float) -> None:
        """Time has passed. To be called every `TICK_S`."""
        if self._now is not None:
            self._watched += min(max(0.0, now - self._now), MAX_STEP_S)
        self._now = now

    @property
    def watched_seconds(self) -> float:
        """The time in which it ran, since its start."""
        return self._watched

    # --- what nsqds say

    def connected(self, info: ProducerInfo, now: float) -> Member:
        """An nsqd has identified itself."""
        self.advance(now)
        if not info.life:
            self._without_life[info.node] += 1
            return Member(info, None)
        life = self._lives.get(info.life)
        if life is None:
            life = _Life(info, self._watched)
        elif info.incarnation >= life.info.incarnation:
            life.info = info
        life.connections += 1
        self._hear(life)
        if info.stands_in_for:
            self._note_adopted(info.stands_in_for)
        return Member(info, life)

    def disconnected(self, member: Member) -> None:
        """Its connection has ended. To be called once for each."""
        node = member.info.node
        if member.life is not None:
            member.life.connections -= 1
        elif self._without_life[node] > 1:
            self._without_life[node] -= 1
        else:
            del self._without_life[node]

    def heard(self, member: Member, now: float) -> None:
        """Something came on its connection."""
        self.advance(now)
        if (life := self._life_of(member)) is not None:
            self._hear(life)

    def announce(self, member: Member, terms: Terms, now: float) -> None:
        """Who may adopt its life from now on; without followers nobody."""
        self.advance(now)
        life = self._life_of(member)
        if life is not None and member.info.incarnation >= life.info.incarnation:
            life.terms = terms

    def leave(self, member: Member, now: float, *, for_good: bool) -> None:
        """It stops in order: `for_good`, or to be started again."""
        self.advance(now)
        life = self._life_of(member)
        if life is None or member.info.incarnation < life.info.incarnation:
            return
        if not for_good:
            life.stopped = True
            return
        life.ended = True
        self._lives.pop(life.life, None)
        for each in self._lives.values():
            if each.granted_to == life.life:  # it will not act on that, also if it should come back
                each.granted_to = ""
        owner = self._lives.get(life.info.stands_in_for)
        if owner is None:
            return
        # The connection of a machine that has lost its power lasts for minutes.
        silent = self._watched - owner.heard_at >= owner.terms.adopt_after
        if silent or not owner.connections:
            del self._lives[owner.life]

    def _life_of(self, member: Member) -> _Life | None:
        """The life that this connection speaks for, if it has one, and has not ended it."""
        if member.life is None or member.life.ended:
            return None
        return self._lives.get(member.life.life, member.life)

    def _hear(self, life: _Life) -> None:
        if self._lives.pop(life.life, None) is None:
            self._make_room()
        self._lives[life.life] = life
        life.heard_at = self._watched
        life.stopped = False
        life.granted_to = ""

    def _note_adopted(self, life: str) -> None:
        if life not in self._adopted and len(self._adopted) >= self._max_lives:
            del self._adopted[next(iter(self._adopted))]
        self._adopted[life] = None

    def _make_room(self) -> None:
        while len(self._lives) >= self._max_lives:
            longest = next(iter(self._lives.values()))
            victim = next((each for each in self._lives.values() if not each.connections), longest)
            del self._lives[victim.life]

    # --- grants

    def grant(self, member: Member, life: str, now: float) -> Answer:
        """Whether the follower that this connection is of may adopt a life. A yes is the same again when repeated."""
        self.advance(now)
        follower, known = member.info.life, self._lives.get(life)
        refusal, reason = self._judge(follower, known)
        if refusal is None:
            assert known is not None
            known.granted_to, known.promised = follower, (follower, self._watched)
        self.answers["refused" if refusal else "granted"] += 1
        return Answer(refusal=refusal, reason=reason, changed=self._is_news((follower, life), refusal))

    def give_back(self, member: Member, life: str, now: float) -> None:
        """The follower does not adopt it, at least not now."""
        self.advance(now)
        known = self._lives.get(life)
        if known is None:
            return
        if known.granted_to == member.info.life:
            known.granted_to = ""
        if known.promised is not None and known.promised[0] == member.info.life:
            known.promised = None

    def may_be_adopted(self, member: Member, now: float) -> bool:
        """Whether somebody may serve the copy of the life that this connection speaks for, or be about to."""
        self.advance(now)
        life = self._life_of(member)
        if life is None:
            return False
        promised = life.promised
        acted_on = promised is not None and self._watched - promised[1] < life.terms.adopt_after
        return acted_on or life.life in self._adopted

    def _judge(self, follower: str, life: _Life | None) -> tuple[Refusal | None, str]:
        needed = (DEFAULT_TERMS if life is None else life.terms).adopt_after
        if self._watched < needed:  # for a life that is known rule 3 says so, too
            return Refusal.YOUNG, f"this nsqlookupd has watched for {self._watched:.1f} s, of {needed:g} s"
        if life is None:
            return Refusal.UNKNOWN, "it has not announced itself here since this nsqlookupd was started"
        if follower not in life.terms.followers:
            return Refusal.NOT_LISTED, "it did not announce this follower"
        silence = self._watched - life.heard_at
        if silence < life.patience:
            said = "stopped, to be started again," if life.stopped else "heard"
            return Refusal.HEARD, f"{said} {silence:.1f} s ago, of {life.patience:g} s"
        if life.info.node in self._without_life:
            return Refusal.COPIES_OFF, f"{life.info.node} is connected, and has copies switched off"
        if stand_in := self.stand_in_of(life.life):
            return Refusal.SERVED, f"{stand_in} stands in for it"
        if (holder := self._holder(life)) and holder != follower:
            return Refusal.GRANTED, f"granted to {holder}"
        silent, nodes = self._nodes()
        if silent > max(1, nodes // 3):
            return Refusal.TOO_MANY, f"{silent} of {nodes} nodes are silent: not one lost machine"
        return None, f"silent for {silence:.1f} s"

    def stand_in_of(self, life: str) -> str:
        """The stand-in that serves this life, or did when it was heard last; empty without one."""
        return next((each.life for each in self._lives.values() if each.info.stands_in_for == life), "")

    def _holder(self, life: _Life) -> str:
        """The follower that may act on a grant."""
        follower = self._lives.get(life.granted_to)
        if follower is None:
            return ""
        held = follower.connections or self._watched - follower.heard_at < life.terms.adopt_after
        return follower.life if held else ""

    def _nodes(self) -> tuple[int, int]:
        """How many nodes are silent, and how many there are."""
        served = {each.info.stands_in_for for each in self._lives.values()}
        last_heard = {each.info.node: each for each in self._lives.values() if not each.info.stands_in_for}
        judged = [each for each in last_heard.values() if each.life not in served]
        return sum(map(self._is_silent, judged)), len(judged)

    def _is_silent(self, life: _Life) -> bool:
        if life.info.node in self._without_life:
            return False
        return self._watched - life.heard_at >= life.terms.adopt_after

    def _is_news(self, pair: tuple[str, str], refusal: Refusal | None) -> bool:
        if pair in self._told:
            is_news = self._told.pop(pair) is not refusal
        else:
            is_news = True
            if len(self._told) >= _MAX_TOLD:
                del self._told[next(iter(self._told))]
        self._told[pair] = refusal
        return is_news

    # --- for operators

    def forget(self, life: str) -> bool:
        """Forget a life that will not come back; False if it is connected. `KeyError` if it is not known."""
        if self._lives[life].connections:
            return False
        del self._lives[life]
        self._adopted.pop(life, None)
        return True

    def terms_of(self, life: str) -> Terms:
        """What a life has announced; the default if it has not, or is not known."""
        known = self._lives.get(life)
        return known.terms if known is not None else DEFAULT_TERMS

    @property
    def life_count(self) -> int:
        return len(self._lives)

    @property
    def silent_count(self) -> int:
        """Nodes that are silent, as rule 6 counts them."""
        return self._nodes()[0]

    def shown(self) -> Iterator[Shown]:
        """All lives, the longest silent first. They must not change during the iteration."""
        served_by = {each.info.stands_in_for: each.life for each in self._lives.values()}
        for life in self._lives.values():
            yield Shown(
                info=life.info,
                heard_seconds=self._watched - life.heard_at,
                connections=life.connections,
                terms=life.terms,
                stopped=life.stopped,
                silent=self._is_silent(life),
                granted_to=self._holder(life),
                served_by=served_by.get(life.life, ""),
            )
