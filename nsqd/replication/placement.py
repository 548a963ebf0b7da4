"""Which nodes keep the copies of this one (`--replicate-to=auto`): the rules, without I/O.

- **Never** this node, one on this machine, or two on one machine.
- **Another zone first**: one that neither this node nor another follower is in, then ours. A node without a zone may be
  in any.
- Among equals by **rendezvous hashing**: each pair of lives has a rank of its own, so the choices of all leaders are
  spread evenly, a node that joins is chosen by no more than its share of them, and one that leaves moves those alone
  that had chosen it.
- **A follower stays.** It is exchanged when it was away for `replace_after`; when there was a place in a better zone,
  or on another machine, for as long; and at once when its disk was wiped, so that another life is at its address. A
  node that joins moves nothing else: it is chosen by leaders that look for a follower.
- Who is exchanged is **dismissed**, and keeps its copy until it is told that others have everything. The list of those
  is bounded. They are chosen again when nobody else is left: they may be the ones that cannot be reached.

Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import attrs

from nsqd.log.storage import Storage
from nsqkit.decoding import decode_json

__all__ = ["MAX_DISMISSED", "Node", "Placed", "Placement"]

MAX_DISMISSED: Final = 16
_PATH: Final = "nsqd.followers"
_MAX_SIZE: Final = 1 << 20


@attrs.frozen
class Node:
    """An nsqd. `life`: hexadecimal. `address`: where leaders reach it. `machine`: names of the host that it runs on.

    `zone`: may be empty.
    """

    life: str
    address: str
    machine: frozenset[str]
    zone: str = ""

    def shares_machine(self, other: Node) -> bool:
        return not self.machine.isdisjoint(other.machine)

    def as_json(self) -> dict[str, Any]:
        return {**attrs.asdict(self), "machine": sorted(self.machine)}

    @classmethod
    def decode(cls, data: Any) -> Node:
        """`TypeError`, `KeyError`."""
        machine = frozenset(map(str, data["machine"]))
        return cls(str(data["life"]), str(data["address"]), machine, str(data["zone"]))


@attrs.frozen
class Placed:
    """The followers that were chosen, and those that were exchanged and keep a copy, oldest first."""

    followers: tuple[Node, ...] = ()
    dismissed: tuple[Node, ...] = ()

    @classmethod
    def read(cls, storage: Storage) -> Placed:
        """As it was written last; none were chosen when there is nothing that can be read. `OSError`."""
        if _PATH in storage.files():
            with closing(storage.open(_PATH, read_only=True)) as file:
                data = file.read(0, min(file.size, _MAX_SIZE))
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                found = decode_json(data)
                return cls(
                    tuple(map(Node.decode, found["followers"])), tuple(map(Node.decode, found["dismissed"]))
                )
        return cls()

    def write(self, storage: Storage) -> None:
        """On the disk when it returns. `OSError`."""
        found = {
            "followers": [node.as_json() for node in self.followers],
            "dismissed": [node.as_json() for node in self.dismissed],
        }
        storage.replace(_PATH, json.dumps(found).encode() + b"\n")

    def without(self, life: str) -> Placed:
        """This one was dismissed, and has no copy any more."""
        return attrs.evolve(self, dismissed=tuple(node for node in self.dismissed if node.life != life))


class Placement:
    """The choice of `count` followers for `us`, and since when something speaks against it."""

    def __init__(self, us: Node, count: int, replace_after: float) -> None:
        self._us, self._count, self._replace_after = us, count, replace_after
        self._away_since: dict[str, float] = {}
        self._better_since: dict[str, float] = {}

    def look(self, placed: Placed, nodes: Iterable[Node], present: Collection[str], now: float) -> Placed:
        """What is to be now. `nodes`: those that are known. `present`: lives of followers that keep their copy up."""
        known = {node.life: node for node in nodes if node.life != self._us.life}
        placed = _moved(placed, known)
        self._note_away(placed, present, now)
        for follower in placed.followers:
            placed = self._look_at(follower, placed, known, now)
        while len(placed.followers) < self._count and (node := self._best(placed, placed.followers, known)):
            placed = _chosen(placed, [*placed.followers, node])
        lives = {node.life for node in placed.followers}
        self._better_since = {life: at for life, at in self._better_since.items() if life in lives}
        return attrs.evolve(placed, dismissed=placed.dismissed[-MAX_DISMISSED:])

    def too_few(self, placed: Placed, nodes: Iterable[Node]) -> str:
        """Why there are fewer followers than wanted, for an operator; empty when there are as many."""
        if (there := len(placed.followers)) >= self._count:
            return ""
        others = sum(node.life != self._us.life for node in nodes)
        return f"{there} of {self._count} followers: {others} other nsqds keep copies, no more of them on other hosts"

    def _note_away(self, placed: Placed, present: Collection[str], now: float) -> None:
        away = [node.life for node in placed.followers if node.life not in present]
        self._away_since = {life: self._away_since.get(life, now) for life in away}

    def _look_at(self, follower: Node, placed: Placed, known: Mapping[str, Node], now: float) -> Placed:
        """Exchange this follower, when it is time to."""
        others = [node for node in placed.followers if node is not follower]
        life, successor = follower.life, self._best(placed, others, known, instead_of=follower)
        since = away_since = self._away_since.get(life)
        if away_since is not None and life not in known:
            for node in known.values():
                if _wiped(follower, node) and self._is_eligible(node, others):
                    return _exchanged(placed, follower, node, dismiss=False)
        if (
            away_since is None
            and successor is not None
            and self._place(successor, others) < self._place(follower, others)
        ):
            since = self._better_since.setdefault(life, now)
        else:
            self._better_since.pop(life, None)
        if successor is None or since is None or now - since < self._replace_after:
            return placed
        return _exchanged(placed, follower, successor, dismiss=True)

    def _best(
        self,
        placed: Placed,
        others: Sequence[Node],
        known: Mapping[str, Node],
        *,
        instead_of: Node | None = None,
    ) -> Node | None:
        """Whom to choose beside these; None when nobody is left."""
        dismissed = {node.life for node in placed.dismissed}
        eligible = [
            node
            for node in known.values()
            if (instead_of is None or node.life != instead_of.life) and self._is_eligible(node, others)
        ]
        return min(
            eligible,
            key=lambda node: (node.life in dismissed, self._place(node, others), self._rank(node)),
            default=None,
        )

    def _is_eligible(self, node: Node, others: Sequence[Node]) -> bool:
        return not any(
            node.life == other.life or node.address == other.address or node.shares_machine(other)
            for other in (self._us, *others)
        )

    def _place(self, node: Node, others: Sequence[Node]) -> tuple[bool, bool, bool]:
        """How bad it would be beside these; the lowest is the best."""
        return (
            any(node.shares_machine(other) for other in (self._us, *others)),
            any(node.zone in ("", other.zone) for other in others),
            node.zone in ("", self._us.zone),
        )

    def _rank(self, node: Node) -> bytes:
        pair = f"{self._us.life} {node.life}"
        return hashlib.blake2b(pair.encode(), digest_size=16).digest()


def _moved(placed: Placed, known: Mapping[str, Node]) -> Placed:
    """With what is known now of the same lives. Of a machine that got another disk, nothing is left to dismiss."""
    return Placed(
        tuple(known.get(node.life, node) for node in placed.followers),
        tuple(
            known.get(node.life, node)
            for node in placed.dismissed
            if node.life in known or not any(_wiped(node, other) for other in known.values())
        ),
    )


def _wiped(node: Node, other: Node) -> bool:
    """Whether another life has taken the place of this one, which is not known any more."""
    return node.address == other.address and node.shares_machine(other)


def _exchanged(placed: Placed, follower: Node, successor: Node, *, dismiss: bool) -> Placed:
    followers = [successor if node is follower else node for node in placed.followers]
    if dismiss:
        placed = attrs.evolve(placed, dismissed=(*placed.dismissed, follower))
    return _chosen(placed, followers)


def _chosen(placed: Placed, followers: Sequence[Node]) -> Placed:
    """With these followers. One that was dismissed is forgotten when it is one again, or one is at its address."""
    taken = {node.life for node in followers} | {node.address for node in followers}
    dismissed = [node for node in placed.dismissed if taken.isdisjoint({node.life, node.address})]
    return Placed(tuple(followers), tuple(dismissed))
