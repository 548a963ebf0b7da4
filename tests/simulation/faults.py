"""What goes wrong. Each seed has some of the kinds, and how often is drawn, too.

A schedule is drawn before anything happens, and each fault has its own chance: without one of them the others happen
all the same, at the same moments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from tests.nsqd.replication.simulation.machine import Machine
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import Node

__all__ = ["KINDS", "Fault", "schedule"]


@attrs.frozen
class Fault:
    """`at`: seconds since the begin. `number`: of the schedule, by which its chance is its own."""

    at: float
    kind: str
    number: int

    def happen(self, cluster: Cluster) -> None:
        KINDS[self.kind](cluster, random.Random(f"{cluster.seed} {self.number}"))


def schedule(seed: int, seconds: float, without: Collection[str] = ()) -> list[Fault]:
    """The faults of a seed, in order."""
    chance = random.Random(f"{seed} faults")
    kinds = chance.sample(list(KINDS), chance.choice([1, 2, 3, 5, 8]))
    weights = [chance.choice([1, 1, 3]) for _ in kinds]
    pause = chance.choice([5.0, 15.0, 40.0])
    faults: list[Fault] = []
    at = 20.0 + chance.expovariate(1 / pause)  # the nodes are connected by then
    while at < seconds:
        faults.append(Fault(at, chance.choices(kinds, weights)[0], len(faults)))
        at += chance.expovariate(1 / pause)
    return [fault for fault in faults if fault.kind not in without]


def _duration(cluster: Cluster, chance: random.Random) -> float:
    """Below and above what ends a connection, and what has a copy adopted."""
    factor = chance.choice([0.0, 0.3, 0.6, 1.5, 1.5, 3.0])
    return factor * cluster.adopt_after + chance.choice([0.5, 3.0, 6.0])


def _until(cluster: Cluster, chance: random.Random) -> float:
    return cluster.now + _duration(cluster, chance)


def _kill(cluster: Cluster, chance: random.Random) -> None:
    node = chance.choice(cluster.nodes)
    if node.process is None:
        return
    if chance.random() < 0.4:
        operations = chance.randrange(30)
        cluster.tell(f"{node.name} will be killed after {operations} changes to its disk")
        node.kill_soon(operations)
    else:
        cluster.tell(f"{node.name} is killed")
        node.kill()
    _stay_down(cluster, chance, node)


def _stay_down(cluster: Cluster, chance: random.Random, machine: Machine) -> None:
    if chance.random() < 0.4:
        machine.up_at = _until(cluster, chance)


def _power_loss(cluster: Cluster, chance: random.Random) -> None:
    node = chance.choice(cluster.nodes)
    cluster.tell(f"{node.name} loses power")
    node.power_off()
    _stay_down(cluster, chance, node)


def _wipe(cluster: Cluster, chance: random.Random) -> None:
    node = chance.choice(cluster.nodes)
    if not node.is_busy:
        cluster.tell(f"the disk of {node.name} is wiped")
        cluster.wipe(node)
        _stay_down(cluster, chance, node)


def _sigstop(cluster: Cluster, chance: random.Random) -> None:
    _stop(cluster, chance.choice(cluster.nodes), _until(cluster, chance))


def _sigstop_registry(cluster: Cluster, chance: random.Random) -> None:
    _stop(cluster, chance.choice(cluster.registries), _until(cluster, chance))


def _stop(cluster: Cluster, machine: Machine, until: float) -> None:
    machine.stopped_until = until
    cluster.tell(f"{machine.name} is stopped until {until - cluster.began:.2f}")


def _registry_killed(cluster: Cluster, chance: random.Random) -> None:
    registry = chance.choice(cluster.registries)
    cluster.tell(f"{registry.name} is killed")
    registry.kill()
    _stay_down(cluster, chance, registry)


def _no_registries(cluster: Cluster, chance: random.Random) -> None:
    until = _until(cluster, chance)
    cluster.tell(f"all registries are killed, until {until - cluster.began:.2f}")
    for registry in cluster.registries:
        registry.kill()
        registry.up_at = until


def _pair(cluster: Cluster, chance: random.Random) -> tuple[str, str]:
    """A leader and a follower of it, or a node and a registry."""
    node = chance.choice(cluster.nodes)
    others: Sequence[str] = node.leading.followers if chance.random() < 0.6 else cluster.registry_names
    return node.name, chance.choice(others)


def _cut(cluster: Cluster, chance: random.Random) -> None:
    one, other = _pair(cluster, chance)
    ways = chance.choice([[(one, other)], [(other, one)], [(one, other), (other, one)]])
    cluster.cut(ways, _until(cluster, chance))


def _one_way_from_node(cluster: Cluster, chance: random.Random) -> None:
    """All that a node sends is lost, or all that is sent to it."""
    node = chance.choice(cluster.nodes)
    away = chance.random() < 0.5
    ways = [
        (node.name, other) if away else (other, node.name) for other in cluster.names if other != node.name
    ]
    cluster.cut(ways, _until(cluster, chance))


def _partition(cluster: Cluster, chance: random.Random) -> None:
    """Nodes and registries fall into two groups; the nodes of one may be a single one."""
    node = chance.choice(cluster.nodes)
    group = {node.name}
    if chance.random() < 0.7:
        group |= {name for name in cluster.names if chance.random() < chance.choice([0.2, 0.5])}
    rest = [name for name in cluster.names if name not in group]
    ways = [way for one in sorted(group) for other in rest for way in ((one, other), (other, one))]
    cluster.cut(ways, _until(cluster, chance))


def _flapping(cluster: Cluster, chance: random.Random) -> None:
    one, other = _pair(cluster, chance)
    period, until = chance.choice([1.0, 4.0, 15.0]), _until(cluster, chance) + 20.0
    cluster.tell(
        f"{one} and {other} are cut off for half of each {period:g} s until {until - cluster.began:.2f}"
    )

    def flap() -> None:
        for way in ((one, other), (other, one)):
            cluster.network.cut[way] = cluster.now + period / 2
        if cluster.now < until:
            cluster.later(cluster.now + period, flap)

    flap()


def _break_connection(cluster: Cluster, chance: random.Random) -> None:
    if cluster.network.break_some():
        cluster.tell("a connection breaks")


def _half_open(cluster: Cluster, chance: random.Random) -> None:
    if names := cluster.network.lose_some():
        cluster.tell(
            f"nothing arrives any more on the connection of {names[0]} and {names[1]}, in neither direction"
        )


def _slow(cluster: Cluster, chance: random.Random) -> None:
    way = _pair(cluster, chance)
    way = chance.choice([way, way[::-1]])
    seconds = chance.choice([0.3, 1.0, 4.0, 12.0])
    cluster.network.slow[way] = seconds
    until = _until(cluster, chance)
    cluster.tell(f"from {way[0]} to {way[1]} it takes {seconds} s, until {until - cluster.began:.2f}")

    def no_more() -> None:
        cluster.network.slow.pop(way, None)

    cluster.later(until, no_more)


def _clock(cluster: Cluster, chance: random.Random) -> None:
    cluster.wall_ahead = chance.choice([-3600.0, -30.0, 0.0, 30.0, 3600.0])
    cluster.tell(f"the wall clocks are set to {cluster.wall_ahead:+.0f} s")


def _restart(cluster: Cluster, node: Node, pause: float) -> None:
    if node.leading.daemon is not None:
        cluster.tell(f"{node.name} stops in order, and is started again after {pause:.0f} s")
        node.pause, node.leading.stopping = pause, True


def _stop_in_order(cluster: Cluster, chance: random.Random) -> None:
    _restart(cluster, chance.choice(cluster.nodes), _duration(cluster, chance))


def _rolling_restart(cluster: Cluster, chance: random.Random) -> None:
    """One after the other; each is away for longer than it would take to be adopted, perhaps."""
    cluster.tell("a rolling restart begins")
    pause = chance.choice([1.0, 10.0, 1.5 * cluster.adopt_after])
    for place, node in enumerate(cluster.nodes):

        def restart(node: Node = node) -> None:
            _restart(cluster, node, pause)

        cluster.later(cluster.now + place * (pause + 10.0), restart)


def _half_at_once(cluster: Cluster, chance: random.Random) -> None:
    half = chance.sample(cluster.nodes, (len(cluster.nodes) + 1) // 2)
    until = _until(cluster, chance) + 1.5 * cluster.adopt_after
    cluster.tell(f"{', '.join(node.name for node in half)} are killed, until {until - cluster.began:.2f}")
    for node in half:
        node.kill()
        node.up_at = until


KINDS: Final[dict[str, Callable[[Cluster, random.Random], None]]] = {
    "kill": _kill,
    "power-loss": _power_loss,
    "wipe": _wipe,
    "sigstop": _sigstop,
    "sigstop-registry": _sigstop_registry,
    "registry-killed": _registry_killed,
    "no-registries": _no_registries,
    "cut": _cut,
    "one-way": _one_way_from_node,
    "partition": _partition,
    "flapping": _flapping,
    "break": _break_connection,
    "half-open": _half_open,
    "slow": _slow,
    "clock": _clock,
    "restart": _stop_in_order,
    "rolling-restart": _rolling_restart,
    "half-at-once": _half_at_once,
}
