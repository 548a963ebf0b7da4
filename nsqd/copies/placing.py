"""`--replicate-to=auto` in the daemon: nodes are looked for in the registries, and followers chosen, by
`replication.placement`.

Registries are asked at a gentle pace, and at once when a follower is lost, with jitter: many nsqds may lose the same
one. A choice is on the disk (`nsqd.followers`) before anything is sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from nsqd.copies.links import Links, Target
from nsqd.log.storage import Storage
from nsqd.lookup.known_nodes import KnownNode
from nsqd.options import NsqdOptions, host_name, is_loopback
from nsqd.replication.placement import Node, Placed, Placement
from nsqkit.logging import get_logger
from nsqkit.options import SECOND

__all__ = ["Nodes", "Placing", "targets"]

log = get_logger("copies")

CALM_PAUSE: Final = 300.0  # seconds between two looks. An answer has the names of all topics of all nodes
SHORTEST_PAUSE: Final = 5.0  # while there are too few followers, or one is away; it doubles
LONGEST_PAUSE: Final = 60.0
FIRST_LOOK: Final = 1.0  # after the start: registries are being connected
HURRY: Final = 1.0  # seconds at most until the next look, when a follower is lost
LASTING: Final = (
    0.1  # of `--replace-after`: the longest pause; and a session of this length is no refused one
)


class Nodes(Protocol):
    """Where candidates come from."""

    async def ask(self) -> Sequence[KnownNode] | None:
        """Those that are known, in bounded time; None when nobody has answered."""


class Placing:
    """`placed`: as it was read before the recovery. `trouble`: why there are too few followers, or empty.

    `life`: of this nsqd. `changed`: called when links have come or gone. `moved`: called with the old and the new
    address of a follower that can be reached elsewhere now.
    """

    def __init__(
        self,
        options: NsqdOptions,
        life: bytes,
        storage: Storage,
        placed: Placed,
        changed: Callable[[], None],
        moved: Callable[[str, str], None],
    ) -> None:
        self.placed = placed
        self._changed, self._moved = changed, moved
        self.trouble = ""
        self._replace_after = options.replace_after / SECOND
        self._has_secret = bool(options.replication_secret_file)
        address = options.replication_address
        us = Node(
            life.hex(),
            address,
            frozenset({host_name().lower(), options.broadcast_address.lower()})
            | _machine(host_name(), options.broadcast_address, address),
            options.topology_zone,
        )
        self._placement = Placement(us, options.copies - 1, self._replace_after)
        self._storage = storage
        self._gone: set[str] = set()  # dismissed followers that have removed their copies
        self._lost: set[str] = set()
        self._woken = trio.Event()

    async def run(self, links: Links, nodes: Nodes) -> None:
        """Choose, and exchange, until cancelled."""
        await trio.sleep(FIRST_LOOK)
        looking = SHORTEST_PAUSE
        while True:
            self._woken = trio.Event()
            await self._look(links, await nodes.ask())
            pause = looking if self.trouble or self._lost else CALM_PAUSE
            looking = min(2 * looking, LONGEST_PAUSE)
            with trio.move_on_after(min(pause, LASTING * self._replace_after) * random.uniform(0.75, 1.25)):
                await self._woken.wait()
                looking = SHORTEST_PAUSE
                await trio.sleep(random.uniform(0, HURRY))

    def standing_changed(self, links: Links) -> None:
        """A session has begun or ended, perhaps."""
        lost = {link.standing.address for link in links.wanted if link.connected_at is None}
        if lost - self._lost:
            self._woken.set()
        self._lost = lost

    def has_gone(self, life: str) -> None:
        """This follower, which was dismissed, has removed its copy."""
        self._gone.add(life)
        self._woken.set()

    async def _look(self, links: Links, known: Sequence[KnownNode] | None) -> None:
        nodes = [node for each in known or () if (node := self._node(each)) is not None]
        placed, gone = self.placed, set(self._gone)
        for life in gone:
            placed = placed.without(life)
        now = trio.current_time()
        present = {
            link.meant.hex()
            for link in links.wanted
            if link.standing.in_step
            or (link.connected_at is not None and now - link.connected_at >= LASTING * self._replace_after)
        }
        placed = self._placement.look(placed, nodes, present, now)
        if placed != self.placed:
            try:
                await trio.to_thread.run_sync(placed.write, self._storage)
            except OSError as error:
                self._say(f"followers cannot be noted, and are not exchanged - {error}")
                return
            self._log_changes(placed)
            self._note_moves(placed)
            self.placed = placed
            links.set(*targets(placed))
            self._changed()
        self._gone -= gone
        trouble = self._placement.too_few(placed, nodes)
        self._say(trouble if known is not None or not trouble else "no nsqlookupd says which nsqds there are")

    def _node(self, known: KnownNode) -> Node | None:
        address = known.replication_address
        if not self._has_secret and not is_loopback(address):
            return None  # anybody may be there
        return Node(
            known.life,
            address,
            _machine(known.hostname, known.broadcast_address, address),
            known.topology_zone,
        )

    def _log_changes(self, placed: Placed) -> None:
        before = {node.life for node in self.placed.followers}
        for node in placed.followers:
            if node.life not in before:
                log.info(
                    "COPIES(%s): chosen as a follower%s",
                    node.address,
                    f", in zone {node.zone}" * bool(node.zone),
                )
        before = {node.life for node in self.placed.dismissed}
        for node in placed.dismissed:
            if node.life not in before:
                log.warning(
                    "COPIES(%s): no follower any more; its copy goes when the others have everything",
                    node.address,
                )

    def _note_moves(self, placed: Placed) -> None:
        before = {node.life: node.address for node in (*self.placed.followers, *self.placed.dismissed)}
        for node in (*placed.followers, *placed.dismissed):
            if before.get(node.life, node.address) != node.address:
                self._moved(before[node.life], node.address)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("COPIES: %s", trouble)
        self.trouble = trouble


def targets(placed: Placed) -> tuple[list[Target], list[Target]]:
    """For `Links.set`."""
    wanted, dismissed = (
        [(node.address, bytes.fromhex(node.life)) for node in nodes]
        for nodes in (placed.followers, placed.dismissed)
    )
    return wanted, dismissed


def _machine(hostname: str, broadcast_address: str, address: str) -> frozenset[str]:
    """Names of the host of an nsqd. Replication over loopback addresses is on one host anyway, to try it out: there
    `--broadcast-address` tells hosts apart."""
    names = {broadcast_address}
    if not is_loopback(address):
        names |= {hostname, address.rpartition(":")[0].strip("[]")}
    return frozenset(name.lower() for name in names if name)
