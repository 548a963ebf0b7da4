"""A cluster: nodes, registries, clients, and what befalls them, all from one seed."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Collection, Sequence
from typing import Final
from unittest import mock

from nsqd.testing.faulty_storage import FaultFunction, no_fault
from nsqd.testing.memory_storage import MemoryStorage
from tests.nsqd.replication.simulation.checker import Violation
from tests.nsqd.replication.simulation.follower import FollowerMachine
from tests.nsqd.replication.simulation.machine import CHANNELS, SILENCE, Daemon
from tests.nsqd.replication.simulation.surroundings import Surroundings
from tests.simulation.checker import ClusterChecker
from tests.simulation.clients import Consumers
from tests.simulation.faults import Fault, schedule
from tests.simulation.node import Node, NodeDaemon, NodeFollower, NodeLeader
from tests.simulation.registry import RegistryMachine

__all__ = ["SECONDS", "Cluster", "lived"]

SECONDS: Final = 200.0  # that a seed lives before its faults are over
SHORTEST_STEP: Final = 0.02
ACTION_INTERVAL: Final = 0.5  # seconds between two things that clients do, on average
SETTLED_AFTER: Final = 60.0  # seconds, beside those that an adoption takes


class Cluster(Surroundings):
    """`fence`, `adopt_after`, `restart_grace`: options of all nodes. `window`: messages in flight of each consumer.

    `leader_of`: by life. `grants`: by registry and life, to which follower it was granted last, and when. `by_itself`:
    names of followers and lives that they have adopted without an operator.
    """

    checker: ClusterChecker
    leaders: list[NodeLeader]
    followers: list[NodeFollower]
    downtimes = (0.1, 1.0, 5.0)
    window: Final = 3

    def __init__(self, seed: int, faults: Sequence[Fault]) -> None:
        super().__init__(seed)
        chance = self.chance
        self.disk_level = chance.random() < 0.3
        self.fence = chance.random() < 0.5
        self.adopt_after = chance.choice([15.0, 30.0])
        self.restart_grace = 3 * self.adopt_after
        count = chance.choice([3, 3, 4, 5])
        distance = chance.choice([1, 1, 2])  # followers are the next ones
        self.ack_copies = chance.choice([1, 2, 2, 2, 1 + distance])
        self.min_copies = chance.choice([1, 1, min(2, self.ack_copies)])
        registries, originals = chance.choice([3, 3, 3, 4, 5]), chance.choice([0, 0, 0, 1, 2])
        self.registries = [
            RegistryMachine(self, f"r{number + 1}", original=number < originals)
            for number in range(registries)
        ]
        self.registry_names = [registry.name for registry in self.registries]
        self.nodes = [Node(self, f"n{number + 1}") for number in range(count)]
        for place, node in enumerate(self.nodes):
            followers = [self.nodes[(place + 1 + step) % count].name for step in range(distance)]
            node.leading = NodeLeader(
                self, node.name, node, followers=followers, node_id=place + 1, registries=registries
            )
            node.following = NodeFollower(self, node.name, node, node_id=place + 1)
        self.leaders = [node.leading for node in self.nodes]
        self.followers = [node.following for node in self.nodes]
        self.machines = [*self.nodes, *self.registries]
        self.names = [machine.name for machine in self.machines]
        self.consumers = Consumers(self)
        self.leader_of: dict[str, NodeLeader] = {}
        self.grants: dict[tuple[str, str], tuple[str, float]] = {}
        self.by_itself: set[tuple[str, str]] = set()
        self.steps = 0  # that were taken with faults
        self._faults = list(faults)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._next_action = self.now + 5.0
        self.tell(
            f"{count} nodes, each with {distance} followers, {registries} registries, {originals} of them the "
            f"original's; level {'disk' if self.disk_level else 'os'}, --ack-copies={self.ack_copies} "
            f"--min-copies={self.min_copies} --fence={'on' if self.fence else 'off'} "
            f"--adopt-after={self.adopt_after:g}s --restart-grace={self.restart_grace:g}s"
        )

    def new_checker(self) -> ClusterChecker:
        return ClusterChecker(self)

    def new_daemon(self, place: str, disk: MemoryStorage, fault: FaultFunction, node_id: int) -> Daemon:
        return NodeDaemon(self, place, disk, fault, node_id)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    # --- time

    def live(self, seconds: float, steps: int | None = None) -> None:
        """With the faults that are due; `steps`: not more of them."""
        until = self.now + seconds
        while self.now < until and (steps is None or self.steps < steps):
            self.step()
            self.steps += 1
            while self._faults and self._faults[0].at <= self.now - self.began:
                self._faults.pop(0).happen(self)
                if self.chance.random() < 0.2:
                    self.checker.check_kept()
            while self._later and self._later[0][0] <= self.now:
                heapq.heappop(self._later)[2]()
            while self._next_action <= self.now:
                self._next_action += self.chance.expovariate(1 / ACTION_INTERVAL)
                self.chance.choices([self._publish, self._finish, self._snapshot], [4, 5, 0.2])[0]()

    def step(self) -> None:
        """To the next moment at which something arrives, or is due."""
        arrival = self.network.next_arrival() - self.now
        self.tick(min(max(arrival, SHORTEST_STEP), self.chance.choice([1.0, 1.0, 1.0, 0.3])))
        self.consumers.turn()

    def later(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (at, next(self._order), action))

    # --- clients

    def _publish(self) -> None:
        chance = self.chance
        leader = chance.choice(self.leaders)
        if leader.daemon is None or not leader.runs or leader.stopping:
            return
        topic = chance.choice(list(CHANNELS))
        sizes = [chance.randrange(1, 300) for _ in range(chance.randrange(1, 4))]
        delay = chance.choice([0, 0, 0, 0, 3_000_000_000])
        leader.do(lambda: leader.publish(topic, sizes, delay))

    def _finish(self) -> None:
        most = self.chance.randrange(1, 4)
        for node in self.nodes:
            if node.runs:
                node.do(lambda node=node: self._finish_at(node, most))  # type: ignore[misc]
            else:
                node.unread = most

    def _finish_at(self, node: Node, most: int) -> None:
        if node.leading.daemon is not None:
            node.leading.daemon.finish_some(most)
        for stand_in in list(node.following.stand_ins.values()):
            stand_in.finish_some(most)

    def _snapshot(self) -> None:
        leader = self.chance.choice(self.leaders)
        daemon = leader.daemon
        if daemon is not None and leader.runs and daemon.broker.retentions:
            topic = self.chance.choice(list(daemon.broker.retentions))
            leader.do(lambda: daemon.snapshot(topic))

    # --- for faults, and for the checker

    def cut(self, ways: Collection[tuple[str, str]], until: float) -> None:
        """Nothing arrives in these directions."""
        targets: dict[str, list[str]] = {}
        for source, target in ways:
            self.network.cut[source, target] = until
            targets.setdefault(source, []).append(target)
        for source, names in targets.items():
            self.tell(f"nothing arrives from {source} at {', '.join(names)} until {until - self.began:.2f}")

    def wipe(self, node: Node) -> None:
        node.wipe()
        self.checker.wiped_follower(node.following)
        # What it has adopted is gone with the disk; a copy that it gets later is another one.
        for adopted in self.adopted.values():
            adopted.pop(node.following.name, None)

    def is_calm(self, one: str, other: str, seconds: float) -> bool:
        """Whether nothing has disturbed these nodes, and what is between them, for so long."""
        before = self.now - seconds
        network = self.network
        return all(
            network.cut.get(way, 0.0) < before and way not in network.slow
            for way in ((one, other), (other, one))
        ) and all(node.runs and node.stopped_until < before for node in (self.node(one), self.node(other)))

    def adopt(self, follower: FollowerMachine, life: str, *, force: bool) -> None:
        if follower.name not in self.adopted.get(life, {}):
            self.by_itself.discard((follower.name, life))  # from now on it is the operator's
        super().adopt(follower, life, force=force)

    def adopts(self, life: str, follower: FollowerMachine) -> None:
        assert isinstance(follower, NodeFollower)
        if (follower.name, life) in self.by_itself:
            self.checker.adopts(follower, life)

    def place_of(self, follower: str, life: str) -> str:
        return self.node(follower).following.place(life)  # also of one that is gone for good by now

    @property
    def gone(self) -> dict[str, str]:
        return {life: why for node in self.nodes for life, why in node.leading.gone.items()}

    # --- the end

    def heal(self) -> None:
        """All faults are over, but that one node may never come back."""
        self.tell("all faults are over")
        chance = random.Random(f"{self.seed} end")
        self._faults.clear()
        self._later.clear()
        self.network.cut.clear()
        self.network.slow.clear()
        for machine in self.machines:
            machine.stopped_until = machine.pause = 0.0
            machine.up_at = self.now
            machine.fault = no_fault
        going = [node for node in self.nodes if not node.is_busy]
        if going and chance.random() < 0.6:
            self._lose(chance.choice(going))
        self._adopt_by_themselves()
        self._open_fences()
        for _ in range(100):
            self.adopt_all()
            self.live_quietly(1.0)
            if all(map(self.is_served, self.gone)) and not self.stand_in_starts():
                break

    def _lose(self, node: Node) -> None:
        self.tell(f"{node.name} is gone for good, with its disk")
        self.wipe(node)
        node.gone, node.up_at = True, float("inf")
        self.leaders = [each.leading for each in self.nodes if not each.gone]
        self.followers = [each.following for each in self.nodes if not each.gone]

    def live_quietly(self, seconds: float) -> None:
        """Without faults, and without publishers."""
        until = self.now + seconds
        while self.now < until:
            self.step()

    def _adopt_by_themselves(self) -> None:
        limit = self.now + self.adopt_after + self.restart_grace + SETTLED_AFTER
        while self.now < limit:
            self.live_quietly(1.0)
            if self._is_whole() and not any(map(self._is_to_be_adopted, self.gone)):
                return
        for life in filter(self._is_to_be_adopted, self.gone):
            raise Violation(
                "alive", f"nobody has adopted {life[:4]} of {self.leader_of[life].name}, and somebody could"
            )

    def _open_fences(self) -> None:
        """An operator starts leaders without it that wait for a follower that is gone."""
        there = {follower.name for follower in self.followers}
        if any(leader.is_fenced for leader in self.leaders):
            self.live_quietly(2 * SILENCE)  # all are asked by then
        for leader in self.leaders:
            if not leader.is_fenced:
                continue
            if there.issuperset(leader.followers) or not self.is_known_to_be_adopted(leader):
                raise Violation("alive", f"{leader.name} is fenced, and nothing is cut off from it")
            self.tell(f"{leader.name} is started again with --fence=off")
            leader.unfenced = leader.stopping = True

    def is_known_to_be_adopted(self, leader: NodeLeader) -> bool:
        """So many registries have known a stand-in of it that the others are not more than half."""
        told = sum(leader.life in registry.adopted for registry in self.registries)
        return 2 * told >= len(self.registries)

    def _is_whole(self) -> bool:
        there = {follower.name for follower in self.followers}
        return all(
            leader.daemon is not None
            and not leader.stopping
            and all(link.standing.in_step for link in leader.links if link.follower in there)
            for leader in self.leaders
        )

    def _is_to_be_adopted(self, life: str) -> bool:
        """More than half of the registries know a follower that has a whole copy, and would let it adopt."""
        if self.is_served(life):
            return False
        return any(
            follower.runs
            and (state := follower.states.get(life)) is not None
            and state.note.complete
            and 2 * sum(self._would_grant(registry, follower, life) for registry in self.registries)
            > len(self.registries)
            for follower in self.followers
        )

    def _would_grant(self, registry: RegistryMachine, follower: NodeFollower, life: str) -> bool:
        known = registry.known.get(life)
        served = any(each.info.stands_in_for == life for each in registry.known.values())
        return (
            not registry.original
            and known is not None
            and follower.identity.hex() in known.followers
            and not served
        )

    def check_whole(self) -> None:
        self.checker.check_kept()
        self.checker.check_records()
        for _ in range(100):
            if not (different := self.different_copies()):
                break
            self.live_quietly(1.0)
        else:
            raise Violation("R11", f"the copies at {different} are not equal to what their leaders have")
        for _ in range(400):
            self.live_quietly(1.0)
            if not self.finish_all():
                break
        self.checker.check_kept()
        self.checker.check_delivered()

    def different_copies(self) -> list[str]:
        there = [leader for leader in self.leaders if leader.daemon is not None]
        return [name for leader in there for name in self.different_from(leader)]


def lived(
    seed: int,
    seconds: float = SECONDS,
    *,
    steps: int | None = None,
    faults: Sequence[Fault] | None = None,
) -> Cluster:
    """A cluster after so long, or so many steps, then without faults, and checked. `Violation`, with its story.

    `faults`: in place of those of the seed.
    """
    with mock.patch("secrets.token_bytes", random.Random(seed).randbytes):
        cluster = Cluster(seed, schedule(seed, seconds) if faults is None else faults)
        try:
            cluster.live(seconds, steps)
            cluster.heal()
            cluster.check_whole()
        except Violation as violation:
            violation.steps = cluster.steps
            violation.add_note("\n".join(cluster.story))
            raise
    return cluster
